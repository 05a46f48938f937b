"""matplotlib figures: bars over the tokens of one row, a map for several rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_scopes.render import wording
from tl_scopes.render.colours import Scale, number
from tl_scopes.render.figures import letters, style
from tl_scopes.render.picture import Picture, Row

PER_LINE, PER_MAP_LINE, LONGEST_MAP_LINE = 48, 64, 180


def draw(picture: Picture) -> Figure:
    """The figure of `picture`; it belongs to no pyplot state."""
    figure = _bars(picture, picture.rows[0]) if len(picture.rows) == 1 else _map(picture)
    sites = [row.label for row in picture.rows]
    begins = f"the {picture.follows} begins at the broken line"
    notes = [
        "" if picture.answer is None else begins,
        picture.signs,
        *wording.convergence(picture.scope, sites, picture.units),
    ]
    style.caption(figure, picture.title, picture.subtitle, notes)
    return figure


def _bars(picture: Picture, row: Row) -> Figure:
    names = letters.tokens(picture.tokens)
    spans = lines(len(names), PER_LINE)
    tall = 2.2 + letters.room(names)
    size = (max(0.21 * len(spans[0]) + 1.6, 6.0), tall * len(spans) + 1.0)
    figure = style.NotebookFigure(figsize=size, layout="constrained")
    for ax, span in zip(figure.subplots(len(spans), 1, squeeze=False)[:, 0], spans):
        draw_heights(ax, row, span)
        ax.set_xlim(span[0] - 0.7, span[0] + len(spans[0]) - 0.3)
        _part_answer(ax, picture, span)
        label_tokens(ax, picture, span, names)
    style.write(figure.supylabel(""), picture.units, size=9)
    return figure


def lines(n: int, most: int) -> list[np.ndarray]:
    """Positions 0 to n - 1 in as few lines as hold them, `most` in each at most."""
    per_line = -(-n // -(-n // most))
    return [np.arange(start, min(start + per_line, n)) for start in range(0, n, per_line)]


def draw_heights(ax: Axes, row: Row, span: np.ndarray, few: bool = False) -> None:
    """Bars of the tokens `span`, on an axis that the whole row fits. `few`: ticks, for a low one."""
    low, high = _limits(row)
    floor = low if _is_log(row.scale) else 0.0
    _set_heights(ax, row, low, high, few)
    for inside in (True, False):
        part = span[row.included[span] == inside]
        shades = [style.css(float(row.colours[t])) for t in part] if inside else style.EMPTY
        heights = np.clip(row.scores[part], low, high) - floor
        ax.bar(part, heights, bottom=floor, width=0.8, color=shades, edgecolor=style.SOFT,
               linewidth=0.5, hatch=None if inside else "////")  # fmt: skip
        if inside and row.error is not None:
            ax.errorbar(part, row.scores[part], yerr=row.error[part], fmt="none", ecolor=style.INK,
                        elinewidth=0.8, capsize=1.5)  # fmt: skip
    _tell_cut_off(ax, row, span, low, high)
    ax.tick_params(axis="y", labelsize=7 if few else 8)
    ax.spines[["top", "right"]].set_visible(False)


def _is_log(scale: Scale) -> bool:
    """On an axis without zero, as nothing is negative."""
    return bool(scale.decades) and not scale.signed


def _set_heights(ax: Axes, row: Row, low: float, high: float, few: bool) -> None:
    scale = row.scale
    if not (scale.decades and scale.signed):
        ax.set_yscale("log" if scale.decades else "linear")
        ax.set_ylim(low, high)
        if few and not scale.decades:
            ax.locator_params(axis="y", nbins=3)
    else:
        least = scale.limit / 10.0**scale.decades
        ax.set_yscale("symlog", linthresh=least, linscale=0.5)
        ax.set_ylim(low, high)
        # matplotlib's own crowd around zero, as would the label of the least.
        low_power = math.log10(least)
        powers = np.arange(math.ceil(low_power), math.floor(math.log10(scale.limit)) + 1)[::-1]
        apart = powers[:1] if few else powers[:: 2 if scale.decades > 2 else 1]
        up = [10.0 ** int(k) for i, k in enumerate(apart) if not i or k > low_power + 0.5]
        ticks = sorted([0.0, *up, *(-x for x in up)])
        ax.set_yticks(ticks, [number(x) for x in ticks])
        ax.minorticks_off()
    if scale.signed:
        ax.axhline(0, color=style.SOFT, linewidth=0.6)


def _tell_cut_off(ax: Axes, row: Row, span: np.ndarray, low: float, high: float) -> None:
    """Scores out of the colour scale whose bars end at the edge of the axis."""
    scores = row.scores[span]
    for t in span[(scores > high) | (scores < min(low, 0.0))]:
        up = row.scores[t] > high
        at = high if up else max(low, 0.0)
        told = f"{'↑' if up else '↓'} {number(float(row.scores[t]))}"
        style.note(
            ax, told, (t, at), (0, 3), color=style.SOFT, ha="center", rotation=0 if up else 90
        )


def _map(picture: Picture) -> Figure:
    """Rows by tokens. Sites go on below each other for long prompts; read positions, of which there
    may be as many as tokens, stay one matrix whose cells shrink."""
    n_row, n = len(picture.rows), len(picture.tokens)
    matrix = picture.kind == "read"
    spans = lines(n, n if matrix else PER_MAP_LINE)
    if not matrix and (0.14 * n_row + 1.0) * len(spans) > 40.0:  # inches
        spans = lines(n, LONGEST_MAP_LINE)  # as long as a figure may be wide
    per_line = len(spans[0])
    wide = 0.2 if not matrix else float(np.clip(12.0 / n, 0.05, 0.2))
    tall = 0.17 if len(spans) == 1 else 0.14
    if matrix:
        tall = float(np.clip(12.0 / n_row, min(wide, 0.17), 0.17))
    most = 28 if matrix else 40
    # The ends of hooks' names tell them apart.
    names = [letters.cut(row.label, most, start=not matrix) for row in picture.rows]
    columns = letters.tokens(picture.tokens)
    aside = letters.room(names, min(max(len(row.label) for row in picture.rows), most))
    height = (tall * n_row + 1.0) * len(spans)
    figure = style.NotebookFigure(
        figsize=(
            max(wide * per_line + 3.5, 7.0) + aside,
            max(height + 1.2, 3.4) + len(spans) * letters.room(columns),
        ),
        layout="constrained",
    )
    later = np.array([np.arange(n) > row.position for row in picture.rows])
    shown = np.array([row.included for row in picture.rows]) | later
    labelled = max(1, math.ceil(0.14 / wide))
    scale = picture.rows[0].scale
    if not picture.common:
        scale = Scale(1.0, int(picture.log), picture.signed)
    axes = draw_map(figure, picture.rows, shown, spans, scale.low)
    every = max(1, math.ceil(0.125 / tall))
    size = 7 if n_row > 40 or tall < 0.17 else 8
    for ax, span in zip(axes, spans):
        _part_answer(ax, picture, span)
        label_tokens(ax, picture, span[::labelled], columns)
        style.label(ax.yaxis, names[::every], size, range(0, n_row, every))
    own = "" if picture.common else f"of the largest of each {picture.each}"
    if matrix and picture.answer is not None:
        style.name_axes(axes[0], "source token", "answer token")
    style.colour_bar(figure, axes, scale, picture.units, max(height, 2.0), own)
    return figure


def _part_answer(ax: Axes, picture: Picture, span: np.ndarray) -> None:
    """A line before the first token of an answer."""
    if picture.answer is not None and picture.answer in span:
        ax.axvline(picture.answer - 0.5, color=style.READ, linewidth=1, linestyle=(0, (3, 2)))


def draw_map(
    figure: Figure, rows: Sequence[Row], shown: np.ndarray, spans: Sequence[np.ndarray], low: float
) -> list[Axes]:
    """Colours of `rows` [row, pos] in lines of tokens (`spans`); hatched where not `shown`."""
    colours = np.array([row.colours for row in rows])
    axes = list(figure.subplots(len(spans), 1, squeeze=False)[:, 0])
    for ax, span in zip(axes, spans):
        left, right = span[0] - 0.5, span[-1] + 0.5
        style.hatch(ax, (left, right), (-0.5, len(rows) - 0.5))
        style.cells(ax, colours[:, span], shown[:, span], low, int(span[0]))
        ax.set_xlim(left, left + len(spans[0]))
        ax.spines[:].set_visible(False)
    return axes


def _limits(row: Row) -> tuple[float, float]:
    scale, beyond = row.scale, 1.4 if row.scale.decades else 1.08
    high = (scale.limit or 1.0) * beyond
    if row.error is not None and row.included.any():
        reach = np.abs(row.scores) + row.error
        high = max(high, float(reach[row.included].max()) * 1.02)
    if _is_log(scale):
        return scale.limit / 10.0**scale.decades, high
    return (-high if scale.signed else 0.0), high


def label_tokens(ax: Axes, picture: Picture, span: np.ndarray, names: list[str]) -> None:
    """`names` of the tokens `span`; where every row has one read position, it stands out."""
    row, marked = picture.rows[0], picture.kind == "site"
    texts, read = [names[t] for t in span], row.position if marked else None
    style.label_tokens(ax.xaxis, texts, span, read, row.included | (not marked))
    ax.tick_params(axis="x", length=0)
