"""Figures of a circuit card: what circuits keep, the largest nodes and edges, whether they last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tl_scopes.errors import RenderError, check_choice
from tl_scopes.render import wording
from tl_scopes.render.colours import percent
from tl_scopes.render.figures import card_axes as on
from tl_scopes.render.figures import letters, style
from tl_scopes.render.figures.circuit_stability import drawn
from tl_scopes.render.report.words import name
from tl_scopes.render.wording import DOT, counted
from tl_scopes.results.circuit_card import CircuitCard, Of
from tl_scopes.results.faithfulness import Faithfulness

KINDS = ("faithfulness", "nodes", "edges", "stability")
# Of f: what lies beyond is not drawn.
_LOWEST, _HIGHEST = -0.5, 1.5


def draw(card: CircuitCard, *, kind: str = "faithfulness") -> Figure:
    """See `tl_scopes.render.figure`."""
    check_choice("kind", kind, KINDS, error=RenderError)
    if kind == "faithfulness":
        return _faithfulness(card)
    if kind == "stability":
        return drawn([card.stability("nodes"), card.stability("edges")], card.names[0])
    return _members(card, "nodes" if kind == "nodes" else "edges")


def _looks(names: Sequence[str]) -> dict[str, on.Look]:
    return {
        label: on.Look("\n".join(on.lines(label)), *on.look(i)) for i, label in enumerate(names)
    }


def _faithfulness(card: CircuitCard) -> Figure:
    looks = _looks(card.names)
    figure = on.lines_sheet(looks, 2, 1)
    for ax, of, curves in zip(
        figure.subplots(1, 2, sharey=True), ("nodes", "edges"), (card.node_curves, card.edge_curves)
    ):
        for y in (0.0, 1.0):
            ax.axhline(y, color=style.FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        shares = np.array(curves[0].shares)
        if len(curves[0].random):
            ax.plot(
                shares,
                curves[0].random_f.mean(0).numpy(),
                color=style.PALE,
                linewidth=1.4,
                zorder=1,
            )
        for look, curve in zip(looks.values(), curves):
            low, high = curve.interval().numpy()
            on.line(ax, look, curve.shares, curve.f.numpy(), low, high)
        ax.set(xscale="log", ylim=(_LOWEST, _HIGHEST))
        ax.minorticks_off()
        places = [s for i, s in enumerate(curves[0].shares) if _apart(curves[0], i)]
        style.label(ax.xaxis, [percent(s) for s in places], 8, places)
        style.thin(ax)
        on.ticks(ax.yaxis)
        beside = "f: what the circuit keeps" if of == "nodes" else ""
        on.heading(ax, of, f"share of {curves[0].candidates} {of} that is kept", beside)
    handles = [
        Line2D([], [], color=look.colour, linestyle=look.dash, marker=look.marker, markersize=4.5)
        for look in looks.values()
    ]
    parts = [*zip(handles, (look.text for look in looks.values()))]
    if len(card.node_curves[0].random):
        parts.append((Line2D([], [], color=style.PALE, linewidth=1.4), "random, mean"))
    style.legend(figure, parts, loc="outside right center", handlelength=2.4, labelspacing=0.7)
    title = f"How much of {wording.explained(card.nodes[0].scope, None)} circuits keep"
    judged = counted(len(card.node_curves[0].clean), "pair")
    facts = [
        name(card.provenance.model),
        f"judged on {judged}",
        "bars: 95% bootstrap intervals over pairs",
    ]
    style.caption(figure, title, DOT.join(facts), ["f: 0 the corrupted prompt, 1 the clean one"])
    return figure


def _apart(curve: Faithfulness, i: int) -> bool:
    """Whether a share has room for its label, on a logarithmic axis."""
    taken: list[float] = []
    for share in reversed(curve.shares):
        if share > 0 and (not taken or np.log10(taken[-1] / share) > 0.28):
            taken.append(share)
    return curve.shares[i] in taken


def _members(card: CircuitCard, of: Of) -> Figure:
    tables = [card.members(of, label) for label in card.names]
    every = {label for table in tables for label in table["label"]}
    margin = on.LETTER * max(letters.cells(label) for label in every) + 0.3
    n, height = len(tables), max(len(table) for table in tables) * on.ROW + 0.3
    figure = style.sheet(n * (margin + on.WIDTH + 0.4), height + 1.5)
    for ax, label, table in zip(on.axes(figure, 1, n, n), card.names, tables):
        _dots(ax, table, card.stability(of, label).verdict().core)
        found = (card.nodes if of == "nodes" else card.edges)[card.names.index(label)]
        units = found.units.rpartition(" per unit")[0] or found.units
        on.heading(ax, f"by {name(label)}" if n > 1 else "", units)
    pairs = counted(len(card.nodes[0].clean), "pair")
    facts = [name(card.provenance.model), pairs, "bars: 95% bootstrap intervals of the mean"]
    notes = ["filled: holds its place among the largest in halves of the pairs"]
    title = f"The {len(tables[0])} largest {of}"
    style.caption(figure, title, DOT.join(facts), notes)
    return figure


def _dots(ax: Axes, table, core: Sequence[str]) -> None:
    labels = table["label"].tolist()
    colours = [on.COLOURS[0] if x > 0 else on.COLOURS[1] for x in table["effect"]]
    looks = {label: on.Look(label, colour, "o", "-") for label, colour in zip(labels, colours)}
    means = {row.label: (row.effect, row.low, row.high) for row in table.itertuples()}
    on.dots(ax, looks, means, dict.fromkeys(core, "core"), True)
    on.ticks(ax.xaxis, 4)
