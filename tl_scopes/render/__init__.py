"""Pictures of results: a web page, a notebook output, terminal text, a matplotlib figure.

All four take the same options (see `html`) and the two kinds of result. Drawing libraries are
imported when something is drawn with them. A submodule must not have the name of a function here:
importing it would replace the function.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tl_scopes.render.picture import Result, Site, build

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

__all__ = ["Notebook", "figure", "html", "notebook", "terminal"]


class Notebook:
    """A notebook output. `data`: its HTML, which holds all that it needs (about 1.3 MB)."""

    def __init__(self, data: str) -> None:
        self.data = data

    def _repr_html_(self) -> str:
        return self.data

    def __repr__(self) -> str:
        return f"Notebook({len(self.data)} characters of HTML)"


def html(
    result: Result,
    path: str | Path | None = None,
    *,
    scale: str = "linear",
    normalise: str = "site",
    include_bos: bool = False,
    include_read: bool = True,
    sites: Site | Sequence[Site] | None = None,
    site: Site | None = None,
) -> str:
    """One self-contained web page of `result` (about 1.3 MB; it fetches nothing).

    Args:
        result: an `Attribution`, or a `SequenceAttribution` (drawn at one site, with a row for
            each read position in place of a row for each site).
        path: where to write it too, atomically. The folder must exist.
        scale: `"linear"` colours from 0 to the largest score, `"log"` over 1 to 4 whole decades
            below it. Numbers beside the colours are scores in `result.units` under both.
        normalise: `"site"` colours each site (each read position of a sequence) by its own
            largest score, `"all"` all by the largest of all. Deep layers concentrate on the read
            position: `"site"`, perhaps without it, shows what else moves.
        include_bos: whether BOS, an attention sink, takes part in the colours. It shows anyway.
        include_read: whether the read position takes part in the colours. It shows anyway.
        sites: labels or indices of the sites to draw, in this order; None for all of them (for a
            `SequenceAttribution`: the first).
        site: the same for one site.

    Returns the page. Raises `RenderError` for an unknown option value or a result that cannot be
    drawn (nothing in it, or NaN), `SiteError` for a site that it does not hold.
    """
    from tl_scopes.render.page import page

    text = page(build(result, **_options(scale, normalise, include_bos, include_read, sites, site)))
    if path is not None:
        _write(Path(path), text)
    return text


def notebook(
    result: Result,
    *,
    scale: str = "linear",
    normalise: str = "site",
    include_bos: bool = False,
    include_read: bool = True,
    sites: Site | Sequence[Site] | None = None,
    site: Site | None = None,
) -> Notebook:
    """A notebook output of `result`, options and errors as in `html`.

    Each output carries its own copy of circuitsvis's script (1.3 MB), so that it works offline
    and on its own; outputs on one page do not touch each other.
    """
    from tl_scopes.render.page import fragment

    options = _options(scale, normalise, include_bos, include_read, sites, site)
    return Notebook(fragment(build(result, **options), f"tls-{uuid4().hex[:12]}"))


def terminal(
    result: Result,
    *,
    console: Console | None = None,
    scale: str = "linear",
    normalise: str = "site",
    include_bos: bool = False,
    include_read: bool = True,
    sites: Site | Sequence[Site] | None = None,
    site: Site | None = None,
) -> None:
    """Print `result` with rich (to `console`, or standard output); as in `html` otherwise.

    One site shows its tokens in colour, several a line each. Without a terminal (a pipe, a file)
    there are no colours and no control sequences; the strongest tokens stay as numbers.
    """
    from tl_scopes.render.lines import show

    show(
        build(result, **_options(scale, normalise, include_bos, include_read, sites, site)), console
    )


def figure(
    result: Result,
    *,
    scale: str = "linear",
    normalise: str = "site",
    include_bos: bool = False,
    include_read: bool = True,
    sites: Site | Sequence[Site] | None = None,
    site: Site | None = None,
) -> Figure:
    """A matplotlib figure of `result`, options and errors as in `html`.

    Bars over the tokens for one row, a rows-by-tokens map for several. The figure belongs to no
    window and no pyplot state; `.savefig(path)` writes it.
    """
    from tl_scopes.render.plots import draw

    return draw(build(result, **_options(scale, normalise, include_bos, include_read, sites, site)))


def _options(
    scale: Any, normalise: Any, bos: Any, read: Any, sites: Any, site: Any
) -> dict[str, Any]:
    return {
        "scale": scale,
        "normalise": normalise,
        "include_bos": bos,
        "include_read": read,
        "sites": sites,
        "site": site,
    }


def _write(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
