"""The explorer's form: what is asked, and what becomes of it at Run."""

from __future__ import annotations

import streamlit as st

from tl_scopes.app.page.shared import act, state
from tl_scopes.app.request import MAX_RANK, Request, scopes, whole_position
from tl_scopes.baselines import named
from tl_scopes.errors import ScopesError

SITES = {"all": "every layer", "embed": "input embedding"}
# Label, placeholder, help.
TEXTS = {
    "continuation": ("Answer", "", "The text that follows the prompt; mind the leading space"),
    "target": (
        "Target token",
        "top prediction",
        "Text that is one token, mind the leading space, or id:1234",
    ),
    "versus": ("Versus", "", "What it is compared with"),
}


def run() -> None:
    """What the form holds becomes what is shown."""
    act()
    state.notices = []
    before, typed = state.asked, state.get(f"position {state.position}", "-1").strip()
    same = before is not None and (before.prompt, before.model) == (state.prompt, state.model)
    if before is not None and not same and typed == str(before.position):
        typed = "-1"  # the place that was clicked belongs to another text
    try:
        # Fields that the scope does not use are not drawn, nor kept.
        fields = [name for name in named.takes(state.scope) if name in state]
        state.asked = Request(
            **{name: state[name] for name in ("prompt", "scope", *fields)},
            model=(state.model or "").strip(),
            sites=state.sites or "",
            position=whole_position(typed),
        )
    except ScopesError as error:
        state.asked, state.notices = None, [str(error)]
    state.position = typed


def sites() -> None:
    first: Request = state.first
    names = list(dict.fromkeys([*SITES, first.sites]))
    st.selectbox(
        "Layers or sites",
        names,
        names.index(first.sites),
        key="sites",
        on_change=act,
        format_func=lambda name: SITES.get(name, str(name)),
        accept_new_options=True,
        help="Or type layers and hook names, commas between: embed,6,12",
    )


def form() -> None:
    first: Request = state.first
    # Outside the form, whose fields depend on it.
    with st.container(horizontal=True, vertical_alignment="center", key="scopes"):
        st.radio(
            "Scope",
            names := list(questions := scopes()),
            names.index(first.scope),
            key="scope",
            on_change=act,
            label_visibility="collapsed",
            horizontal=True,
            width="content",
        )
        st.caption(questions[state.scope], width="content")
    taken = named.takes(state.scope)
    spans = "continuation" in taken
    width = 300 if spans else 150
    with st.form("ask", border=False):
        st.text_area("Prompt", first.prompt, key="prompt", height=80)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            for name, (label, usual, hint) in TEXTS.items():
                if name in taken:
                    value = getattr(first, name)
                    st.text_input(label, value, key=name, placeholder=usual, help=hint, width=width)
            if "rank" in taken:
                st.number_input(
                    "Rank",
                    1,
                    MAX_RANK,
                    first.rank,
                    key="rank",
                    width=150,
                    help="How many eigenpairs of the Fisher information are kept",
                )
            if not spans:
                st.text_input(
                    "Read position",
                    state.position,
                    key=f"position {state.position}",
                    width=116,
                    help="-1 is the last token; or click a token below",
                )
            st.form_submit_button("Run", type="primary", on_click=run)
