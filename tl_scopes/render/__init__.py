"""Pictures of results: a web page, a notebook output, terminal text, a matplotlib figure.

Those four take the two kinds of attributions with the same options (see `html`), and a
`FaithfulnessCard` without; `circuit` and `attention` take results of `tl_scopes.circuits`.
`prediction`, `spectrum`, `compare` and `series` are figures of what attributions hold beside scores,
of several of them, and of one over a series of numbers.
Drawing libraries are imported when something is drawn with them. A submodule must not have the
name of a function here: importing it would replace the function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tl_scopes.circuit_result import CircuitResult, Components, Verification
from tl_scopes.errors import RenderError
from tl_scopes.faithfulness import FaithfulnessCard
from tl_scopes.files import write_text
from tl_scopes.flow_result import Flow, FlowPath, HeadPaths
from tl_scopes.render.picture import Result, Site, build

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from tl_scopes.render.comparison import compare
    from tl_scopes.render.predicted import prediction
    from tl_scopes.render.spectra import spectrum
    from tl_scopes.render.timeline import series

__all__ = [
    "Notebook", "attention", "circuit", "compare", "figure", "html", "notebook", "prediction",
    "series", "spectrum", "terminal",
]  # fmt: skip
_HOMES = {
    "compare": "comparison", "prediction": "predicted", "series": "timeline", "spectrum": "spectra"
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


class Notebook:
    """A notebook output. `data`: its HTML, which holds all that it needs (about 1.3 MB)."""

    def __init__(self, data: str) -> None:
        self.data = data

    def _repr_html_(self) -> str:
        return self.data

    def __repr__(self) -> str:
        return f"Notebook({len(self.data)} characters of HTML)"


def html(
    result: Result | FaithfulnessCard,
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
            each read position in place of a row for each site). A `FaithfulnessCard` becomes its
            report, with tables that sort and figures; it takes no option below `path`.
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
    options = _options(scale, normalise, include_bos, include_read, sites, site)
    if isinstance(result, FaithfulnessCard):
        from tl_scopes.render.faithfulness import page as report

        _check_unused(options)
        text = report.page(result)
    else:
        from tl_scopes.render.page import page

        text = page(build(result, **options))
    if path is not None:
        write_text(path, text)
    return text


def notebook(
    result: Result | FaithfulnessCard,
    *,
    scale: str = "linear",
    normalise: str = "site",
    include_bos: bool = False,
    include_read: bool = True,
    sites: Site | Sequence[Site] | None = None,
    site: Site | None = None,
) -> Notebook:
    """A notebook output of `result`, options and errors as in `html`.

    An attribution's carries its own copy of circuitsvis's script (1.3 MB), so that it works offline
    and on its own; outputs on one page do not touch each other.
    """
    options = _options(scale, normalise, include_bos, include_read, sites, site)
    id = f"tls-{uuid4().hex[:12]}"
    if isinstance(result, FaithfulnessCard):
        from tl_scopes.render.faithfulness import page as report

        _check_unused(options)
        return Notebook(report.fragment(result, id))
    from tl_scopes.render.page import fragment

    return Notebook(fragment(build(result, **options), id))


def terminal(
    result: Result | FaithfulnessCard,
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
    there are no colours and no control sequences; the strongest tokens stay as numbers. A
    `FaithfulnessCard` shows its main table and its verdicts.
    """
    options = _options(scale, normalise, include_bos, include_read, sites, site)
    if isinstance(result, FaithfulnessCard):
        from tl_scopes.render.faithfulness import text

        _check_unused(options)
        return text.show(result, console)
    from tl_scopes.render.lines import show

    show(build(result, **options), console)


def figure(
    result: Result | FaithfulnessCard,
    *,
    scale: str = "linear",
    normalise: str = "site",
    include_bos: bool = False,
    include_read: bool = True,
    sites: Site | Sequence[Site] | None = None,
    site: Site | None = None,
    dark: bool = False,
    kind: str | None = None,
) -> Figure:
    """A matplotlib figure of `result`, options and errors as in `html`.

    Bars over the tokens for one row, a rows-by-tokens map for several. The figure belongs to no
    window, no pyplot state and no style that is set; `.savefig(path)` writes it, as vectors to .svg
    and .pdf.

    `dark`: light ink on a dark ground, for slides and pages that are dark.

    `kind`: which figure of a `FaithfulnessCard`, which takes no other option: "aopc" (the default),
    "agreement" (with leave-one-out), "curves", "kl" or "flip" (by the share of tokens),
    "comparisons" (all pairs), "randomisation", "stability" or "spectrum". Raises `RenderError` for
    one that the card holds nothing of.
    """
    from tl_scopes.render.ground import grounded

    options = _options(scale, normalise, include_bos, include_read, sites, site)
    if isinstance(result, FaithfulnessCard):
        from tl_scopes.render.faithfulness import figures

        _check_unused(options)
        card, chosen = result, "aopc" if kind is None else kind
        return grounded(lambda: figures.draw(card, chosen), dark)
    if kind is not None:
        raise RenderError(
            f"kind={kind!r} chooses a figure of a FaithfulnessCard; got a {type(result).__name__}: "
            "leave it out"
        )
    from tl_scopes.render.plots import draw

    picture = build(result, **options)
    return grounded(lambda: draw(picture), dark)


def circuit(result: CircuitResult, **options: Any) -> Figure:
    """A matplotlib figure of a circuit, with options of its own for each kind of result.

    Numbers are in the results' own units; signed ones in blue above zero and red below. Tokens
    after the read position, which cannot matter, are not drawn.

    Args:
        result: what a function of `tl_scopes.circuits` returned.
        options: of `Components` (a grid [layer, head] of effects over all tokens, beside it those
            of MLPs; without heads a map of components by tokens):
                what: `"total"`, `"direct"` or `"sensitivity"` (root of the sum of squares over
                    positions; for several vectors the sum, as they are squares).
                over: `"heads"` or `"tokens"` (a map: the `top` components with the largest sums by
                    the positions they write at).
                top: how many components a map shows (24).
            of `HeadPaths` (a grid of what passes through each head, beside it what passes outside):
                values: `"norms"` or `"signed"`.
                part: `"all"`, or the `"value"` or `"pattern"` path alone where they were split.
                source: the position of one source token; None for the sum over all.
                over: `"heads"` or `"tokens"` (a map: the `top` heads by source tokens).
                top: how many heads a map shows (24).
            of `Flow` (a matrix of through-positions by source tokens, over it the tokens' scores):
                values: `"share"`, `"signed"` or `"norms"`.
            of `FlowPath` (bands between layers as wide as what flows; blue adds, red takes away):
                min_share: bands of a smaller share of their step's flow are left out, and their
                    share of all flow is written below (0.01).
            of `Verification` (predicted against measured changes; error over step size):
                top: how many of the largest are named (8).
            of all but `FlowPath`: scale: `"linear"` or `"log"`, as in `html`.
            of all but `Verification`: include_bos: whether BOS, an attention sink, takes part in
                the colours (False: hatched; grey bands); sums over tokens always hold it.
            of all: dark: as in `figure`.

    Returns a figure that belongs to no window and no pyplot state; `.savefig(path)` writes it.
    Raises `RenderError` for an unknown option or value, or a result that cannot be drawn (nothing
    in it, or NaN).
    """
    from tl_scopes.render.bands import draw_flow_path
    from tl_scopes.render.checked import draw_verification
    from tl_scopes.render.flows import draw_flow
    from tl_scopes.render.ground import grounded
    from tl_scopes.render.heads import draw_components, draw_head_paths

    known: dict[type, Callable[..., Figure]] = {
        Components: draw_components,
        HeadPaths: draw_head_paths,
        Flow: draw_flow,
        FlowPath: draw_flow_path,
        Verification: draw_verification,
    }
    kind = next((each for each in known if isinstance(result, each)), None)
    if kind is None:
        names = ", ".join(each.__name__ for each in known)
        raise RenderError(
            f"got a {type(result).__name__}; only a result of tl_scopes.circuits can be drawn as a "
            f"circuit ({names}): pass one, or call render.figure for an attribution"
        )
    dark = options.pop("dark", False)
    allowed = [name for name in inspect.signature(known[kind]).parameters if name != "result"]
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise RenderError(
            f"{unknown[0]}={options[unknown[0]]!r} is no option for a {kind.__name__}; it takes "
            f"{', '.join(allowed)}: pass some of these"
        )
    return grounded(lambda: known[kind](result, **options), dark)


def attention(
    result: Flow | HeadPaths, path: str | Path | None = None, *, fragment: bool = False
) -> str:
    """One self-contained web page of a flow or of head paths (about 1.3 MB; it fetches nothing).

    A `Flow` becomes circuitsvis's attention view, with through-positions as destinations, in three
    charts: norm shares, signed shares and norms. `HeadPaths` have no destinations: they become
    circuitsvis's coloured tokens with a series for each of the 24 heads with the largest norms, and a
    map of the same.

    Args:
        result: what `tl_scopes.circuits.flow` or `head_paths` returned.
        path: where to write the page too, atomically. The folder must exist.
        fragment: whether to return what a notebook output needs in place of a whole page.

    Raises `RenderError` for another kind of result, or one that cannot be drawn.
    """
    from tl_scopes.render import patterns

    if not isinstance(result, (Flow, HeadPaths)):
        raise RenderError(
            f"got a {type(result).__name__}; only a Flow or HeadPaths can be drawn as attention: "
            "pass one of these, or call render.circuit"
        )
    id = f"tls-{uuid4().hex[:12]}"
    text = patterns.fragment(result, id) if fragment else patterns.document(result)
    if path is not None:
        write_text(path, text)
    return text


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


def _check_unused(options: dict[str, Any]) -> None:
    """A report has no colour scale over tokens, and no sites."""
    parameters = inspect.signature(html).parameters
    for name, value in options.items():
        if value != parameters[name].default:
            raise RenderError(f"{name}={value!r} is no option for a FaithfulnessCard: leave it out")
