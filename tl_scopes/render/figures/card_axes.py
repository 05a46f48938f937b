"""What the figures of a faithfulness card share: colours of methods, panels of dots, panels of lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tl_scopes.render.colours import number
from tl_scopes.render.figures import letters, style
from tl_scopes.render.report.words import SIGNS, name
from tl_scopes.render.tokens import words
from tl_scopes.render.wording import DOT, counted
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.escapes import units

# Okabe and Ito's colours, told apart by every kind of colour vision; black and yellow are left out.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#7f6a3f")
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
INTERVALS = "bars: 95% bootstrap intervals of the mean"
WIDTH, LETTER, ROW = 3.1, 0.066, 0.3  # of a panel; of a letter; of a method; in inches


@dataclass(frozen=True)
class Look:
    """How a method is drawn, the same in every figure of a card."""

    text: str
    colour: str
    marker: str
    dash: Any


def look(i: int) -> tuple[str, str, Any]:
    """Colour, marker and dashes of the i-th of many lines."""
    n = len(COLOURS)
    return COLOURS[i % n], MARKERS[(i + i // n) % len(MARKERS)], DASHES[i // n % len(DASHES)]


def looks(card: FaithfulnessCard) -> dict[str, Look]:
    return {
        method: Look("\n".join(lines(method)), *look(i)) for i, method in enumerate(card.methods)
    }


def lines(label: str, width: int = 30, most: int = 3) -> list[str]:
    """A method's name as it is drawn, in lines that end after a space or "(". The middle of a longer
    one is left out, as labels often differ at the end."""
    parts = units(letters.drawable(name(label)))
    drawn, kept = letters.broken("".join(parts), width, " ("), len(parts)
    while len(drawn) > most:
        kept -= 1
        start, end = parts[: kept // 2], parts[len(parts) - (kept - kept // 2) :]
        drawn = letters.broken(f"{''.join(start)} … {''.join(end)}", width, " (")
    return drawn


def height(methods: dict[str, Look]) -> float:
    """Of a panel with a line for each method, in inches."""
    most = max(1 + look.text.count("\n") for look in methods.values())
    return len(methods) * max(ROW, 0.14 * most + 0.06) + 0.3


def margin(methods: dict[str, Look]) -> float:
    """Of the methods' names, in inches."""
    names = [line for look in methods.values() for line in look.text.split("\n")]
    return LETTER * max(map(letters.cells, names)) + 0.3


def dots(
    ax: Axes,
    methods: dict[str, Look],
    means: dict[str, tuple[float, float, float]],
    marks: dict[str, str],
    named: bool,
) -> None:
    """A line for each method with its mean and interval. `marks`: "best" or "tied"."""
    for y, (method, look) in enumerate(methods.items()):
        mean, low, high = means.get(method, (math.nan,) * 3)
        if not math.isfinite(mean):
            style.note(ax, "no value", (0.5, y), size=7.5, color=style.PALE, ha="center", va="center",
                       xycoords=ax.get_yaxis_transform())  # fmt: skip
            continue
        if math.isfinite(low) and math.isfinite(high):
            ax.plot([low, high], [y, y], color=look.colour, linewidth=1.6, solid_capstyle="butt")
        filled = look.colour if method in marks else "white"
        ax.plot(mean, y, marker="o", markersize=6, color=look.colour, markerfacecolor=filled,
                markeredgewidth=1.4)  # fmt: skip
        sign = SIGNS.get(marks.get(method, ""), "")
        style.note(ax, number(mean) + sign, (1.0, y), (3, 0), size=7.5, va="center",
                   color=style.INK if sign else style.SOFT, xycoords=ax.get_yaxis_transform())  # fmt: skip
    ax.set_ylim(len(methods) - 0.5, -0.5)
    style.label(ax.yaxis, [look.text if named else "" for look in methods.values()], 8)
    for text in ax.get_yticklabels():
        text.set(multialignment="right")
    for y in range(len(methods)):
        ax.axhline(y, color=style.LINE, linewidth=0.7, zorder=0)
    low, high = ax.get_xlim()
    if low < 0 < high:
        ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=0)
    style.thin(ax)
    ax.tick_params(axis="y", length=0)


def line(
    ax: Axes,
    look: Look,
    x: Sequence[float],
    y: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    shift: float = 0.0,
) -> None:
    """A method's line through its means, with intervals; `shift` keeps those of several apart."""
    at = np.asarray(x, dtype=float) + shift
    ax.vlines(at, low, high, color=look.colour, linewidth=1.0, alpha=0.55)
    ax.plot(at, y, color=look.colour, linewidth=1.4, linestyle=look.dash, marker=look.marker,
            markersize=4, markeredgewidth=0)  # fmt: skip


def ticks(axis: Axis, most: int = 5) -> None:
    """Literal ticks on a linear axis, wherever its limits are."""
    low, high = sorted(axis.get_view_interval())
    steps = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
    places = [float(t) for t in steps if low <= t <= high]
    style.label(axis, [number(round(t, 12)) for t in places], 8, places)


def legend(figure: Figure, methods: dict[str, Look], notes: dict[str, str] | None = None) -> None:
    """Names of the methods beside all panels; `notes`: a word behind some."""
    handles = [
        Line2D([], [], color=look.colour, linestyle=look.dash, marker=look.marker, markersize=4.5,
               linewidth=1.4, markeredgewidth=0)
        for look in methods.values()
    ]  # fmt: skip
    texts = [
        look.text + (f" ({notes[method]})" if notes and method in notes else "")
        for method, look in methods.items()
    ]
    style.legend(
        figure, zip(handles, texts), loc="outside right center", handlelength=2.4, labelspacing=0.7
    )


def heading(ax: Axes, text: str, below: str = "", beside: str = "") -> None:
    """A panel's title, and what its axes show."""
    style.write(ax.set_title("", loc="left", pad=6), text, 9)
    style.name_axes(ax, below, beside, 8, style.SOFT)


def zero(ax: Axes) -> None:
    """A line at zero where it is in sight."""
    low, high = ax.get_ylim()
    if low < 0 < high:
        ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=0)


def axes(figure: Figure, down: int, across: int, n: int) -> list[Axes]:
    """The first `n` panels of a grid; the others are not seen."""
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for ax in panels[n:]:
        ax.set_visible(False)
    return panels[:n]


def lines_sheet(
    methods: dict[str, Look], across: int, down: int, wide: float = WIDTH
) -> style.NotebookFigure:
    """A figure for panels of lines, with room for a legend beside them."""
    tall = 0.17 * sum(2 + look.text.count("\n") for look in methods.values())
    return style.sheet(
        across * (wide + 0.5) + margin(methods) + 0.8, max(down * 2.8, tall + 0.2) + 1.0
    )


def setting(card: FaithfulnessCard, n: int | None = None, reading: str = INTERVALS) -> str:
    """The line below a figure's title. `n`: prompts, where it is not all that have a value."""
    n = int(card.to_frame()["n"].max()) if n is None else n
    return DOT.join((words(card.provenance.model), counted(n, "prompt"), reading))
