"""The page of `tl-scopes app`, which Streamlit runs from top to bottom at every click.

What people type is shown by `st.html` of escaped text, or by the component, which makes text nodes:
Streamlit's own messages are Markdown, which would draw links and pictures."""

from __future__ import annotations

import functools
import sys
from dataclasses import asdict, replace
from pathlib import Path

import streamlit as st
from streamlit.components.v2 import component

from tl_scopes.app.page.form import form, sites
from tl_scopes.app.page.shared import act, models, say, worker, working
from tl_scopes.app.page.talk import options, talk
from tl_scopes.app.request import SCALES, Request, View, link, read, write
from tl_scopes.app.settings import Settings
from tl_scopes.app.snippet import python
from tl_scopes.app.view_model import FILES, view_model
from tl_scopes.errors import ScopesError
from tl_scopes.results.attribution import Attribution

EXAMPLE = "The Eiffel Tower is located in the city of"
HERE = Path(__file__).parent
MODES = ("Next token", "Conversation")
state = st.session_state


def begin(settings: Settings) -> None:
    """Once a visit, and at the browser's Back: the widgets' first values, from the page's address."""
    usual = Request(prompt=EXAMPLE, model=settings.offered[0])
    query = st.query_params.to_dict()
    request, view, errors = read(query, usual)
    notices = [str(error) for error in errors]
    linked = bool(query.keys() & {"prompt", "scope", "target", "versus", "position"})
    if request.model not in settings.offered:
        try:
            settings.check_model(request.model)
            # A link must not make this machine fetch a model that nobody here asked for.
            notices.append(
                f"this link names the model {request.model!r}, which is not in the list: press Run "
                "if you want to load it"
            )
        except ScopesError as error:
            notices.append(str(error))
            request = replace(request, model=usual.model)
        linked = False
    elif linked and not (linked := worker(settings.to_json()).is_cheap(request)):
        notices.append("press Run to compute what this link asks")
    # Widgets take these as their defaults at every run: a value that is set once, through the session's
    # state, is lost to the browser where the first run was cut short.
    state.first, state.view = request, view
    state.position, state.site, state.slid = str(request.position), view.site, view.site
    state.turn = state.get("turn", 0) + 1
    state.asked, state.notices, state.written = request if linked else None, notices, query


def again(settings: Settings) -> None:
    """The browser went back or forth to an address: widgets that are there take its values too."""
    begin(settings)
    for name, value in asdict(state.first).items():
        if name != "position":  # whose widget has another key at each place
            state[name] = value


def read_there() -> None:
    """A token was clicked."""
    act()
    chosen = state.tokens.read
    if state.asked is None or state.asked.continuation:
        return  # read at every token of the answer
    if isinstance(chosen, int) and not isinstance(chosen, bool):
        state.asked, state.position = replace(state.asked, position=chosen), str(chosen)


def look_there() -> None:
    """A row of the map was clicked."""
    act()
    if isinstance(state.tokens.site, str):
        state.site = state.tokens.site
        state.turn += 1


def switch() -> None:
    """The other mode was chosen; the form comes back as it was asked last."""
    act()
    state.first = state.asked or state.first


def slide() -> None:
    act()
    state.site = state[f"site {state.turn}"]


@functools.cache
def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def looked_at(result: Attribution) -> View:
    """The widgets beside the picture: which site, which colours."""
    first, *others = result.sites
    if state.site not in result.sites:
        if state.site:
            say(f"this result has no site {state.site!r}: {first} is shown", "status")
        state.site = first
    # Other widgets, which start with what was seen last: Streamlit forgets those that a mistake kept from
    # being drawn.
    if state.slid not in result.sites or f"scale {state.turn}" not in state:
        state.slid, state.usual = state.site, state.view
        state.turn += 1
    usual, turn = state.usual, state.turn
    with st.container(horizontal=True, vertical_alignment="bottom", key="look"):
        if others:
            st.select_slider(
                "Layer", result.sites, state.slid, key=f"site {turn}", on_change=slide, width=420
            )
        colours = st.popover("Colours")
    with colours:
        scale = st.segmented_control(
            "Colours",
            SCALES,
            default=usual.scale,
            required=True,
            key=f"scale {turn}",
            on_change=act,
        )
        include_read = st.toggle(
            "Colour read",
            usual.include_read,
            key=f"read {turn}",
            on_change=act,
            help="Deep layers put most on it",
        )
        include_bos = result.has_bos and st.toggle(
            "Colour BOS",
            usual.include_bos,
            key=f"bos {turn}",
            on_change=act,
            help="An attention sink: it often takes most",
        )
    site = "" if state.site == first else state.site
    state.view = View(site, scale, include_bos, include_read)
    return state.view


def show(result: Attribution, request: Request, settings: Settings) -> None:
    view = looked_at(result)
    drawn = component("tl_scopes_tokens", css=_asset("tokens.css"), js=_asset("tokens.js"))
    drawn(
        key="tokens",
        data=view_model(result, view),
        on_read_change=read_there,
        on_site_change=look_there,
    )
    with st.container(horizontal=True):
        for name, (mime, make) in FILES.items():
            st.download_button(
                f"Download {name.upper()}",
                functools.partial(make, result, view),
                f"scope.{name}",
                mime,
                key=f"download_{name}",
                on_click="ignore",
            )
    query = write(request, view)
    address = link((st.context.url or "").rstrip("/") + "/", query)
    state.written = query if address else {}
    st.query_params.from_dict(state.written)
    with st.expander("Python that makes the same"):
        st.code(python(request, view, settings), "python", wrap_lines=True)
    with st.expander("Link to this page as it is"):
        if address:
            st.code(address, None, wrap_lines=True)
        else:
            say("the prompt is too long for a link: save the Python or the JSON", "status")


def main() -> None:
    st.set_page_config("Jacobian Scopes", layout="wide")
    settings = Settings.from_json(sys.argv[1]) if len(sys.argv) > 1 else Settings()
    if "asked" not in state:
        begin(settings)
    elif not state.acted and st.query_params.to_dict() != state.written:
        again(settings)
    state.acted = False
    st.html(f"<style>{_asset('page.css')}</style>")
    with st.container(horizontal=True, horizontal_alignment="distribute", key="top"):
        st.subheader("Jacobian Scopes", anchor=False, width="content")
        mode = st.segmented_control(
            "Mode",
            MODES,
            default=MODES[0],
            required=True,
            key="mode",
            on_change=switch,
            label_visibility="collapsed",
        )
        talks = mode == MODES[1]
        with st.popover("Model and answers" if talks else "Model and layers"):
            models(settings)
            (options if talks else sites)()
    if talks:
        talk(settings)
    else:
        attribute(settings)


def attribute(settings: Settings) -> None:
    """The form, and what was asked by it last."""
    form()
    for notice in state.notices:
        say(notice)
    request: Request | None = state.asked
    if request is None:
        st.caption("Press Run. Then click a token to read the prediction that comes after it.")
        return
    with working("use a shorter prompt, fewer sites or a lower rank") as tell:
        result = worker(settings.to_json()).answer(request, tell)
        tell("")
        show(result, request, settings)


main()
