"""Coloured maps with a bar for each row beside them: layers by heads, components by tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError, check_whole
from tl_scopes.render.colours import Scale, number
from tl_scopes.render.figures import circuits, letters, style
from tl_scopes.results.circuits import CircuitResult

BAR_INCHES = 1.5


@dataclass(frozen=True)
class Bars:
    """One number for each row of a map. `title`: what they are."""

    title: str
    values: np.ndarray


def level_bars(ax: Axes, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A bar to the side for each of `values`, the first below. Returns their places."""
    places = np.arange(len(values))
    ax.barh(
        places, values, height=0.72, color=[style.css(0.55 if v > 0 else -0.55) for v in values]
    )
    ax.axvline(0, color=style.SOFT, linewidth=0.8)
    style.label(ax.yaxis, names, 8)
    return places


def name_levels(ax: Axes, n: int) -> None:
    """Numbers below `n` such bars, once all is drawn that stands beside them."""
    ticks = ax.get_xticks()
    low, high = ax.get_xlim()
    ax.set(ylim=(-0.7, n - 0.3), xlim=(low, high))
    inside = [x for x in ticks if low <= x <= high]
    style.label(ax.xaxis, [number(float(x)) for x in inside], 8, inside)
    style.thin(ax)


def head_grid(
    values: np.ndarray, layers: Sequence[int], bars: Bars | None, scale: Scale, unit: str
) -> Figure:
    """`values` [layer, head_index], NaN where a layer has no heads."""
    n_layers, n_heads = values.shape
    tall = float(np.clip(3.0 / n_layers, 0.235, 0.5))
    wide = float(np.clip(4.2 / n_heads, 0.3, 0.62))
    figure, ax = _sheet(n_heads * wide + 0.5, n_layers * tall, bars)
    have = np.isfinite(values)
    colours = style.paint(ax, np.where(have, values, 0.0), scale, have)
    if wide >= 0.4:
        style.numbers(ax, values, colours, have & (np.abs(colours) >= 0.12), 6.5)
    style.separate(ax, n_layers, n_heads)
    ax.set_facecolor(style.EMPTY)
    style.label(ax.yaxis, [str(layer) for layer in layers], 8)
    style.label(ax.xaxis, [str(head) for head in range(n_heads)], 8)
    style.name_axes(ax, "head", "layer")
    style.colour_bar(figure, figure.axes, scale, unit, n_layers * tall)
    return figure


def token_map(
    result: CircuitResult,
    values: np.ndarray,
    names: Sequence[str],
    sums: np.ndarray,
    *,
    what: str,
    top: int,
    scale: str,
    signed: bool,
    include_bos: bool,
    unit: str,
    title: str,
    setting: str,
) -> Figure:
    """The `top` rows of `values` [row, pos] with the largest `sums` over all tokens. `what`: the rows."""
    rows = strongest(sums, top)
    inside = circuits.coloured(result, include_bos)
    shown = values[rows, : result.position + 1]
    colours = Scale.fit(shown[:, inside], scale, signed)
    n_row, n = shown.shape
    tall = float(np.clip(2.4 / n_row, 0.2, 0.4))
    wide = float(np.clip(5.0 / n, 0.19, 0.42))
    below = 0.8 + letters.room(circuits.token_labels(result))
    bars = Bars("all tokens", sums[rows])
    figure, ax = _sheet(n * wide + 0.9, n_row * tall + below, bars)
    style.paint(ax, shown, colours, np.broadcast_to(inside, shown.shape))
    for t in np.flatnonzero(~inside):
        style.hatch(ax, (t - 0.5, t + 0.5), (-0.5, n_row - 0.5))
    if n_row <= 64 and n <= 64:
        style.separate(ax, n_row, n)
    style.label(ax.yaxis, [names[i] for i in rows], 8 if n_row <= 40 else 7)
    circuits.label_tokens(ax.xaxis, result, inside)
    style.colour_bar(figure, figure.axes, colours, unit, n_row * tall)
    some = f"the {n_row} of {len(sums)} {what} with the largest sums"
    notes = [some if n_row < len(sums) else "", circuits.bos_note(result, inside)]
    style.caption(figure, title, setting, notes)
    return figure


def strongest(sums: np.ndarray, top: int) -> list[int]:
    """Rows of the largest magnitudes, in the order of the forward pass."""
    check_whole("top", top, 1, error=RenderError)
    order = np.argsort(-np.abs(sums), kind="stable")[:top]
    return sorted(int(i) for i in order)


def _sheet(width: float, height: float, bars: Bars | None) -> tuple[Figure, Axes]:
    """A figure around a map of `width` by `height` inches, with its bars beside it."""
    room = 1.5 + (BAR_INCHES if bars else 0.0)
    figure = style.sheet(width + room, height + 1.5)
    if bars is None:
        return figure, figure.subplots()
    left = max(figure.get_figwidth() - room, 0.1)
    ax, side = figure.subplots(1, 2, sharey=True, width_ratios=[left, BAR_INCHES])
    _draw_bars(side, bars)
    return figure, ax


def _draw_bars(ax: Axes, bars: Bars) -> None:
    """Horizontal bars from zero, each with its number, in line with the rows of the map."""
    values = bars.values
    limit = float(np.abs(values).max()) or 1.0
    lengths = values / limit  # as numbers can be too small or large for an axis
    shades = [style.css(0.55 if value >= 0 else -0.55) for value in values]
    ax.barh(range(len(values)), lengths, height=0.62, color=shades)
    for i, (value, length) in enumerate(zip(values, lengths)):
        side, offset = ("left", 3) if value >= 0 else ("right", -3)
        style.note(ax, number(float(value)), (length, i), (offset, 0), ha=side, va="center")
    both = bool((values < 0).any()), bool((values > 0).any() or not (values < 0).any())
    ax.set_xlim(-1.75 if both[0] else 0.0, 1.75 if both[1] else 0.0)
    ax.axvline(0, color=style.FAINT, linewidth=0.8)
    ax.set_xticks([])
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    style.write(ax.xaxis.label, bars.title, size=8, color=style.SOFT)
