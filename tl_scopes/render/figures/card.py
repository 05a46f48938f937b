"""matplotlib figures of a faithfulness card, one a kind."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError
from tl_scopes.render.figures import card_axes as on
from tl_scopes.render.figures import style
from tl_scopes.render.figures.canvas import Shades
from tl_scopes.render.figures.card_checks import randomisation, spectrum, stability
from tl_scopes.render.report.parts import records
from tl_scopes.render.report.words import head, unit
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.card_tables import grouped
from tl_scopes.results.metrics import AOPC, CURVES, LOO, metric
from tl_scopes.results.statistics import LEVEL


def kinds(card: FaithfulnessCard) -> list[str]:
    """What can be drawn of this card, in the order of the report."""
    held = set(card.rows["metric"])
    several = len(card.methods) > 1
    made = {
        "aopc": bool(held & set(AOPC)),
        **{kind: bool(held & set(names)) for kind, names in CURVES.items()},
        "agreement": bool(held & set(LOO)),
        "comparisons": several and bool(held & set(AOPC)),
        "randomisation": card.randomisation is not None and len(card.randomisation) > 0,
        "stability": card.stability is not None and len(card.stability) > 0,
        "spectrum": card.spectra is not None and len(card.spectra) > 0,
    }
    return [kind for kind, here in made.items() if here]


def draw(card: FaithfulnessCard, *, kind: str = "aopc") -> Figure:
    """See `tl_scopes.render.figure`."""
    held = kinds(card)
    if kind not in held:
        raise RenderError(
            f"kind={kind!r}: this card holds nothing of it; "
            + (
                f"pass one of {', '.join(map(repr, held))}"
                if held
                else "nothing at all was measured"
            )
        )
    makers: dict[str, Callable[[FaithfulnessCard], Figure]] = {
        "aopc": aopc, "agreement": agreement, "comparisons": comparisons,
        "randomisation": randomisation, "stability": stability, "spectrum": spectrum,
    }  # fmt: skip
    return makers[kind](card) if kind in makers else curves(card, kind)


def aopc(card: FaithfulnessCard) -> Figure:
    figure = _dots(card, AOPC, 2)
    style.caption(
        figure,
        "What replacing the tokens with the highest scores, or all others, does",
        on.setting(card),
    )
    return figure


def agreement(card: FaithfulnessCard) -> Figure:
    figure = _dots(card, LOO, 4)
    style.caption(figure, "How far scores agree with leave-one-out", on.setting(card))
    return figure


def _dots(card: FaithfulnessCard, names: tuple[str, ...], across: int) -> Figure:
    """A panel a cell, replacements below each other."""
    found, means = on.looks(card), card.to_frame()
    marks = {
        (row.metric, row.replacement, row.method): "tied" if row.tied else "best"
        for row in records(card.leaders())
    }
    held = [m for m in names if m in set(means["metric"])]
    replacements = list(dict.fromkeys(means.loc[means["metric"].isin(held), "replacement"]))
    across = min(across, len(held))
    down = len(replacements) * -(-len(held) // across)
    side, wide = on.margin(found), on.WIDTH if across < 3 else 2.1
    figure = style.sheet(side + across * (wide + 0.5), down * (on.height(found) + 0.5) + 0.9)
    panels = figure.subplots(down, across, squeeze=False)
    for ax in panels.flat[len(held) * len(replacements) :]:
        ax.set_visible(False)
    for i, (replacement, each) in enumerate((r, m) for r in replacements for m in held):
        ax = panels.flat[i]
        own = means.loc[(means["metric"] == each) & (means["replacement"] == replacement)]
        on.dots(
            ax,
            found,
            {row.method: (row.mean, row.low, row.high) for row in records(own)},
            {m: marks[each, replacement, m] for m in found if (each, replacement, m) in marks},
            i % across == 0,
        )
        on.ticks(ax, "x", 4)
        shown = head((each, replacement, math.nan))
        on.heading(ax, ", ".join(filter(None, shown)), unit(card, each))
    return figure


def curves(card: FaithfulnessCard, kind: str) -> Figure:
    found, means = on.looks(card), card.to_frame()
    held = [m for m in CURVES[kind] if m in set(means["metric"])]
    replacements = list(dict.fromkeys(means.loc[means["metric"].isin(held), "replacement"]))
    figure = on.lines_sheet(found, len(held), len(replacements))
    panels = figure.subplots(len(replacements), len(held), squeeze=False)
    for i, (replacement, each) in enumerate((r, m) for r in replacements for m in held):
        ax = panels.flat[i]
        own = means.loc[(means["metric"] == each) & (means["replacement"] == replacement)]
        fractions = sorted(own["fraction"].unique())
        gap = min(np.diff(fractions), default=0.1) / (len(found) + 4)
        for j, (method, look) in enumerate(found.items()):
            part = own.loc[own["method"] == method].sort_values("fraction")
            on.line(
                ax, look, part["fraction"].tolist(), part["mean"].to_numpy(), part["low"].to_numpy(),
                part["high"].to_numpy(), (j - (len(found) - 1) / 2) * gap * 0.7,
            )  # fmt: skip
        style.thin(ax)
        on.zero(ax)
        style.label(ax.xaxis, [f"{100 * f:g}%" for f in fractions], 8, fractions)
        on.ticks(ax, "y")
        below = "tokens replaced" if each.startswith("comp") else "tokens kept"
        on.heading(ax, ", ".join(filter(None, head((each, replacement, math.nan)))), below)
        style.write(ax.yaxis.label, unit(card, each), 8, style.SOFT)
    on.legend(figure, found)
    style.caption(figure, "Faithfulness by the share of tokens", on.setting(card))
    return figure


def comparisons(card: FaithfulnessCard) -> Figure:
    """A matrix a cell: differences of all pairs, in colour where the test is significant."""
    found, tests = on.looks(card), card.comparisons()
    cells = list(grouped(tests))
    n, across = len(found), min(len(cells), 2)
    down, side = -(-len(cells) // across), max(0.52 * n, 2.2)
    figure = style.sheet(
        on.margin(found) + across * (side + 0.5), down * (on.height(found) + 0.04 * n + 0.6) + 1.2
    )
    panels = figure.subplots(down, across, squeeze=False)
    for ax in panels.flat[len(cells) :]:
        ax.set_visible(False)
    places = {method: i for i, method in enumerate(card.methods)}
    for i, (ax, (key, own)) in enumerate(zip(panels.flat, cells)):
        values, sure = np.full((n, n), np.nan), np.zeros((n, n), dtype=bool)
        for row in records(own):
            a, b = places[row.method], places[row.reference]
            values[a, b], values[b, a] = row.difference, -row.difference
            sure[a, b] = sure[b, a] = row.p_holm < LEVEL
        known = np.isfinite(values)
        better = metric(key[0]).direction * np.where(known, values, 0.0)
        for a in range(n):
            style.hatch(ax, (a - 0.5, a + 0.5), (a - 0.5, a + 0.5))
        colours = Shades.fit(better, "linear", True).paint(ax, better, known & sure)
        ax.set_facecolor("white")
        shown = np.where(sure, colours, 0.0)
        style.numbers(ax, values, shown, known, 7)
        style.separate(ax, n, n)
        names = [f"{look.text}  {j + 1}" for j, look in enumerate(found.values())]
        style.label(ax.yaxis, names if i % across == 0 else [str(j + 1) for j in range(n)], 8)
        style.label(ax.xaxis, [str(j + 1) for j in range(n)], 8)
        on.heading(ax, ", ".join(filter(None, head(key))), "less the method of this column")
    made = int(tests["p"].notna().sum())
    said = (
        "blue: the row is better, red: worse; no colour: "
        f"p ≥ {LEVEL} (paired Wilcoxon, Holm over {made} tests)"
    )
    style.caption(
        figure, "Differences of all pairs of methods: row less column", on.setting(card, said=said)
    )
    return figure
