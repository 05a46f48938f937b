"""What every figure is drawn with: its sheet, literal text, axes, coloured cells, colour bars.

Texts hold whatever a token or a name holds. Each is set by `write`, which neither mathtext nor TeX reads
and which leaves no character without a glyph.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text

from tl_scopes.render.colours import Scale, colour, hexed, ink, number
from tl_scopes.render.figures import letters
from tl_scopes.render.wording import DOT
from tl_scopes.results.files import write_bytes

INK, SOFT, PALE, FAINT, LINE, EMPTY = (
    "#1c1e21", "#63676e", "#8b9098", "#c9cdd3", "#e9ebee", "#f1f2f4",
)  # fmt: skip
READ = "#c2410c"  # what is explained, and where it was read
CAPTION_LINE = 0.16  # inches of a line of a caption
# Of what has a number, but takes no part in the colours.
HATCHED = {"facecolor": EMPTY, "edgecolor": FAINT, "hatch": "////", "linewidth": 0}


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
            written = io.BytesIO()
            self.savefig(written, transparent=transparent, **options)
            write_bytes(path, written.getvalue())
            return
        # Letters as letters in PDF, which journals ask for; the same SVG for the same figure.
        with rc_context({"pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "tl_scopes"}):
            super().savefig(fname, transparent=transparent, **{**ground, **options})

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        return picture.getvalue()


def sheet(width: float, height: float) -> NotebookFigure:
    """A figure of its own, no pyplot state; sizes in inches, kept within 6.6 by 2.6 to 40 by 40."""
    size = (min(max(width, 6.6), 40.0), min(max(height, 2.6), 40.0))
    return NotebookFigure(figsize=size, layout="constrained")


def caption(figure: Figure, title: str, subtitle: str, notes: Sequence[str] = ()) -> None:
    """Title and subtitle above, notes below, wrapped to the figure's width between their parts."""
    wide, tall = figure.get_size_inches()
    above, below = int(wide * 12.5), int(wide * 15)
    lines = letters.balanced(title, above)
    lines += letters.wrapped(subtitle.split(DOT), above, DOT)
    write(figure.suptitle(""), "\n".join(lines), size=10)
    below_lines = letters.wrapped([note for note in notes if note], below, DOT)
    more = [letters.beyond(text, above) for text in (title, subtitle)]
    more += [letters.beyond(text, below) for text in notes]
    figure.set_size_inches(wide, tall + CAPTION_LINE * sum(more))
    if below_lines:
        write(figure.supxlabel(""), "\n".join(below_lines), size=8, color=SOFT)


# --- text -----------------------------------------------------------------------------------


def write(text: Text, content: str, size: float, color: str = INK) -> None:
    """`content` as it is, in characters that the fonts have."""
    text.set_text(letters.drawable(content))
    literal(text, size, color)


def literal(text: Text, size: float, color: str = INK) -> None:
    """Neither mathtext nor TeX, whatever the user's settings are."""
    text.set(parse_math=False, usetex=False, fontfamily=letters.fonts(), fontsize=size, color=color)


def note(
    ax: Axes, content: str, at: tuple[Any, Any], offset: tuple[float, float] = (0, 0), *,
    size: float = 7, color: str = INK, **where: Any,
) -> Text:  # fmt: skip
    """`content` beside the point `at`, `offset` away from it in points (1/72 inch)."""
    text = ax.annotate("", at, offset, textcoords="offset points", **where)
    write(text, content, size, color)
    return text


def name_axes(ax: Axes, x: str = "", y: str = "", size: float = 9, color: str = INK) -> None:
    """What stands below and beside `ax`."""
    write(ax.xaxis.label, x, size, color)
    write(ax.yaxis.label, y, size, color)


def label(
    axis: Axis, names: Sequence[str], size: float, places: Sequence[float] | np.ndarray = ()
) -> None:
    """Literal labels at 0, 1, ... or at `places`."""
    axis.set_ticks(
        places if len(places) else range(len(names)), [letters.drawable(name) for name in names]
    )
    for text in axis.get_ticklabels():
        literal(text, size=size)


def legend(
    owner: Axes | Figure, parts: Iterable[tuple[Any, str]], color: str = INK, **where: Any
) -> None:
    """Handles with what they mean, without a frame. `where`: as matplotlib's `legend` takes it."""
    box = owner.legend(*zip(*parts), frameon=False, **where)
    for text in box.get_texts():
        literal(text, size=8, color=color)


def label_tokens(
    axis: Axis,
    texts: Sequence[str],
    places: Sequence[int] | np.ndarray,
    read: int | None,
    inside: np.ndarray,
) -> None:
    """Labels of the tokens at `places`, marked as `mark` says. `read`: None marks no position."""
    label(axis, texts, 8, places)
    for text, t in zip(axis.get_ticklabels(), places):
        mark(text, bool(t == read), bool(inside[t]))
        text.set_rotation(90 if isinstance(axis, XAxis) else 0)


def mark(text: Text, read: bool, inside: bool) -> None:
    """A token's label: the read position stands out, what is not `inside` the colours stands back."""
    if read:
        text.set(color=READ, fontweight="bold")
    elif not inside:
        text.set(color=PALE)


def thin(ax: Axes) -> None:
    """Pale axes to the left and below alone, with short ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(length=2.5, color=SOFT, labelsize=8)


# --- colours --------------------------------------------------------------------------------


def css(value: float) -> str:
    """The colour of a colour value in [-1, 1]."""
    return hexed(colour(value))


def ramp(low: float) -> LinearSegmentedColormap:
    """Of colour values, not of scores, from `low` (-1 or 0) to 1."""
    ends = [css(float(value)) for value in np.linspace(low, 1.0, 129)]
    return LinearSegmentedColormap.from_list("tl_scopes", ends)


def cells(ax: Axes, colours: np.ndarray, shown: np.ndarray, low: float, first: int = 0) -> None:
    """Colour values [row, column] as cells, but those not `shown`. `first`: the place of column 0."""
    n_row, n = colours.shape
    ax.imshow(
        np.ma.array(colours, mask=~shown), aspect="auto", interpolation="nearest", cmap=ramp(low),
        vmin=low, vmax=1.0, extent=(first - 0.5, first + n - 0.5, n_row - 0.5, -0.5),
    )  # fmt: skip
    ax.tick_params(length=0)


def paint(ax: Axes, values: np.ndarray, scale: Scale, shown: np.ndarray) -> np.ndarray:
    """A framed map of `values` [row, column]; where not `shown`, what is behind it. Colour values."""
    colours = scale(values)
    cells(ax, colours, shown, scale.low)
    ax.spines[:].set(linewidth=0.5, color=FAINT)
    return colours


def hatch(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Mark cells that have a number but no colour."""
    ax.fill_between(x, y[0], y[1], zorder=-1, **HATCHED)


def numbers(
    ax: Axes, values: np.ndarray, colours: np.ndarray, shown: np.ndarray, size: float
) -> None:
    """Write `values` into the cells that are `shown`, legible on the cells' colour values."""
    for i, j in zip(*np.nonzero(shown)):
        on = hexed(ink(colour(float(colours[i, j]))))
        note(ax, number(float(values[i, j])), (j, i), size=size, color=on, ha="center", va="center")


def separate(ax: Axes, rows: int, columns: int) -> None:
    """Thin lines between cells: an eye follows them to the labels."""
    for edge in np.arange(0.5, columns - 1):
        ax.axvline(edge, color=LINE, linewidth=0.6)
    for edge in np.arange(0.5, rows - 1):
        ax.axhline(edge, color=LINE, linewidth=0.6)


def colour_bar(
    figure: Figure, axes: Sequence[Axes], scale: Scale, unit: str, tall: float, own: str = ""
) -> None:
    """What the colours beside `axes`, `tall` inches, stand for. `own`: each row's own scale, in words."""
    low, log = scale.low, bool(scale.decades)
    ticks = scale.labels()
    if own:
        least = "−max" if scale.signed else "low" if log else "0"
        ticks = [(low, least), *[(0.0, "0")] * (scale.signed and not log), (1.0, "max")]
    colours = ScalarMappable(Normalize(low, 1.0), ramp(low))
    aspect = max(8.0, tall / 0.13)
    bar = figure.colorbar(colours, ax=list(axes), fraction=0.03, pad=0.02, aspect=aspect)
    label(bar.ax.yaxis, [text for _, text in ticks], 8, [at for at, _ in ticks])
    bar.ax.tick_params(length=2, color=SOFT)
    parts = [f"{own or unit}{', logarithmic' * log}", *[f"({unit})"] * bool(own and unit)]
    lines = [line for part in parts for line in letters.broken(part, 46)]
    write(bar.ax.yaxis.label, "\n".join(lines), size=8)
    bar.outline.set_linewidth(0.4)
