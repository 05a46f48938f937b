"""The figure of predictions against interventions, and of how far first order reaches."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from tl_scopes.errors import RenderError, check_whole
from tl_scopes.render.colours import MAX_DECADES, number, percent
from tl_scopes.render.figures import circuits, letters, style
from tl_scopes.render.picture import one_of
from tl_scopes.render.tokens import words
from tl_scopes.results.circuits import Agreement, Verification

SIDE = 4.1  # inches of an axis
CHARACTER, LINE_HEIGHT = 0.068, 0.14  # of the labels, in inches


def draw_verification(result: Verification, *, scale: str = "linear", top: int = 8) -> Figure:
    """See `tl_scopes.render.circuit`."""
    one_of("scale", scale, ("linear", "log"))
    check_whole("top", top, 1, error=RenderError)
    circuits.check(
        result, predicted=result.predicted, measured=result.measured, scores=result.scores
    )
    curve = len(result.step_errors) > 0
    figure = style.sheet(SIDE * (2 if curve else 1) + 1.8, SIDE + 1.5)
    axes = figure.subplots(1, 2 if curve else 1, squeeze=False)[0]
    _scatter(axes[0], result, scale == "log", top)
    if curve:
        _steps(axes[1], result)
    what = "heads" if result.by == "head" else "tokens"
    title = f"What ablating {what} does to {circuits.explained(result)}: predicted, and measured"
    ranks = f"Spearman of scores and measured sizes {_interval(result.rank_agreement)}"
    predicted = f"of predicted and measured {_interval(result.prediction_agreement)}"
    overlap = f"top-{result.k} overlap {percent(result.top_overlap)}"
    unseen = f"{words(result.intervention)} ablation of {len(result.labels)} {what}"
    style.caption(figure, title, circuits.setting(result, ranks, predicted, overlap, unseen))
    return figure


def _interval(agreement: Agreement) -> str:
    if not math.isfinite(agreement.value):
        return "undefined"
    shown = f"{agreement.value:.2f}"
    if math.isfinite(agreement.low) and math.isfinite(agreement.high):
        shown += f" (95%: {agreement.low:.2f} to {agreement.high:.2f})"
    return shown


def _scatter(ax: Axes, result: Verification, log: bool, top: int) -> None:
    x, y = circuits.array(result.predicted), circuits.array(result.measured)
    most = float(max(np.abs(x).max(), np.abs(y).max())) or 1.0
    # As numbers can be too small or large for an axis; to a power of ten, for logarithmic ticks.
    limit = 10.0 ** math.ceil(math.log10(most)) if log else most
    x, y, most = x / limit, y / limit, most / limit
    both = np.concatenate([x, y])
    below, above = bool((both < 0).any()), bool((both > 0).any() or not (both < 0).any())
    decades = 0
    if log:
        size = np.abs(both[both != 0])
        decades = math.ceil(-math.log10(size.min(initial=1.0)))
        decades = min(max(decades, 1), MAX_DECADES)
        for set_scale in (ax.set_xscale, ax.set_yscale):
            set_scale("symlog", linthresh=10.0**-decades)
        ticks = [10.0**-k for k in range(0, decades + 1, 2 if below and decades > 2 else 1)]
        ticks = sorted([0.0, *ticks, *(-t for t in ticks)])
        edge, beyond = 10.0**-decades / 4, most * 1.4
    else:
        ticks = [float(t) / limit for t in MaxNLocator(5).tick_values(-limit, limit)]
        edge, beyond = 0.06 * most, most * 1.12
    ends = (-beyond if below else -edge, beyond if above else edge)
    ticks = [t for t in ticks if ends[0] <= t <= ends[1]]
    for axis in (ax.xaxis, ax.yaxis):
        style.label(axis, [number(t * limit) for t in ticks], 8, ticks)
    ax.minorticks_off()
    ax.set(xlim=ends, ylim=ends)
    ax.axhline(0, color=style.LINE, linewidth=0.8, zorder=0)
    ax.axvline(0, color=style.LINE, linewidth=0.8, zorder=0)
    dense = np.linspace(*ends, 200)
    if log:  # a straight line is bent by logarithmic axes
        fine = np.geomspace(10.0 ** -(decades + 2), beyond, 200)
        dense = np.concatenate([-fine[::-1], [0.0], fine])
        dense = dense[(dense >= ends[0]) & (dense <= ends[1])]
    ax.plot(dense, dense, color=style.PALE, linewidth=1, linestyle=(0, (4, 3)), label="equal")
    if math.isfinite(result.slope):
        line = result.slope * dense
        if log:  # it would be bent where one of the axes is linear
            line[np.minimum(np.abs(line), np.abs(dense)) < 10.0**-decades] = np.nan
        ax.plot(dense, line, color=style.READ, linewidth=1.1,
                label=f"slope {number(result.slope)}")  # fmt: skip
    chosen = np.array([which == "top" for which in result.chosen])
    for inside, fill, edge, name in (
        (~chosen, "white", style.SOFT, "random"),
        (chosen, style.css(0.6), style.css(1.0), "top"),
    ):
        if inside.any():
            ax.scatter(x[inside], y[inside], s=24, facecolor=fill, edgecolor=edge, linewidth=0.7,
                       zorder=3, label=f"{name} ({int(inside.sum())})")  # fmt: skip
    _name_points(ax, result, x, y, top)
    unit = circuits.effect_unit(result)
    style.name_axes(ax, f"predicted change, first order ({unit})", f"measured change ({unit})")
    style.thin(ax)
    parts = zip(*ax.get_legend_handles_labels())
    style.legend(ax, parts, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handlelength=1.5,
                 columnspacing=1.2, borderpad=0)  # fmt: skip


def _name_points(ax: Axes, result: Verification, x: np.ndarray, y: np.ndarray, top: int) -> None:
    """Labels of the largest, each where no other label is; none where there is no such place."""
    to_inches = ax.transData + ax.transAxes.inverted()
    points = to_inches.transform(np.column_stack([x, y])) * SIDE
    taken = [Bbox.from_bounds(px - 0.05, py - 0.05, 0.1, 0.1) for px, py in points]
    places = [(0.08, 0.0), (-0.08, 0.0), (0.0, 0.13), (0.0, -0.13), (0.07, 0.12), (-0.07, -0.12),
              (0.07, -0.12), (-0.07, 0.12)]  # fmt: skip
    order = np.argsort(-np.maximum(np.abs(x), np.abs(y)), kind="stable")[:top]
    for i in order:
        name = letters.cut(words(result.labels[i]), 18)
        wide = CHARACTER * letters.cells(name)
        for dx, dy in places:
            side, share = ("left", 0.0) if dx > 0 else ("right", 1.0) if dx < 0 else ("center", 0.5)
            px, py = points[i] + (dx - share * wide, dy - LINE_HEIGHT / 2)
            box = Bbox.from_bounds(px, py, wide, LINE_HEIGHT)
            inside = min(box.x0, box.y0) > 0 and max(box.x1, box.y1) < SIDE
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                offset = (dx * 72, dy * 72)
                style.note(ax, name, (x[i], y[i]), offset, size=7.5, ha=side, va="center")
                break


def _steps(ax: Axes, result: Verification) -> None:
    steps, errors = np.array(result.steps), np.array(result.step_errors, dtype=float)
    here = (errors > 0) & np.isfinite(errors) & (steps > 0)
    step = "step: share of the whole intervention"
    style.name_axes(ax, step, "median error / predicted change")
    style.thin(ax)
    if not here.any():
        style.note(ax, "no error at any step", (0.5, 0.5), size=9, color=style.SOFT, ha="center",
                   va="center", xycoords="axes fraction")  # fmt: skip
        ax.set(xticks=[], yticks=[])
        return
    steps, errors = steps[here], errors[here]
    ax.set(xscale="log", yscale="log")
    for level in (0.1, 1.0):
        ax.axhline(level, color=style.FAINT, linewidth=0.8, zorder=0)
        style.note(ax, f"{level:.0%}", (1.0, level), (-2, 2), color=style.SOFT, ha="right",
                   va="bottom", xycoords=("axes fraction", "data"))  # fmt: skip
    for axis, values in ((ax.xaxis, steps), (ax.yaxis, [*errors, 0.1, 1.0])):
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        places = [10.0**k for k in range(low, high + 1, 1 + (high - low) // 8)]
        style.label(axis, [number(place) for place in places], 8, places)
    ax.minorticks_off()
    ax.plot(steps, errors, color=style.css(0.6), marker="o", markersize=4.5, linewidth=1.4,
            markeredgecolor=style.css(1.0), markeredgewidth=0.7)  # fmt: skip
    ax.set(xlim=(steps.min() / 1.4, steps.max() * 1.4),
           ylim=(min(errors.min(), 0.1) / 1.8, max(errors.max(), 1.0) * 1.8))  # fmt: skip
