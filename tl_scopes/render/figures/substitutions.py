"""The figure of substitutions: what other tokens would move, and what they really moved."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError, check_whole
from tl_scopes.render import wording
from tl_scopes.render.figures import letters, style
from tl_scopes.render.figures.grids import level_bars, name_levels
from tl_scopes.render.tokens import clipped, words
from tl_scopes.results.substitutions import Substitutions

TALL = 0.22  # inches of a row


def draw_substitutions(result: Substitutions, *, top: int = 24) -> Figure:
    """See `tl_scopes.render.figure`."""
    check_whole("top", top, 1, error=RenderError)
    frame = result.to_frame()
    if not len(frame) or not np.isfinite(frame["effect"]).all():
        raise RenderError(
            "these Substitutions hold no effects, or NaN or infinite ones: nothing to draw; ask for others"
        )
    order = frame["effect"].abs().sort_values(ascending=False, kind="stable").index
    shown = frame.loc[order[:top][::-1]].sort_values("position", ascending=False, kind="stable")
    figure = style.sheet(7.2, TALL * len(shown) + 1.6)
    ax = figure.subplots()
    names = [
        f"{row.position} {letters.cut(clipped(row.token, 16), 16)} → {clipped(row.other, 16)}"
        for row in shown.itertuples()
    ]
    places = level_bars(ax, shown["effect"].to_numpy(), names)
    measured = shown["measured"].to_numpy()
    known = np.isfinite(measured)
    if known.any():
        ax.scatter(measured[known], places[known], s=20, facecolor="white", edgecolor=style.INK,
                   linewidth=0.9, zorder=3)  # fmt: skip
    name_levels(ax, len(shown))
    style.name_axes(ax, f"change, first order ({words(result.units)})")
    notes = [f"the {len(shown)} strongest of {len(frame)}" * (len(shown) < len(frame))]
    notes += ["circles: measured in a forward pass"] if known.any() else []
    facts = [wording.method(result.scope), f"among {result.among} tokens"]
    facts += [wording.read_at((result.position, result.str_tokens[result.position]))]
    style.caption(figure, title(result), wording.DOT.join(facts), [n for n in notes if n])
    return figure


def title(result: Substitutions) -> str:
    """What is shown, for every drawing."""
    return f"What another token would change of {wording.explained(result.scope, result.target)}"
