"""The figure of faithfulness over the size of circuits."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError
from tl_scopes.render import wording
from tl_scopes.render.colours import number, percent
from tl_scopes.render.figures import style
from tl_scopes.render.tokens import words
from tl_scopes.results.faithfulness import Faithfulness

OWN, EXACT = "#0072b2", "#d55e00"
# Of f: what goes beyond is told of below.
LOWEST, HIGHEST = -1.0, 2.0


def draw_faithfulness(result: Faithfulness) -> Figure:
    """See `tl_scopes.render.figure`."""
    f = result.f.numpy()
    if not len(f) or not np.isfinite(f).all():
        raise RenderError("this result holds no finite f: judge circuits of some sizes first")
    figure = style.sheet(6.6, 4.4)
    ax = figure.subplots()
    x = np.array(result.shares)
    for y in (0.0, 1.0):
        ax.axhline(y, color=style.FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    parts, seen = [], [f]
    drawn = result.random_f.numpy()
    if len(drawn):
        low, high = drawn.min(0), drawn.max(0)
        seen += [low, high]
        band = ax.fill_between(x, low, high, color=style.FAINT, alpha=0.6, linewidth=0, zorder=1)
        (line,) = ax.plot(x, drawn.mean(0), color=style.SOFT, linewidth=1.2, marker=".", zorder=2)
        parts.append(((band, line), f"{len(drawn)} random: mean, all"))
    if result.exact is not None:
        curve = result.exact_f.numpy()
        seen += [curve, *_bounds(ax, x, result.exact_interval().numpy(), EXACT)]
        (line,) = ax.plot(x, curve, color=EXACT, linewidth=1.5, linestyle=(0, (4, 2)), marker="s",
                          markersize=3.5, zorder=3)  # fmt: skip
        parts.append((line, "by exact patching"))
    seen += _bounds(ax, x, result.interval().numpy(), OWN)
    (line,) = ax.plot(x, f, color=OWN, linewidth=1.8, marker="o", markersize=4, zorder=4)
    parts.insert(0, (line, "by the scores"))
    every = np.concatenate([np.ravel(values) for values in seen])
    bottom, top = max(min(every.min(), 0.0), LOWEST), min(max(every.max(), 1.0), HIGHEST)
    room = 0.06 * (top - bottom)
    ax.set(ylim=(bottom - room, top + room))
    if len(x) > 1:
        ax.set(xscale="log", xlim=(x.min() / 1.25, x.max() * 1.25))
        ax.minorticks_off()
    style.label(ax.xaxis, [f"{percent(s)}\n{n}" for s, n in zip(x, result.sizes)], 7, x)
    what = f"share of all {result.candidates} {result.of}, and how many"
    style.name_axes(ax, what, "f: what the circuit keeps")
    style.thin(ax)
    style.legend(ax, parts, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handlelength=1.8,
                 columnspacing=1.2, borderpad=0)  # fmt: skip
    beyond = bool((every < LOWEST).any() or (every > HIGHEST).any())
    _caption(figure, result, beyond)
    return figure


def _bounds(ax: Axes, x: np.ndarray, bounds: np.ndarray, colour: str) -> list[np.ndarray]:
    """95% intervals as a band; nothing where there are none."""
    if not np.isfinite(bounds).all():
        return []
    ax.fill_between(x, *bounds, color=colour, alpha=0.15, linewidth=0, zorder=1.5)
    return list(bounds)


def _caption(figure: Figure, result: Faithfulness, beyond: bool) -> None:
    title = f"What circuits of {result.of} keep"
    areas = []
    if len(result.sizes) > 1:
        areas = [f"CPR {number(result.cpr)}", f"CMD {number(result.cmd)}"]
    facts = [
        wording.counted(len(result.clean), "pair"),
        f"{words(result.ablation)} ablation",
        *areas,
        wording.method(result.scope),
    ]
    notes = [
        "f: 0 the corrupted prompt, 1 the clean one",
        "bands: 95% bootstrap intervals over pairs" if len(result.clean) > 1 else "",
        "beyond the axis not drawn" if beyond else "",
    ]
    style.caption(figure, title, wording.DOT.join(facts), notes)
