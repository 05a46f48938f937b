"""The figure of how alike lists of the largest nodes or edges are, by their length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tl_scopes.render.colours import number
from tl_scopes.render.figures import card_axes as on
from tl_scopes.render.figures import style
from tl_scopes.render.report.words import HOW, name
from tl_scopes.render.wording import DOT, counted
from tl_scopes.results.stability import SAME, STABLE, CircuitStability


def draw(result: CircuitStability) -> Figure:
    """See `tl_scopes.render.figure`."""
    return drawn([result], "")


def drawn(results: Sequence[CircuitStability], by: str) -> Figure:
    figure = style.sheet(len(results) * (on.WIDTH + 0.9) + 2.6, 4.0)
    handles: dict[str, Line2D] = {}
    for ax, own in zip(on.axes(figure, 1, len(results), len(results)), results):
        x = np.arange(1, own.k + 1)
        for i, (label, c) in enumerate(_shown(own).items()):
            colour, marker, dash = on.look(i)
            look = on.Look(label, colour, marker, dash)
            ends = (ends[c].numpy() for ends in (own.jaccard_low, own.jaccard_high))
            on.line(ax, look, x.tolist(), own.jaccard[c].numpy(), *ends, shift=0.12 * (i - 1))
            handles.setdefault(
                label, Line2D([], [], color=colour, linestyle=dash, marker=marker, markersize=4.5)
            )
        ax.plot(x, own.chance.numpy(), color=style.PALE, linewidth=1.4)
        handles["by chance"] = Line2D([], [], color=style.PALE, linewidth=1.4)
        for y, text in ((SAME, "the same"), (STABLE, "stable")):
            ax.axhline(y, color=style.READ, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            style.note(ax, f"{text} from {number(y)}", (1.0, y), (3, 0), size=7, color=style.READ,
                       va="center", xycoords=ax.get_yaxis_transform())  # fmt: skip
        ax.set_ylim(-0.03, 1.03)
        style.thin(ax)
        places = [int(p) for p in x if own.k <= 12 or not (p - 1) % (own.k // 8)]
        style.label(ax.xaxis, [str(p) for p in places], 8, places)
        on.ticks(ax.yaxis)
        on.heading(
            ax, own.of if len(results) > 1 else "", "length of the lists", "Jaccard of two lists"
        )
    handles["by chance"] = handles.pop("by chance")
    parts = [(handle, label) for label, handle in handles.items()]
    style.legend(figure, parts, loc="outside right center", handlelength=2.4, labelspacing=0.7)
    first = results[0]
    facts = [
        name(first.provenance.model),
        counted(first.pairs[0], "pair"),
        f"by {name(by)}" if by else "",
    ]
    facts.append(
        f"means and the middle 95% of {first.resamples} resamples, {first.resamples // 2} splits"
    )
    title = "Would other pairs put the same first?"
    style.caption(figure, title, DOT.join(filter(None, facts)))
    return figure


def _shown(own: CircuitStability) -> dict[str, int]:
    """Comparisons that are drawn: of one result all, of several halves."""
    shown = {}
    for c, (a, b, how) in enumerate(zip(own.first, own.second, own.how)):
        if len(own.names) == 1:
            shown[HOW[how]] = c
        elif how == "halves":
            both = [name(own.names[a])] if a == b else [name(own.names[a]), name(own.names[b])]
            shown["\n".join(on.lines(f"halves of {' and '.join(both)}"))] = c
    return shown
