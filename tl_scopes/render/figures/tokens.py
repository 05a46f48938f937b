"""matplotlib figures: bars over the tokens of one row, a map for several rows."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text

from tl_scopes.render import wording
from tl_scopes.render.colours import Scale, colour, hexed, number
from tl_scopes.render.figures import letters
from tl_scopes.render.figures.letters import drawable
from tl_scopes.render.picture import Picture, Row
from tl_scopes.results.files import write_bytes

LINE = 0.16  # inches of a line of a caption
PER_LINE, PER_MAP_LINE, LONGEST_MAP_LINE = 48, 64, 180
DOT = wording.DOT
INK, SOFT, READ = "#1c1e21", "#63676e", "#c2410c"


class NotebookFigure(Figure):
    """Shows itself in a notebook in which pyplot was never imported, and is written as it shows."""

    def savefig(self, fname: Any, *, transparent: bool | None = None, **options: Any) -> None:
        """As matplotlib's, with a ground of its own whatever the user's settings are.

        To a path it is written as all files of this package: see `tl_scopes.results.files.write_bytes`.
        """
        ground = {} if transparent else {"facecolor": self.get_facecolor(), "edgecolor": "none"}
        if isinstance(fname, (str, os.PathLike)):
            path = Path(fname)
            if "format" not in options:
                options["format"] = path.suffix[1:] or rcParams["savefig.format"]
                path = path if path.suffix else path.with_suffix(f".{options['format']}")
            made = io.BytesIO()
            self.savefig(made, transparent=transparent, **options)
            write_bytes(path, made.getvalue())
            return
        # Letters as letters in PDF, which journals ask for; the same SVG for the same figure.
        with rc_context({"pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "tl_scopes"}):
            super().savefig(fname, transparent=transparent, **{**ground, **options})

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        return picture.getvalue()


def draw(picture: Picture) -> Figure:
    """The figure of `picture`; it belongs to no pyplot state."""
    figure = _bars(picture, picture.rows[0]) if len(picture.rows) == 1 else _map(picture)
    sites = [row.label for row in picture.rows]
    notes = [picture.signs, *wording.convergence(picture.scope, sites, picture.units)]
    caption(figure, picture.title, picture.subtitle, notes)
    return figure


def caption(figure: Figure, title: str, subtitle: str, notes: Sequence[str] = ()) -> None:
    """Title and subtitle above, notes below, wrapped to the figure's width between their parts."""
    wide, tall = figure.get_size_inches()
    above, below = int(wide * 12.5), int(wide * 15)
    lines = letters.balanced(title, above)
    lines += wrapped(subtitle.split(DOT), above)
    write(figure.suptitle(""), "\n".join(lines), size=10)
    said = wrapped([note for note in notes if note], below)
    more = [letters.beyond(text, above) for text in (title, subtitle)]
    more += [letters.beyond(text, below) for text in notes]
    figure.set_size_inches(wide, tall + LINE * sum(more))
    if said:
        write(figure.supxlabel(""), "\n".join(said), size=8, color=SOFT)


def wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Lines of at most `width` letters as they are drawn, broken between `parts` where possible."""
    return letters.wrapped(parts, width, DOT)


def _bars(picture: Picture, row: Row) -> Figure:
    n = len(picture.tokens)
    lines = -(-n // PER_LINE)
    per_line = -(-n // lines)
    tall = 2.2 + letters.room(token_labels(picture))
    size = (max(0.21 * per_line + 1.6, 6.0), tall * lines + 1.0)
    figure = NotebookFigure(figsize=size, layout="constrained")
    for i, ax in enumerate(figure.subplots(lines, 1, squeeze=False)[:, 0]):
        span = np.arange(i * per_line, min((i + 1) * per_line, n))
        draw_heights(ax, row, span)
        ax.set_xlim(span[0] - 0.7, span[0] + per_line - 0.3)
        label_tokens(ax, picture, span, row)
        ax.tick_params(axis="y", labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    write(figure.supylabel(""), picture.units, size=9)
    return figure


def draw_heights(ax: Axes, row: Row, span: np.ndarray, few: bool = False) -> None:
    """Bars of the tokens `span`, on an axis that the whole row fits. `few`: ticks, for a low one."""
    low, high = _limits(row)
    floor = low if _is_log(row.scale) else 0.0
    _set_heights(ax, row, low, high, few)
    for inside in (True, False):
        part = span[row.included[span] == inside]
        shades = [css(float(row.colours[t])) for t in part] if inside else "#f1f2f4"
        heights = np.clip(row.scores[part], low, high) - floor
        ax.bar(part, heights, bottom=floor, width=0.8, color=shades, edgecolor=SOFT,
               linewidth=0.5, hatch=None if inside else "////")  # fmt: skip
        if inside and row.error is not None:
            ax.errorbar(part, row.scores[part], yerr=row.error[part], fmt="none", ecolor=INK,
                        elinewidth=0.8, capsize=1.5)  # fmt: skip
    _tell_cut_off(ax, row, span, low, high)


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
        ax.axhline(0, color=SOFT, linewidth=0.6)


def _tell_cut_off(ax: Axes, row: Row, span: np.ndarray, low: float, high: float) -> None:
    """Scores out of the colour scale whose bars end at the edge of the axis."""
    scores = row.scores[span]
    for t in span[(scores > high) | (scores < min(low, 0.0))]:
        up = row.scores[t] > high
        at = high if up else max(low, 0.0)
        label = ax.annotate("", (t, at), (0, 3), textcoords="offset points", ha="center",
                            rotation=0 if up else 90)  # fmt: skip
        write(label, f"{'↑' if up else '↓'} {number(float(row.scores[t]))}", size=7, color=SOFT)


def _map(picture: Picture) -> Figure:
    """Rows by tokens. Sites go on below each other for long prompts; read positions, of which there
    may be as many as tokens, stay one matrix whose cells shrink."""
    n_row, n = len(picture.rows), len(picture.tokens)
    matrix = picture.kind == "read"
    lines = 1 if matrix else -(-n // PER_MAP_LINE)
    if (
        not matrix and (0.14 * n_row + 1.0) * lines > 40.0
    ):  # inches: lines as long as a figure may be wide
        lines = -(-n // LONGEST_MAP_LINE)
    per_line = -(-n // lines)
    wide = 0.2 if not matrix else float(np.clip(12.0 / n, 0.05, 0.2))
    tall = 0.17 if lines == 1 else 0.14
    if matrix:
        tall = float(np.clip(12.0 / n_row, min(wide, 0.17), 0.17))
    most = 28 if matrix else 40
    # The ends of hooks' names tell them apart.
    names = [letters.cut(row.label, most, start=not matrix) for row in picture.rows]
    aside = letters.room(names, min(max(len(row.label) for row in picture.rows), most))
    below = lines * letters.room(token_labels(picture))
    size = (max(wide * per_line + 3.5, 7.0), max((tall * n_row + 1.0) * lines + 1.2, 3.4))
    size = (size[0] + aside, size[1] + below)
    figure = NotebookFigure(figsize=size, layout="constrained")
    later = np.array([np.arange(n) > row.position for row in picture.rows])
    plain = ~np.array([row.included for row in picture.rows]) & ~later
    values = np.ma.array(np.array([row.colours for row in picture.rows]), mask=plain)
    low = -1.0 if picture.signed else 0.0
    axes = figure.subplots(lines, 1, squeeze=False)[:, 0]
    every = max(1, math.ceil(0.125 / tall))
    for i, ax in enumerate(axes):
        span = np.arange(i * per_line, min((i + 1) * per_line, n))
        edges = (span[0] - 0.5, span[-1] + 0.5)
        ax.axvspan(*edges, color="#dfe2e6", linewidth=0, zorder=-1)  # where a score has no colour
        ax.imshow(
            values[:, span], aspect="auto", interpolation="nearest", cmap=ramp(low), vmin=low, vmax=1,
            extent=(*edges, n_row - 0.5, -0.5),
        )  # fmt: skip
        ax.set_xlim(edges[0], edges[0] + per_line)
        ax.spines[:].set_visible(False)
        label_tokens(ax, picture, span[:: max(1, math.ceil(0.14 / wide))], picture.rows[0])
        ax.set_yticks(range(0, n_row, every), names[::every])
        for text in ax.get_yticklabels():
            style(text, size=7 if n_row > 40 or tall < 0.17 else 8)
        ax.tick_params(length=0)
    aspect = max(12.0, (tall * n_row + 1.0) * lines / 0.14)
    bar = figure.colorbar(axes[0].images[0], ax=list(axes), fraction=0.04, pad=0.02, aspect=aspect)
    _label_bar(bar, picture, low)
    return figure


def _label_bar(bar: Colorbar, picture: Picture, low: float) -> None:
    if picture.common:
        ticks = picture.rows[0].scale.labels()
        bar.set_ticks([at for at, _ in ticks], labels=[text for _, text in ticks])
        title = picture.units
    else:
        log = ", logarithmic" if picture.log else ""
        title = f"of the largest of each {picture.each}{log}\n({picture.units})"
        bar.set_ticks([-1.0, 0.0, 1.0] if low else [0.0, 0.5, 1.0])
        if picture.log:
            bar.set_ticks([low, 1.0], labels=["−max" if low else "low", "max"])
    bar.ax.tick_params(labelsize=8)
    write(bar.ax.yaxis.label, title, size=8)
    bar.outline.set_linewidth(0.4)


def _limits(row: Row) -> tuple[float, float]:
    scale, beyond = row.scale, 1.4 if row.scale.decades else 1.08
    high = (scale.limit or 1.0) * beyond
    if row.error is not None and row.included.any():
        reach = np.abs(row.scores) + row.error
        high = max(high, float(reach[row.included].max()) * 1.02)
    if _is_log(scale):
        return scale.limit / 10.0**scale.decades, high
    return (-high if scale.signed else 0.0), high


def token_labels(picture: Picture) -> list[str]:
    return [letters.token(token) for token in picture.tokens]


def label_tokens(
    ax: Axes, picture: Picture, span: np.ndarray, row: Row, marked: bool = True,
    names: Sequence[str] = (),
) -> None:  # fmt: skip
    """`marked`: whether the read position stands out, and what has no colour stands back; `names`:
    labels in place of the tokens' own."""
    marked = marked and picture.kind == "site"
    labels = list(names) or token_labels(picture)
    ax.set_xticks(span, [labels[t] for t in span])
    for text, t in zip(ax.get_xticklabels(), span):
        style(text, size=8)
        text.set_rotation(90)
        if marked and t == row.position:
            text.set(color=READ, fontweight="bold")
        elif marked and not row.included[t]:
            text.set(color="#8b9098")
    ax.tick_params(axis="x", length=0)


def write(text: Text, content: str, size: float, color: str = INK) -> None:
    text.set_text(drawable(content))
    style(text, size, color)


def style(text: Text, size: float, color: str = INK) -> None:
    """Literal text: neither mathtext nor TeX, whatever the user's settings are."""
    text.set(parse_math=False, usetex=False, fontfamily=letters.fonts(), fontsize=size, color=color)


def css(value: float) -> str:
    return hexed(colour(value))


def ramp(low: float) -> LinearSegmentedColormap:
    """Of colour values, not of scores, from `low` (-1 or 0) to 1."""
    ends = [css(float(value)) for value in np.linspace(low, 1.0, 129)]
    return LinearSegmentedColormap.from_list("tl_scopes", ends)
