"""The explorer's conversation mode: a person types, the model answers, and each token of the answer can be
asked what moved it."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from tl_scopes import render
from tl_scopes.app import snippet
from tl_scopes.app.conversation import MAX_LENGTH, SCOPES, Conversation
from tl_scopes.app.page.form import SITES
from tl_scopes.app.page.shared import act, state, worker, working
from tl_scopes.app.settings import Settings
from tl_scopes.results.characters import together
from tl_scopes.results.records import Token


def options() -> None:
    """How the model answers, from the next message on."""
    st.text_input("System message", key="system", on_change=act, help="Of a new conversation")
    st.number_input(
        "Longest answer, in tokens", 1, MAX_LENGTH, Conversation.length, key="length", on_change=act
    )
    st.number_input(
        "Temperature",
        0.0,
        5.0,
        Conversation.temperature,
        step=0.1,
        key="temperature",
        on_change=act,
        help="0 takes the likeliest token each time",
    )
    st.number_input("Seed", 0, None, Conversation.seed, key="seed", on_change=act)
    st.selectbox("What moves", list(SCOPES), key="moves", on_change=act)
    st.selectbox(
        "Layer or sites",
        ["embed", "all"],
        key="places",
        on_change=act,
        format_func=lambda name: SITES.get(name, str(name)),
        accept_new_options=True,
        help="Or type layers and hook names, commas between: embed,6,12",
    )


def speak() -> None:
    """A message was typed."""
    act()
    heard: Conversation | None = state.get("heard")
    system = (("system", state.system),) if state.system.strip() else ()
    state.talk = Conversation(
        (*(heard.messages if heard else system), ("user", state.said)),
        (state.model or "").strip(),
        state.length,
        state.temperature,
        state.seed,
        state.moves,
        state.places or "embed",
    )


def stop() -> None:
    """The answer ends with what was written of it; a message without any is taken back."""
    act()
    written = len(state.words)
    state.talk = replace(state.talk, length=written) if written else state.get("answered")


def forget() -> None:
    act()
    state.talk = state.answered = state.heard = None


def talk(settings: Settings) -> None:
    with st.container():  # at the page's end, its usual place, it would scroll past the answer
        st.chat_input("Say something to the model", key="said", on_submit=speak)
    conversation: Conversation | None = state.get("talk")
    if conversation is None:
        st.caption("Type a message. Then point at a token of the answer to see what moved it.")
        return
    words = state.words = []
    with working("ask for a shorter answer, or start a new conversation", stop) as tell:

        def write(token: Token) -> None:
            words.append(token.text)
            tell(
                f"Writing, {len(words)} of at most {conversation.length} tokens: {together(words)}"
            )

        reply = worker(settings.to_json()).answer(conversation, tell, write)
        tell("")
        state.answered, state.heard = conversation, conversation.said("assistant", reply.text)
        page = render.html(reply.result)
        st.iframe(page, alt="The conversation, and what moved each token of the answer")
        with st.container(horizontal=True):
            st.download_button(
                "Download HTML", page, "conversation.html", "text/html", on_click="ignore"
            )
            st.button("New conversation", on_click=forget)
        with st.expander("Python that makes the same"):
            st.code(snippet.talk(conversation, reply, settings), "python", wrap_lines=True)
    if state.get("answered") != conversation:  # what could not be answered was not said
        state.talk = state.get("answered")
