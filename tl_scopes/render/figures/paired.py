"""Figures of effects over many pairs: the largest with their intervals, heads as a grid."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError, check_whole
from tl_scopes.render import wording
from tl_scopes.render.colours import Scale
from tl_scopes.render.figures import circuits, style
from tl_scopes.render.figures.grids import Bars, head_grid, level_bars, name_levels, strongest
from tl_scopes.render.picture import one_of
from tl_scopes.render.tokens import words
from tl_scopes.results.paired import PairedComponents, PairedPaths, PairedResult

TALL = 0.22  # inches of a row


def draw_paired(
    result: PairedResult, *, over: str = "rows", role: str | None = None, top: int = 24
) -> Figure:
    """See `tl_scopes.render.figure`."""
    one_of("over", over, ("rows", "heads"))
    one_of("role", role, (None, *result.roles))
    check_whole("top", top, 1, error=RenderError)
    if not result.effects.numel() or not result.effects.isfinite().all():
        raise RenderError(
            f"this {type(result).__name__} holds no effects, or NaN or infinite ones: nothing to draw; "
            "make it again"
        )
    if over == "heads":
        return _grid(result, role)
    own = result if role is None and len(result.roles) == 1 else result.of_role(role)
    values = circuits.array(own.mean()[:, 0])
    rows = strongest(values, top)[::-1]
    low, high = circuits.array(own.interval()[:, rows, 0])
    shown = values[rows]
    figure = style.sheet(7.2, TALL * len(rows) + 1.6)
    ax = figure.subplots()
    places = level_bars(ax, shown, [words(result.row_labels()[i]) for i in rows])
    if np.isfinite(low).all():
        ax.hlines(places, low, high, color=style.INK, linewidth=0.9)
    name_levels(ax, len(rows))
    influence = isinstance(result, PairedPaths)
    unit = words(result.units) if influence else circuits.effect_unit(result)
    what = "influence" if influence else "effect"
    style.name_axes(ax, f"mean {what} over pairs ({unit})")
    some = f"the {len(rows)} of {len(values)} with the largest means" * (len(rows) < len(values))
    lines = "lines: 95% bootstrap intervals" if np.isfinite(low).all() else ""
    _caption(figure, result, "What moves", role, [some, lines])
    return figure


def _grid(result: PairedResult, role: str | None) -> Figure:
    if not isinstance(result, PairedComponents) or "head" not in result.kinds:
        raise RenderError(
            "over='heads', but this result has no heads: make it with components(..., by=\"head\"), or "
            "draw it with over='rows'"
        )
    grid = circuits.array(result.head_grid(role))
    layers = sorted({layer for layer, kind in zip(result.layers, result.kinds) if kind == "head"})
    own = circuits.array(result.of_role(role).mean()[:, 0])
    of = {pair: i for i, pair in enumerate(zip(result.kinds, result.layers))}
    mlps = [own[of["mlp", layer]] if ("mlp", layer) in of else 0.0 for layer in layers]
    bars = Bars("MLP", np.array(mlps)) if any(("mlp", layer) in of for layer in layers) else None
    colours = Scale.fit(grid, "linear", not result.squared)
    figure = head_grid(grid, layers, bars, colours, circuits.effect_unit(result))
    _caption(
        figure, result, "Heads that move", role, ["colours by the heads alone" if bars else ""]
    )
    return figure


def _caption(
    figure: Figure, result: PairedResult, verb: str, role: str | None, notes: list[str]
) -> None:
    where = "all positions" if role is None else f"at {words(role)}"
    held = f"{' and '.join(result.frozen)} held constant" if result.frozen else ""
    facts = [f"mean over {wording.counted(len(result.effects), 'pair')}", where,
             wording.method(result.scope), held, wording.ruled(result.provenance.rules)]  # fmt: skip
    title = f"{verb} {wording.explained(result.scope, None)}"
    style.caption(figure, title, wording.DOT.join(filter(None, facts)), notes)
