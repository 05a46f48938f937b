"""Several attributions of one prompt over the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError
from tl_scopes.render.canvas import EMPTY, FAINT
from tl_scopes.render.ground import grounded
from tl_scopes.render.picture import Picture, Row, Site, build, one_of
from tl_scopes.render.plots import (
    SOFT,
    NotebookFigure,
    caption,
    css,
    draw_heights,
    label_tokens,
    write,
)
from tl_scopes.render.scale import number
from tl_scopes.render.tokens import clipped, words
from tl_scopes.render.wording import DOT, distinct
from tl_scopes.result import Attribution

MOST = 12
BARS_UP_TO, BAR_LINE, MAP_LINE = 48, 48, 64


@dataclass(frozen=True)
class Line:
    """One attribution of the comparison. `agreement`: its rank correlation with the first."""

    name: str
    row: Row
    units: str
    agreement: float | None

    @property
    def heading(self) -> str:
        parts = [clipped_words(self.name, 64), self.units]
        if self.agreement is not None:
            parts.append(f"rank correlation with the first {number(round(self.agreement, 2))}")
        return DOT.join(parts)


def compare(
    results: Sequence[Attribution],
    labels: Sequence[str] | None = None,
    *,
    kind: str | None = None,
    scale: str = "linear",
    include_bos: bool = False,
    include_read: bool = True,
    site: Site | None = None,
    dark: bool = False,
) -> Figure:
    """Attributions of one prompt below each other, each with the units and the scale of its own.

    Args:
        results: two to twelve of the same tokens, or of the same groups of tokens.
        labels: a name for each; None: what tells them apart.
        kind: `"bars"`, or `"map"` (a coloured line for each); None: bars up to 48 tokens.
        site: which site of each, a label or an index; None: the first.
        scale, include_bos, include_read, dark: as in `tl_scopes.render.figure`.

    Written beside each name: Spearman's rank correlation with the first result over the tokens that
    both have in their colours. Returns a figure as `tl_scopes.render.figure` does. Raises
    `RenderError` for results of other tokens, too few or too many, or an unknown option.
    """
    one_of("kind", kind, (None, "bars", "map"))
    if isinstance(results, Attribution) or not all(isinstance(x, Attribution) for x in results):
        raise RenderError(
            "only a list of Attributions of one prompt can be compared: pass results of "
            "tl_scopes.attribute, or .at(position) of a sequence"
        )
    results = list(results)
    if not 2 <= len(results) <= MOST:
        raise RenderError(f"got {len(results)} results; 2 to {MOST} can be compared: pass so many")
    first = results[0]
    for i, other in enumerate(results):
        if other.str_tokens != first.str_tokens:
            raise RenderError(
                f"results 0 and {i} are of different tokens ({len(first.str_tokens)} and "
                f"{len(other.str_tokens)}); one prompt, grouped in one way, can be compared"
            )
    names = distinct(results, labels)
    options = {"scale": scale, "include_bos": include_bos, "include_read": include_read}
    pictures = [build(x, site=0 if site is None else site, **options) for x in results]
    rows = [picture.rows[0] for picture in pictures]
    lines = [
        Line(name, row, picture.units, agreement(rows[0], row) if i else None)
        for i, (name, row, picture) in enumerate(zip(names, rows, pictures))
    ]
    bars = kind == "bars" or (kind is None and len(first.str_tokens) <= BARS_UP_TO)
    return grounded(lambda: (_bars if bars else _map)(pictures[0], lines), dark)


def agreement(a: Row, b: Row) -> float | None:
    """Spearman's rank correlation over the tokens that both have in colour; None: it has none."""
    from scipy.stats import rankdata

    both = a.included & b.included
    x, y = (rankdata(row.scores[both]) for row in (a, b))
    if both.sum() < 3 or x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def clipped_words(name: str, length: int) -> str:
    shown = words(name)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def _bars(picture: Picture, lines: list[Line]) -> Figure:
    n, k = len(picture.tokens), len(lines)
    blocks = -(-n // BAR_LINE)
    per = -(-n // blocks)
    width = max(0.21 * per + 1.6, 7.0)
    size = (width, min((1.15 * k + 1.0) * blocks + 0.9, 40.0))
    figure = NotebookFigure(figsize=size, layout="constrained")
    axes = figure.subplots(k * blocks, 1, squeeze=False)[:, 0]
    for i in range(blocks):
        span = np.arange(i * per, min((i + 1) * per, n))
        block = axes[i * k : (i + 1) * k]
        for ax, line in zip(block, lines):
            draw_heights(ax, line.row, span)
            ax.set_xlim(span[0] - 0.7, span[0] + per - 0.3)
            ax.set_xticks([])
            ax.tick_params(axis="y", labelsize=7)
            if ax.get_yscale() == "linear":
                ax.locator_params(axis="y", nbins=3)
            ax.spines[["top", "right"]].set_visible(False)
            if i == 0:
                _head(ax, line, span, width)
        label_tokens(block[-1], picture, span, lines[0].row, one_read(lines))
    _say(figure, picture, lines)
    return figure


def _map(picture: Picture, lines: list[Line]) -> Figure:
    n, k = len(picture.tokens), len(lines)
    blocks = -(-n // MAP_LINE)
    per = -(-n // blocks)
    size = (max(0.2 * per + 4.0, 7.0), min((0.24 * k + 1.25) * blocks + 1.5, 40.0))
    figure = NotebookFigure(figsize=size, layout="constrained")
    signed = any(line.row.scale.signed for line in lines)
    low = -1.0 if signed else 0.0
    ends = [css(float(x)) for x in np.linspace(low, 1.0, 129)]
    ramp = LinearSegmentedColormap.from_list("tl_scopes", ends)
    values = np.array([line.row.colours for line in lines])
    plain = ~np.array([line.row.included for line in lines])
    names = [clipped_words(line.name, 34) for line in lines]
    axes = figure.subplots(blocks, 1, squeeze=False)[:, 0]
    for i, ax in enumerate(axes):
        span = np.arange(i * per, min((i + 1) * per, n))
        edges = (span[0] - 0.5, span[-1] + 0.5)
        ax.axvspan(*edges, facecolor=EMPTY, hatch="////", edgecolor=FAINT, linewidth=0, zorder=-1)
        ax.imshow(
            np.ma.array(values[:, span], mask=plain[:, span]), aspect="auto", cmap=ramp, vmin=low,
            vmax=1.0, interpolation="nearest", extent=(*edges, k - 0.5, -0.5),
        )  # fmt: skip
        for edge in np.arange(0.5, k - 1):
            ax.plot(edges, (edge, edge), color="#ffffff", linewidth=2, solid_capstyle="butt")
        ax.set_xlim(span[0] - 0.5, span[0] + per - 0.5)
        ax.set_ylim(k - 0.5, -0.5)
        ax.spines[:].set_visible(False)
        label_tokens(ax, picture, span, lines[0].row, one_read(lines))
        ax.set_yticks(range(k), names)
        for text, name in zip(ax.get_yticklabels(), names):
            write(text, name, size=8)
        ax.tick_params(length=0)
    aspect = max(8.0, (0.24 * k + 1.0) * blocks / 0.14)
    bar = figure.colorbar(axes[0].images[0], ax=list(axes), fraction=0.03, pad=0.02, aspect=aspect)
    bar.set_ticks([low, 0.0, 1.0] if signed else [0.0, 1.0],
                  labels=["−max", "0", "max"] if signed else ["low" if picture.log else "0", "max"])  # fmt: skip
    for text in bar.ax.get_yticklabels():
        write(text, text.get_text(), size=8)
    write(bar.ax.yaxis.label, f"of each one's own largest{', logarithmic' * picture.log}", size=8)
    bar.outline.set_linewidth(0.4)
    told = [f"{name}: largest {number(line.row.scale.limit)} {line.units}"
            for name, line in zip(names, lines)]  # fmt: skip
    _say(figure, picture, lines, told)
    return figure


def _head(ax: Axes, line: Line, span: np.ndarray, width: float) -> None:
    # A number stands above such a bar.
    beyond = np.abs(line.row.scores[span]) > line.row.scale.limit
    text = ax.set_title("", loc="left", pad=12 if beyond.any() else 3)
    write(text, clipped_words(line.heading, int(width * 15)), size=8, color=SOFT)


def one_read(lines: list[Line]) -> bool:
    return len({line.row.position for line in lines}) == 1


def _say(figure: Figure, picture: Picture, lines: list[Line], told: Sequence[str] = ()) -> None:
    p = lines[0].row.position
    where = f"read at {p} “{clipped(picture.tokens[p], 40)}”" if one_read(lines) else ""
    subtitle = DOT.join(x for x in (f"at {picture.site}", where, picture.size) if x)
    left = picture.left_out()
    notes = [*told, f"hatched: {' and '.join(left)}, not in the colours" if left else ""]
    caption(figure, f"{len(lines)} attributions of one prompt", subtitle, notes)
