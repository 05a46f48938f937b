"""What both modes of the explorer need: its worker, its messages, the choice of a model."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterator

import streamlit as st

from tl_scopes.app.request import Request
from tl_scopes.app.settings import Settings
from tl_scopes.app.worker import Tell, Worker
from tl_scopes.models.quiet import message_of

state = st.session_state


def act() -> None:
    """Every widget's callback says so: only a run without one may follow the page's address, which a
    browser that is quick to click sends as it was before."""
    state.acted = True


@st.cache_resource(show_spinner=False)
def worker(settings: str) -> Worker:
    return Worker(Settings.from_json(settings))


def say(text: str, kind: str = "alert") -> None:
    """One message, whatever characters it holds. `kind`: alert or status."""
    colour = "#c2410c" if kind == "alert" else "#3b6fd6"
    st.html(
        f'<div role="{kind}" style="border-left:4px solid {colour};padding:.4rem .8rem;'
        f'overflow-wrap:anywhere;white-space:pre-wrap">{html.escape(text)}</div>'
    )


@contextlib.contextmanager
def working(advice: str, stop: Callable[[], None] | None = None) -> Iterator[Tell]:
    """A place that tells how far the work is, and at last its error; an empty text clears it.

    `advice`: where memory ran out. `stop`: what a button does that stands there meanwhile.
    """
    place, button = st.empty(), st.empty()
    drawn = False

    def tell(text: str) -> None:
        nonlocal drawn
        if not text:
            place.empty()
            button.empty()
            return
        with place:
            say(text, "status")
        if stop is not None and not drawn:
            button.button("Stop", on_click=stop)
            drawn = True

    try:
        yield tell
    except Exception as error:
        message = message_of(error, advice)
        if message is None:
            raise
        button.empty()
        with place:
            say(" ".join(message.split()))


def models(settings: Settings) -> None:
    first: Request = state.first
    names = list(dict.fromkeys([*settings.offered, first.model]))
    st.selectbox(
        "Model",
        names,
        names.index(first.model),
        key="model",
        on_change=act,
        accept_new_options=settings.naming,
        help="A bundled model"
        + (", a Hugging Face folder, or a name that transformer-lens knows" * settings.naming),
    )
