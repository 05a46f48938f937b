"""Files of an answer, made when somebody asks for them."""

from __future__ import annotations

import io
import threading

from tl_scopes import _cli, render
from tl_scopes.app.request import View
from tl_scopes.errors import RenderError
from tl_scopes.result import Attribution

# matplotlib's caches of fonts and glyphs are not made for several threads.
_drawing = threading.Lock()


def html(found: Attribution, view: View) -> bytes:
    """The self-contained page of every site, in the view's colours."""
    return render.html(found, **view.options()).encode("utf-8")


def png(found: Attribution, view: View) -> bytes:
    """Bars of one site, a map of several. Raises `RenderError` for more than matplotlib can draw."""
    out = io.BytesIO()
    with _drawing:
        try:
            render.figure(found, **view.options()).savefig(out, format="png", dpi=150)
        except ValueError as error:  # its limit is 65,535 pixels
            raise RenderError(
                f"the picture cannot be drawn ({error}): download the HTML for so long a prompt"
            ) from error
    return out.getvalue()


def json(found: Attribution) -> bytes:
    """Every field, as `tl-scopes attribute --json` prints it."""
    return f"{_cli.as_json(found)}\n".encode()
