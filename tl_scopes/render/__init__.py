"""Pictures of results: a web page, a notebook output, terminal text, a matplotlib figure.

`html`, `notebook`, `terminal` and `figure` take every result. Which drawing they choose depends on the
type of the result, by the tables of `render.drawings`. `circuit` and `attention` are the same for the results of
`tl_scopes.circuits` alone. `prediction`, `spectrum`, `compare` and `series` are figures of what
attributions hold beside scores, of several of them, and of one over a series of numbers.

Drawing libraries are imported when something is drawn with them. A submodule must not have the
name of a function here: importing it would replace the function.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tl_scopes.errors import RenderError
from tl_scopes.render.drawings import FIGURES, PAGES, TERMINALS, drawing
from tl_scopes.results.base import Result
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.circuit_card import CircuitCard
from tl_scopes.results.circuits import CircuitResult
from tl_scopes.results.files import write_text
from tl_scopes.results.flows import Flow, HeadPaths

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from tl_scopes.render.figures.comparison import compare
    from tl_scopes.render.figures.prediction import prediction
    from tl_scopes.render.figures.series import series
    from tl_scopes.render.figures.spectrum import spectrum

__all__ = [
    "Notebook", "attention", "circuit", "compare", "figure", "html", "notebook", "prediction",
    "series", "spectrum", "terminal",
]  # fmt: skip
_HOMES = {
    "compare": "comparison", "prediction": "prediction", "series": "series", "spectrum": "spectrum"
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.figures.{_HOMES[name]}"), name)


class Notebook:
    """A notebook output. `data`: its HTML, which holds all that it needs."""

    def __init__(self, data: str) -> None:
        self.data = data

    def _repr_html_(self) -> str:
        return self.data

    def __repr__(self) -> str:
        return f"Notebook({len(self.data)} characters of HTML)"


def html(result: Result, path: str | Path | None = None, **options: Any) -> str:
    """Make one self-contained web page of `result`; it fetches nothing.

    The page of an `Attribution` holds circuitsvis's script (1.3 MB). That of a `SequenceAttribution` is
    there to be pointed at: a token is shown by what moved it, several by their sum (or the root of the
    sum of their squares, where scores are norms), all together when nothing is chosen. It holds two bytes
    a score, which keep a score to 1/2000 of itself. An `Attribution` of a continuation or a conversation
    has such a page too, in which there is only one thing to be shown. A conversation is drawn turn by
    turn, an answer apart from its prompt; reads before an answer are left out.

    Args:
        result: any result of this package.
        path: where to write the page too, atomically. The folder must exist.
        options: of an `Attribution`, or a `SequenceAttribution` (`figure` and `terminal` draw it at one
            site, with a row for each read position in place of a row for each site):
                scale: `"linear"` colours from 0 to the largest score, `"log"` over 1 to 4 whole
                    decades below it. Numbers beside the colours are scores in `result.units` under both.
                normalise: `"site"` colours each site (each read position of a sequence) by its own
                    largest score, `"all"` all by the largest of all. Deep layers concentrate on the
                    read position: `"site"`, perhaps without it, shows what else moves.
                include_bos: whether BOS, an attention sink, takes part in the colours (False). It
                    shows anyway.
                include_read: whether the read position takes part in the colours (True). It shows
                    anyway.
                sites: labels or indices of the sites to draw, in this order; None for all of them
                    (for the figure of a `SequenceAttribution`, and in a terminal: the first).
                site: the same for one site.
                substitutions: of the page of an `Attribution`: what `tl_scopes.substitutions` returned for
                    the same prompt, whose three strongest show where a token is pointed at.
            of a result of `tl_scopes.circuits` that is shown by its figure: those of `circuit`.
                A `Flow` and `HeadPaths` have pages of their own, without options: see `attention`.
            of a `FaithfulnessCard`, a `CircuitCard` or a `CircuitStability`, which become reports with
                tables that sort and figures: none.

    Returns the page. Raises `RenderError` for an unknown option or value or a result that cannot be
    drawn (nothing in it, or NaN), `SiteError` for a site that it does not hold.

        >>> html(attribution, "page.html", scale="log", include_read=False)
    """
    from tl_scopes.render.pages.page import document

    page = document(*drawing(PAGES, result, options)("tls"))
    if path is not None:
        write_text(path, page)
    return page


def notebook(result: Result, **options: Any) -> Notebook:
    """Make a notebook output of `result`. Options and errors are those of `html`.

    An attribution's output carries its own copy of what it needs (1.3 MB where circuitsvis draws it), so
    that it works offline and on its own. Outputs on one page do not touch each other.

        >>> notebook(attribution, scale="log")
    """
    _, fragment = drawing(PAGES, result, options)(f"tls-{uuid4().hex[:12]}")
    return Notebook(fragment)


def terminal(result: Result, *, console: Console | None = None, **options: Any) -> None:
    """Print `result` with rich (to `console`, or standard output).

    Options and errors are those of `html`. One site of an attribution shows its tokens in colour,
    several a line each. Without a terminal (a pipe, a file) there are no colours and no control
    sequences; the strongest tokens stay as numbers. A result of `tl_scopes.circuits` shows its largest
    entries, a card its main table and its verdicts; these take no option.

        >>> terminal(attribution, site="embed")
    """
    drawing(TERMINALS, result, options)(console)


def figure(result: Result, *, dark: bool = False, **options: Any) -> Figure:
    """Draw a matplotlib figure of `result`.

    Args:
        result: any result of this package. An attribution shows bars over the tokens for one row, a
            map of rows by tokens for several: of a `SequenceAttribution` with an answer, the matrix of
            answer tokens by source tokens.
        dark: light ink on a dark ground, for slides and pages that are dark.
        options: of attributions: those of `html`. Of results of `tl_scopes.circuits`: those of
            `circuit`. Of a `Circuit` (its nodes by layer, heads and MLPs or position roles beside each
            other): top: how many of its edges are drawn, the strongest first (150). Of
            effects over pairs:
                over: "rows" (bars of the `top` largest means, 24, with 95% intervals) or "heads" (a
                    grid [layer, head]).
                role: the position role that is shown; None for all together.
            Of `Substitutions` (bars of the strongest, circles where they were measured): top: how many (24).
            Of a `FaithfulnessCard`:
                kind: "aopc" (the default), "agreement" (with leave-one-out), "curves", "kl" or "flip"
                    (by the share of tokens), "comparisons" (all pairs), "randomisation", "stability"
                    or "spectrum".
            Of a `CircuitCard`: kind: "faithfulness" (the default), "nodes", "edges" or "stability".

    Returns a figure that belongs to no window, no pyplot state and no style that is set;
    `.savefig(path)` writes it, as vectors to .svg and .pdf. Raises `RenderError` for an unknown option
    or value, a result that cannot be drawn (nothing in it, or NaN), and a kind that the card holds
    nothing of; `SiteError` for a site that the result does not hold.

        >>> figure(attribution, scale="log").savefig("scores.pdf")
        >>> figure(card, kind="curves", dark=True)
    """
    from tl_scopes.render.figures.ground import grounded

    return grounded(drawing(FIGURES, result, options), dark)


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

        >>> circuit(components, over="tokens", top=12).savefig("components.svg")
    """
    if not isinstance(result, CircuitResult):
        raise RenderError(
            f"got a {type(result).__name__}; only a result of tl_scopes.circuits can be drawn as a "
            "circuit: pass one, or call render.figure"
        )
    return figure(result, **options)


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

    Returns the page. Raises `RenderError` for another kind of result, or one that cannot be drawn.

        >>> attention(flow, "flow.html")
    """
    if not isinstance(result, (Flow, HeadPaths)):
        raise RenderError(
            f"got a {type(result).__name__}; only a Flow or HeadPaths can be drawn as attention: "
            "pass one of these, or call render.circuit"
        )
    if not fragment:
        return html(result, path)
    text = notebook(result).data
    if path is not None:
        write_text(path, text)
    return text


def markdown(card: FaithfulnessCard | CircuitCard, path: str | Path | None = None) -> str:
    """Make the report of a card as Markdown, tables alone, and write it to `path` if given."""
    text = import_module(f"{__name__}.report.markdown").markdown(card)
    if path is not None:
        write_text(path, text)
    return text
