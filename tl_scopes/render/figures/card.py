"""matplotlib figures of a faithfulness card, one a kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError
from tl_scopes.render.colours import Scale
from tl_scopes.render.figures import card_axes as on
from tl_scopes.render.figures import style
from tl_scopes.render.figures.card_checks import randomisation, spectrum, stability
from tl_scopes.render.report.parts import leaders, records
from tl_scopes.render.report.words import one_line, unit
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.card_tables import grouped
from tl_scopes.results.metrics import AOPC, CURVES, LOO, metric
from tl_scopes.results.statistics import LEVEL

if TYPE_CHECKING:
    import pandas as pd


def kinds(card: FaithfulnessCard) -> list[str]:
    """What can be drawn of this card, in the order of the report."""
    measured, several = set(card.rows["metric"]), len(card.methods) > 1
    metrics = {"aopc": AOPC, **CURVES, "agreement": LOO, "comparisons": AOPC if several else ()}
    tables = {
        "randomisation": card.randomisation, "stability": card.stability, "spectrum": card.spectra
    }  # fmt: skip
    held = [kind for kind, names in metrics.items() if measured & set(names)]
    return held + [kind for kind, table in tables.items() if table is not None and len(table)]


def draw(card: FaithfulnessCard, *, kind: str = "aopc") -> Figure:
    """See `tl_scopes.render.figure`."""
    held = kinds(card)
    if kind not in held:
        some = (
            f"pass one of {', '.join(map(repr, held))}" if held else "nothing at all was measured"
        )
        raise RenderError(f"kind={kind!r}: this card holds nothing of it; {some}")
    makers: dict[str, Callable[[FaithfulnessCard], Figure]] = {
        "aopc": aopc, "agreement": agreement, "comparisons": comparisons,
        "randomisation": randomisation, "stability": stability, "spectrum": spectrum,
    }  # fmt: skip
    return makers[kind](card) if kind in makers else curves(card, kind)


def aopc(card: FaithfulnessCard) -> Figure:
    title = "What replacing the tokens with the highest scores, or all others, does"
    return _dots(card, AOPC, 2, title)


def agreement(card: FaithfulnessCard) -> Figure:
    return _dots(card, LOO, 4, "How far scores agree with leave-one-out")


@dataclass(frozen=True)
class Panel:
    """One metric with one replacement. `means`: its rows of the card's summary."""

    ax: Axes
    metric: str
    replacement: str
    means: pd.DataFrame


def _panels(
    card: FaithfulnessCard, names: Sequence[str], most: int, sized: Callable[[int, int], Figure]
) -> tuple[Figure, list[Panel]]:
    """Those of the metrics `names` that the card holds, `most` beside each other, replacements below.

    `sized`: a figure for so many panels across and down.
    """
    means = card.to_frame()
    held = [name for name in names if name in set(means["metric"])]
    replacements = list(dict.fromkeys(means.loc[means["metric"].isin(held), "replacement"]))
    cells = [(name, replacement) for replacement in replacements for name in held]
    across = min(most, len(held))
    down = len(replacements) * -(-len(held) // across)
    figure = sized(across, down)
    panels = [
        Panel(
            ax, *cell, means.loc[(means["metric"] == cell[0]) & (means["replacement"] == cell[1])]
        )
        for ax, cell in zip(on.axes(figure, down, across, len(cells)), cells)
    ]
    return figure, panels


def _dots(card: FaithfulnessCard, names: Sequence[str], most: int, title: str) -> Figure:
    looks, marks = on.looks(card), leaders(card)

    def sized(across: int, down: int) -> Figure:
        wide = (on.WIDTH if across < 3 else 2.1) + 0.5
        return style.sheet(on.margin(looks) + across * wide, down * (on.height(looks) + 0.5) + 0.9)

    figure, panels = _panels(card, names, most, sized)
    for panel in panels:
        cell = (panel.metric, panel.replacement)
        means = {row.method: (row.mean, row.low, row.high) for row in records(panel.means)}
        best = {method: mark for method in looks if (mark := marks.get((*cell, method)))}
        place = panel.ax.get_subplotspec()
        on.dots(panel.ax, looks, means, best, place is not None and place.is_first_col())
        on.ticks(panel.ax.xaxis, 4)
        on.heading(panel.ax, one_line((*cell, math.nan)), unit(card, panel.metric))
    style.caption(figure, title, on.setting(card))
    return figure


def curves(card: FaithfulnessCard, kind: str) -> Figure:
    looks = on.looks(card)
    figure, panels = _panels(
        card, CURVES[kind], len(CURVES[kind]), lambda *size: on.lines_sheet(looks, *size)
    )
    for panel in panels:
        ax, summary = panel.ax, panel.means
        fractions = sorted(summary["fraction"].unique())
        gap = min(np.diff(fractions), default=0.1) / (len(looks) + 4)
        for j, (method, look) in enumerate(looks.items()):
            part = summary.loc[summary["method"] == method].sort_values("fraction")
            means, low, high = (part[column].to_numpy() for column in ("mean", "low", "high"))
            shift = (j - (len(looks) - 1) / 2) * gap * 0.7
            on.line(ax, look, part["fraction"].tolist(), means, low, high, shift)
        style.thin(ax)
        on.zero(ax)
        style.label(ax.xaxis, [f"{100 * f:g}%" for f in fractions], 8, fractions)
        on.ticks(ax.yaxis)
        below = "tokens replaced" if panel.metric.startswith("comp") else "tokens kept"
        cell = (panel.metric, panel.replacement, math.nan)
        on.heading(ax, one_line(cell), below, unit(card, panel.metric))
    on.legend(figure, looks)
    style.caption(figure, "Faithfulness by the share of tokens", on.setting(card))
    return figure


def comparisons(card: FaithfulnessCard) -> Figure:
    """A matrix a cell: differences of all pairs, in colour where the test is significant."""
    looks, tests = on.looks(card), card.comparisons()
    cells = list(grouped(tests))
    n, across = len(looks), min(len(cells), 2)
    down, side = -(-len(cells) // across), max(0.52 * n, 2.2)
    figure = style.sheet(
        on.margin(looks) + across * (side + 0.5), down * (on.height(looks) + 0.04 * n + 0.6) + 1.2
    )
    places = {method: i for i, method in enumerate(card.methods)}
    for i, (ax, (key, differences)) in enumerate(
        zip(on.axes(figure, down, across, len(cells)), cells)
    ):
        values, sure = np.full((n, n), np.nan), np.zeros((n, n), dtype=bool)
        for row in records(differences):
            a, b = places[row.method], places[row.reference]
            values[a, b], values[b, a] = row.difference, -row.difference
            sure[a, b] = sure[b, a] = row.p_holm < LEVEL
        measured = np.isfinite(values)
        better = metric(key[0]).direction * np.where(measured, values, 0.0)
        for a in range(n):
            style.hatch(ax, (a - 0.5, a + 0.5), (a - 0.5, a + 0.5))
        scale = Scale.fit(better, "linear", signed=True)
        colours = style.paint(ax, better, scale, measured & sure)
        ax.set_facecolor("white")
        shown = np.where(sure, colours, 0.0)
        style.numbers(ax, values, shown, measured, 7)
        style.separate(ax, n, n)
        names = [f"{look.text}  {j + 1}" for j, look in enumerate(looks.values())]
        style.label(ax.yaxis, names if i % across == 0 else [str(j + 1) for j in range(n)], 8)
        style.label(ax.xaxis, [str(j + 1) for j in range(n)], 8)
        on.heading(ax, one_line(key), "less the method of this column")
    reading = (
        "blue: the row is better, red: worse; no colour: "
        f"p ≥ {LEVEL} (paired Wilcoxon, Holm over {int(tests['p'].notna().sum())} tests)"
    )
    title = "Differences of all pairs of methods: row less column"
    style.caption(figure, title, on.setting(card, reading=reading))
    return figure
