"""Figures of influence by way of the positions of one layer: a matrix like attention's."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_scopes.render.colours import Scale, number
from tl_scopes.render.figures import circuits, letters, style
from tl_scopes.render.picture import one_of
from tl_scopes.render.tokens import words
from tl_scopes.results.flows import Flow


def draw_flow(
    result: Flow,
    *,
    values: str = "share",
    scale: str = "linear",
    include_bos: bool = False,
) -> Figure:
    """See `tl_scopes.render.circuit`."""
    one_of("values", values, ("share", "signed", "norms"))
    one_of("scale", scale, ("linear", "log"))
    one_of("include_bos", include_bos, (False, True))
    circuits.check(result, norms=result.norms, signed=result.signed, scores=result.scores)
    n = result.position + 1
    parts = {"share": result.share, "signed": result.signed, "norms": result.norms}[values]
    matrix, inside = circuits.array(parts)[:n, :n], circuits.coloured(result, include_bos)
    reachable = np.tril(np.ones((n, n), dtype=bool))  # nothing moves to an earlier position
    shown = reachable & inside & inside[:, None]
    shades = Scale.fit(matrix[shown], scale, values == "signed")
    unit = "share of each source token's norms" if values == "share" else words(result.units)
    cell = float(np.clip(4.6 / n, 0.175, 0.45))
    more = letters.room(circuits.token_labels(result))
    figure = style.sheet(n * cell + 2.6 + more, n * cell + 3.1 + more)
    top, ax = figure.subplots(2, 1, sharex=True, height_ratios=[0.75, max(n * cell, 1.0)])
    ax.set_facecolor("#f7f8f9")
    style.paint(ax, matrix, shades, shown)
    for t in np.flatnonzero(~inside):
        style.hatch(ax, (t - 0.5, t + 0.5), (t - 0.5, n - 0.5))
    for edge in np.arange(0.5, n - 1):
        ax.hlines(edge, -0.5, edge, color=style.LINE, linewidth=0.6)
        ax.vlines(edge, edge, n - 0.5, color=style.LINE, linewidth=0.6)
    circuits.label_tokens(ax.xaxis, result, inside)
    circuits.label_tokens(ax.yaxis, result, inside)
    through = f"through position at {words(result.layer)}"
    style.name_axes(ax, f"source token at {words(result.site)}", through)
    _score_bars(top, circuits.array(result.scores)[:n], inside)
    style.colour_bar(figure, [top, ax], shades, unit, n * cell + 1)
    how = {
        "share": "norm shares, each source token's sum to 1",
        "signed": "signed: projected on each token's whole gradient, each column sums to its score",
        "norms": "norms of the parts",
    }[values]
    title = f"Through which positions tokens move {circuits.explained(result)}"
    notes = [
        circuits.bos_note(result, inside),
        "bars: score of each source token, all positions together",
    ]
    style.caption(figure, title, circuits.setting(result, how), notes)
    return figure


def _score_bars(ax: Axes, scores: np.ndarray, inside: np.ndarray) -> None:
    """What the columns below split. Taller bars than those in the colours are cut off."""
    limit = float(np.abs(scores[inside]).max()) or 1.0
    lengths = np.clip(scores / limit, -1.25, 1.25)
    for t, length in enumerate(lengths):
        plain: dict[str, Any] = {"color": style.css(0.55 if length >= 0 else -0.55)}
        ax.bar(t, length, width=0.75, **(plain if inside[t] else style.HATCHED))
        if abs(scores[t]) > 1.25 * limit:
            told = f"↑ {number(float(scores[t]))}"
            style.note(ax, told, (t, length), (0, 2), color=style.SOFT)
    low = min(float(lengths.min()), 0.0)
    ax.set_ylim(1.1 * low, 1.3)
    ax.axhline(0, color=style.FAINT, linewidth=0.8)
    ticks = [-1.0, 0.0, 1.0] if low < -0.5 else [0.0, 1.0]
    ax.set_yticks(ticks, [number(x * limit) for x in ticks])
    ax.tick_params(axis="y", labelsize=7, length=2, color=style.FAINT)
    ax.tick_params(axis="x", length=0, labelbottom=False)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.spines["left"].set_color(style.FAINT)
    style.write(ax.yaxis.label, "score", size=8, color=style.SOFT)
