"""Files of an answer, made when somebody asks for them."""

from __future__ import annotations

import io
import threading

from tl_scopes import render
from tl_scopes.app.request import View
from tl_scopes.results.attribution import Attribution

# matplotlib's caches of fonts and glyphs are not made for several threads.
_drawing = threading.Lock()
# The most that matplotlib can draw either way.
_PIXELS = 65_000


def html(found: Attribution, view: View) -> bytes:
    """The self-contained page of every site, in the view's colours."""
    return render.html(found, **view.options()).encode("utf-8")


def png(found: Attribution, view: View) -> bytes:
    """Bars of one site, a map of several; of a very long prompt in fewer dots an inch."""
    out = io.BytesIO()
    with _drawing:
        figure = render.figure(found, **view.options())
        figure.savefig(out, format="png", dpi=min(150, _PIXELS / max(figure.get_size_inches())))
    return out.getvalue()


def json(found: Attribution) -> bytes:
    """Every field, as `tl-scopes attribute --json` prints it."""
    return f"{found.to_json()}\n".encode()
