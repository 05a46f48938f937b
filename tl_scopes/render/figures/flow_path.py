"""The figure of influence followed over several layers: bands between the tokens' rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from tl_scopes.errors import RenderError, check_number
from tl_scopes.render.colours import NEGATIVE, POSITIVE, hexed, number, percent
from tl_scopes.render.figures import circuits, letters, style
from tl_scopes.render.picture import one_of
from tl_scopes.render.tokens import quoted, words
from tl_scopes.results.flows import FlowPath

NODE, LEAST_ROW, GAP = 0.075, 0.175, 0.07  # inches


def draw_flow_path(
    result: FlowPath, *, min_share: float = 0.01, include_bos: bool = False
) -> Figure:
    """See `tl_scopes.render.circuit`."""
    one_of("include_bos", include_bos, (False, True))
    share = "a share from 0 to below 1"
    check_number("min_share", min_share, lambda x: 0 <= x < 1, share, error=RenderError)
    circuits.check(result, edges=result.edges, nodes=result.nodes)
    n = result.position + 1
    edges, nodes = circuits.array(result.edges)[:, :n, :n], circuits.array(result.nodes)[:, :n]
    plan = _Plan.make(edges, circuits.coloured(result, include_bos), min_share)
    pitch = float(np.clip(9.0 / len(edges), 0.95, 1.9))
    names = circuits.token_labels(result)
    left = letters.LETTER * max(map(letters.cells, names)) + 0.95
    width, height = pitch * len(edges), float(plan.heights.sum())
    figure = style.sheet(left + width + 1.5, height + 2.1)
    ax = figure.subplots()
    ax.set_axis_off()
    for y in plan.middles:
        ax.plot((0, width), (y, y), color=style.LINE, linewidth=0.6, zorder=0)
    for band in sorted(plan.bands, key=lambda band: -band.width):
        _draw_band(ax, band, pitch)
    for i, column in enumerate(plan.through):
        for q, size in enumerate(column):
            if size > 0:
                tall = max(size, 0.012)
                place = (i * pitch - NODE / 2, plan.middles[q] - tall / 2)
                shade = (
                    style.READ if q == n - 1 else style.INK if (i, q) in plan.used else style.FAINT
                )
                ax.add_patch(Rectangle(place, NODE, tall, color=shade, lw=0))
    _words(ax, result, names, nodes, plan, pitch)
    ax.set_xlim(-left, width + 1.1)
    ax.set_ylim(height + 0.6, -0.5)
    notes = [
        f"bands under {percent(min_share)} of their step, {percent(plan.missing)} of all flow, "
        "not drawn" if plan.missing else "",
        "percentages: shares of the scores, and of what arrives",
        "blue adds to the scores, red takes away" if plan.signed else "",
        f"BOS {quoted(result.str_tokens[0], 24)} grey"
        + (", not to scale" if plan.shrunk else "") if plan.pale else "",
        "every flow is zero" if not plan.bands else "",
    ]  # fmt: skip
    title = f"How the influence of tokens travels to {circuits.explained(result)}"
    sites = f"{words(result.sites[0])} to {words(result.sites[-1])}"
    style.caption(figure, title, circuits.setting(result, sites), notes)
    return figure


@dataclass(frozen=True)
class _Band:
    """From node (`step`, `source`) to (`step` + 1, `through`); `start`, `end`: its upper edges."""

    step: int
    source: int
    through: int
    value: float
    width: float
    start: float
    end: float
    pale: bool


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where everything lies, in inches downwards. `through`: heights of nodes [site, pos]."""

    bands: list[_Band]
    through: np.ndarray
    heights: np.ndarray
    middles: np.ndarray
    per_inch: float
    missing: float
    pale: bool
    shrunk: bool

    @property
    def used(self) -> set[tuple[int, int]]:
        """Nodes that a drawn band touches, as (site, pos)."""
        ends = [(b.step, b.source) for b in self.bands]
        return {*ends, *((b.step + 1, b.through) for b in self.bands)}

    @property
    def signed(self) -> bool:
        return any(band.value < 0 for band in self.bands)

    @classmethod
    def make(cls, edges: np.ndarray, inside: np.ndarray, min_share: float) -> _Plan:
        """`edges` [step, through, source]; sources that are not `inside` set no scale."""
        sizes = np.abs(edges) / (np.abs(edges).max() or 1.0)  # any magnitude has a square
        steps = sizes.sum((1, 2))
        drawn = (sizes > 0) & (sizes >= min_share * steps[:, None, None])
        missing = float(sizes[~drawn].sum() / (sizes.sum() or 1.0))
        pale = ~inside
        shrink = 1.0
        if pale.any() and inside.any():
            most = _through(sizes * inside)[:, inside].max()
            widest = sizes[:, :, pale].sum(1).max()
            shrink = min(1.0, float(most / widest)) if widest > 0 and most > 0 else 1.0
        widths = np.where(pale, sizes * shrink, sizes)
        through = _through(widths)
        inches = float(np.clip(1.6 + 0.09 * len(pale), 2.2, 4.5)) / (through.sum(1).max() or 1.0)
        widths, through = widths * inches, through * inches
        heights = np.maximum(through.max(0) + GAP, LEAST_ROW)
        middles = np.cumsum(heights) - heights / 2
        tops, wide = middles - through / 2, np.where(drawn, widths, 0.0)
        # Bands lie below each other in the order of where they go, and of where they come from.
        starts = tops[:-1, None, :] + np.cumsum(wide, axis=1) - wide
        ends = tops[1:, :, None] + np.cumsum(wide, axis=2) - wide
        bands = [
            _Band(step, t, q, float(edges[step, q, t]), float(wide[step, q, t]),
                  float(starts[step, q, t]), float(ends[step, q, t]), bool(pale[t]))
            for step, q, t in np.argwhere(drawn).tolist()
        ]  # fmt: skip
        unit = float(np.abs(edges).max()) / inches
        gone = bool(pale.any()) and bool(drawn[:, :, pale].any())
        return cls(bands, through, heights, middles, unit, missing, gone, gone and shrink < 0.999)


def _through(sizes: np.ndarray) -> np.ndarray:
    """The larger of what enters and what leaves each node, [site, pos]."""
    nothing = np.zeros((1, sizes.shape[1]))
    entering = np.concatenate([nothing, sizes.sum(2)])
    leaving = np.concatenate([sizes.sum(1), nothing])
    return np.maximum(entering, leaving)


def _draw_band(ax: Axes, band: _Band, pitch: float) -> None:
    x0, x1 = band.step * pitch + NODE / 2, (band.step + 1) * pitch - NODE / 2
    bend, wide = (x1 - x0) * 0.5, max(band.width, 0.008)
    a, b = band.start, band.end
    points = [(x0, a), (x0 + bend, a), (x1 - bend, b), (x1, b),
              (x1, b + wide), (x1 - bend, b + wide), (x0 + bend, a + wide), (x0, a + wide),
              (x0, a)]  # fmt: skip
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    shade = POSITIVE if band.value >= 0 else NEGATIVE
    color = style.PALE if band.pale else hexed(shade)
    ax.add_patch(PathPatch(Path(points, codes), facecolor=color, alpha=0.38, linewidth=0))


def _words(
    ax: Axes, result: FlowPath, names: list[str], nodes: np.ndarray, plan: _Plan, pitch: float
) -> None:
    """Sites above, tokens and their shares beside, and how wide what is."""
    sites = [letters.cut(words(site), 24) for site in result.sites]
    slanted = max(map(letters.cells, sites)) * 0.085 > pitch
    for i, site in enumerate(sites):
        style.note(ax, site, (i * pitch, -0.12), size=9, ha="left" if slanted else "center",
                   va="bottom", rotation=30 if slanted else 0)  # fmt: skip
    right = (len(result.sites) - 1) * pitch + 0.12
    first, last = (np.abs(row) / (np.abs(row).max() or 1.0) for row in (nodes[0], nodes[-1]))
    for t, (name, y) in enumerate(zip(names, plan.middles)):
        read = t == len(names) - 1
        text = style.note(ax, name, (-0.66, y), size=8, ha="right", va="center")
        style.mark(text, read, not (plan.pale and t == 0))
        if first[t] > 0:
            told = percent(first[t] / first.sum())
            style.note(ax, told, (-0.12, y), color=style.SOFT, ha="right", va="center")
        share = percent(last[t] / last.sum()) if last[t] / (last.sum() or 1.0) >= 0.005 else ""
        if share or read:
            told, colour = (f"{share}  read", style.READ) if read else (share, style.SOFT)
            style.note(ax, told, (right, y), color=colour, va="center")
    if plan.bands and plan.per_inch > 0:
        most = 0.45 * plan.per_inch
        nice = 10.0 ** np.floor(np.log10(most))
        nice *= max(k for k in (1, 2, 5) if k * nice <= most * (1 + 1e-9))
        tall = nice / plan.per_inch
        y = float(plan.heights.sum()) + 0.15
        ax.add_patch(Rectangle((-NODE / 2, y), NODE, tall, color=style.SOFT, lw=0))
        told = f"{number(float(nice))} ({words(result.units)})"
        style.note(ax, told, (0.12, y + tall / 2), color=style.SOFT, va="center")
