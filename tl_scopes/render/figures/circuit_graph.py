"""The figure of a circuit: its nodes by layer, its edges between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from tl_scopes.errors import RenderError, check_whole
from tl_scopes.render import wording
from tl_scopes.render.colours import number
from tl_scopes.render.figures import letters, style
from tl_scopes.render.tokens import words
from tl_scopes.results.circuit import Circuit
from tl_scopes.results.nodes import EMBED, READ, Place

# Inches: between layers, and between the columns of nodes.
TALL, WIDE = 0.42, 0.5
WIDEST, LEAST = 5.0, 0.35  # points, of an edge
LARGEST, SMALLEST = 230.0, 14.0  # square points, of a node
MOST_NAMES = 90


def draw_circuit(result: Circuit, *, top: int = 150) -> Figure:
    """See `tl_scopes.render.figure`."""
    check_whole("top", top, 1, error=RenderError)
    if not len(result):
        raise RenderError("this circuit holds nothing: select some nodes or edges")
    if not (result.effects.isfinite().all() and result.edge_effects.isfinite().all()):
        raise RenderError("effects of this circuit hold NaN or infinity: score and select again")
    plan = _Plan.make(result, top)
    columns, rows = plan.columns, plan.rows
    width = WIDE * sum(plan.widths)
    figure = style.sheet(width + 1.4, TALL * len(rows) + 1.5)
    ax = figure.subplots()
    for y in range(len(rows)):
        ax.axhline(y, color=style.LINE, linewidth=0.6, zorder=0)
    for x in plan.edges_of_columns:
        ax.axvline(x, color=style.FAINT, linewidth=0.6, zorder=0)
    for arc in plan.arcs:
        _draw_arc(ax, arc)
    _draw_dots(ax, plan)
    style.label(ax.yaxis, rows, 8)
    style.label(ax.xaxis, columns, 8, plan.middles)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(-0.7, sum(plan.widths) - 0.3), ylim=(-0.6, len(rows) - 0.4))
    style.name_axes(ax, "position" if plan.by_role else "", "layer", 8, style.SOFT)
    _caption(figure, result, plan)
    return figure


def _caption(figure: Figure, result: Circuit, plan: _Plan) -> None:
    one = result.of[:-1] if len(result) == 1 else result.of
    title = f"A circuit of {len(result)} {one}"
    facts = [
        f"of {result.candidates} {result.of}",
        f"{result.chosen - len(result)} chosen ones that lead nowhere dropped"
        if result.chosen > len(result) else "",
        wording.method(result.scope) if result.scope else "",
    ]  # fmt: skip
    unit = words(result.units).rpartition(" per unit")[0] or words(result.units)
    largest = f"the widest is {number(plan.largest)}{f' {unit}' if unit else ''}"
    thing = "edges" if result.of == "edges" else "nodes"
    signs = "blue: the clean write raises what is measured, red: it lowers it"
    notes = [
        f"{thing} as wide as their mean effect, {largest}",
        "" if result.squared else signs,
        f"the {plan.left_out} weakest edges not drawn" if plan.left_out else "",
        "an edge into a shared key-value head goes to every query head of its group"
        if plan.shared else "",
    ]  # fmt: skip
    style.caption(figure, title, wording.DOT.join(filter(None, facts)), notes)


@dataclass(frozen=True)
class _Arc:
    start: tuple[float, float]
    end: tuple[float, float]
    share: float
    positive: bool


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where everything lies: x in columns of nodes, y in layers. `dots`: of each node drawn its place,
    its share of the largest, its sign (0: it has no effect of its own) and its name."""

    rows: list[str]
    columns: list[str]
    widths: list[int]
    by_role: bool
    arcs: list[_Arc]
    dots: list[tuple[float, float, float, int, str]]
    largest: float
    left_out: int
    shared: bool

    @property
    def middles(self) -> np.ndarray:
        ends = np.cumsum(self.widths)
        return ends - np.array(self.widths) / 2 - 0.5

    @property
    def edges_of_columns(self) -> np.ndarray:
        return np.cumsum(self.widths)[:-1] - 0.5 if self.by_role else np.zeros(0)

    @classmethod
    def make(cls, result: Circuit, top: int) -> _Plan:
        by_role = len(result.roles) > 1
        effects = result.effects.double().numpy()
        edge_effects = result.edge_effects.double().numpy()
        if not by_role:
            effects, edge_effects = effects.sum(1)[:, None], edge_effects.sum(1)[:, None]
        places = dict(zip(result.labels, result.places()))
        layers = sorted({place.layer for place in places.values() if place.layer >= 0})
        rows = [EMBED, *map(str, layers), READ]
        level = {layer: 1.0 + i for i, layer in enumerate(layers)}
        kinds = _kinds(list(places.values()))
        slots = {kind: i for i, kind in enumerate(kinds)}
        # With roles the nodes of a layer share a cell; without, each kind has a column.
        crowd = max((sum(p.layer == layer for p in places.values()) for layer in layers), default=1)
        widths = [max(crowd, 2)] * len(result.roles) if by_role else [1] * max(len(kinds), 1)
        columns = list(map(words, result.roles)) if by_role else [_told(kind) for kind in kinds]
        order: dict[str, int] = {}
        for layer in layers:
            inside = [label for label, p in places.items() if p.layer == layer]
            order |= {label: i for i, label in enumerate(inside)}

        def where(label: str, role: int) -> tuple[float, float]:
            start = float(sum(widths[:role]))
            middle = start + (widths[role] if by_role else sum(widths)) / 2 - 0.5
            if label in (EMBED, READ):
                return middle, 0.0 if label == EMBED else len(rows) - 1.0
            place = places[label]
            height = level[place.layer]
            if not by_role:
                return float(slots[_kind(place)]), height + 0.22 * (place.kind in ("mlp", "neuron"))
            count = sum(p.layer == place.layer for p in places.values())
            return start + (widths[role] - count) / 2 + order[label], height

        largest = float(np.abs(edge_effects if result.of == "edges" else effects).max()) or 1.0
        ends = list(zip(result.writers.tolist(), result.readers))
        each = [(e, r) for e in range(len(ends)) for r in range(edge_effects.shape[1])]
        each = [(e, r) for e, r in each if edge_effects[e, r]]
        each.sort(key=lambda at: -abs(edge_effects[at]))
        arcs, touched, shared = [], set(), False
        for e, r in each[:top]:
            writer, reader = result.labels[ends[e][0]], ends[e][1]
            owners = [own for own in result.owners.get(reader, ()) if own in places]
            shared |= len(owners) > 1
            touched.add((writer, r))
            value = float(edge_effects[e, r])
            for own in owners or [READ]:
                touched.add((own, r))
                share = abs(value) / largest
                arcs.append(_Arc(where(writer, r), where(own, r), share, value > 0))
        most = float(np.abs(effects).max()) or 1.0
        dots = []
        for i, label in enumerate((*result.labels, READ)):
            for r in range(effects.shape[1]):
                value = float(effects[i, r]) if label != READ else 0.0
                ends_only = label in (EMBED, READ)
                if (label, r) in touched or (result.of == "nodes" and (value or ends_only)):
                    place = places.get(label)
                    name = label if place is None or ends_only else _name(place, by_role)
                    dots.append((*where(label, r), abs(value) / most, int(np.sign(value)), name))
        return cls(
            rows, columns, widths, by_role, arcs, dots, largest, max(len(each) - top, 0), shared
        )  # fmt: skip


def _kind(place: Place) -> tuple[str, int]:
    return (place.kind, place.index) if place.kind == "head" else (place.kind, -1)


def _kinds(places: list[Place]) -> list[tuple[str, int]]:
    """The columns: heads by number, then whole attentions, MLPs (their neurons above them), blocks."""
    last = ("head", "attn", "mlp", "neuron", "layer")
    found = {_kind(place) for place in places if place.kind in last}
    return sorted(found, key=lambda kind: (last.index(kind[0]), kind[1]))


def _told(kind: tuple[str, int]) -> str:
    name, index = kind
    whole = {"attn": "attention", "mlp": "MLP", "neuron": "neurons", "layer": "block"}
    return f"H{index}" if name == "head" else whole.get(name, name)


def _name(place: Place, by_role: bool) -> str:
    if place.kind == "neuron":
        return f"N{place.index}"
    return _told(_kind(place)) if by_role else ""


def _draw_arc(ax: Axes, arc: _Arc) -> None:
    bend = 0.12 * np.sign(arc.end[0] - arc.start[0]) or 0.18
    ax.add_patch(
        FancyArrowPatch(
            arc.start,
            arc.end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-",
            linewidth=LEAST + (WIDEST - LEAST) * arc.share,
            color=style.css(0.75 if arc.positive else -0.75),
            alpha=0.25 + 0.6 * arc.share,
            shrinkA=0,
            shrinkB=0,
            zorder=1 + arc.share,
        )
    )


def _draw_dots(ax: Axes, plan: _Plan) -> None:
    for x, y, share, sign, _ in plan.dots:
        size = SMALLEST + (LARGEST - SMALLEST) * share
        face = style.css(0.75 * sign) if sign else style.INK
        look: dict[str, Any] = dict(
            markerfacecolor=face, markeredgecolor="white", markeredgewidth=0.8
        )
        ax.add_line(Line2D([x], [y], marker="o", markersize=size**0.5, zorder=3, **look))
    if len(plan.dots) <= MOST_NAMES:
        for x, y, share, _, name in plan.dots:
            away = (SMALLEST + (LARGEST - SMALLEST) * share) ** 0.5 / 2 + 2
            style.note(ax, letters.cut(name, 12), (x, y), (away, 0), size=7, ha="left", va="center")
