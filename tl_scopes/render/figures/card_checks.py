"""Figures of the sanity checks of a faithfulness card, and of Fisher spectra."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_scopes.render.colours import number
from tl_scopes.render.figures import card_axes as on
from tl_scopes.render.figures import style
from tl_scopes.render.report.checks import ranks
from tl_scopes.results.card import THRESHOLD, FaithfulnessCard
from tl_scopes.results.statistics import summaries


def randomisation(card: FaithfulnessCard) -> Figure:
    assert card.randomisation is not None
    looks, verdicts = on.looks(card), card.verdicts().set_index("method")["verdict"]
    shown = {method: look for method, look in looks.items() if method in verdicts.index}
    figure = on.lines_sheet(shown, 1, 1, 4.6)
    ax = figure.subplots()
    depths = sorted(card.randomisation["depth"].unique().tolist())
    for method, look in shown.items():
        rows = card.randomisation[card.randomisation["method"] == method]
        _with_intervals(ax, look, rows.groupby("depth")["similarity"])
    ax.axhline(THRESHOLD, color=style.READ, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    text = style.note(
        ax, f"a method fails above {THRESHOLD:g}", (1.0, THRESHOLD), (-2, 2), size=7.5,
        color=style.READ, ha="right", va="bottom", xycoords=ax.get_yaxis_transform(),
    )  # fmt: skip
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    text.set_zorder(5)
    style.thin(ax)
    on.zero(ax)
    every = -(-len(depths) // 12)
    places = depths[::-1][::every][::-1]
    style.label(ax.xaxis, [str(d) for d in places], 8, places)
    on.ticks(ax.yaxis)
    similarity = "similarity to the intact model's scores (Spearman)"
    on.heading(ax, "", "blocks randomised, from the output", similarity)
    on.legend(figure, shown, {str(m): str(v) for m, v in verdicts.items()})
    n = card.randomisation["index"].nunique()
    style.caption(figure, "Do scores depend on what the model has learnt?", on.setting(card, n))
    return figure


def stability(card: FaithfulnessCard) -> Figure:
    assert card.stability is not None
    frame, looks = card.stability, on.looks(card)
    shown = {m: look for m, look in looks.items() if m in set(frame["method"])}
    scales = sorted(frame["scale"].unique().tolist())
    figure = on.lines_sheet(shown, 2, 1)
    titles = {"spearman": "rank correlation with the scores without noise ↑",
              "change": "largest change, over the largest score ↓"}  # fmt: skip
    for ax, (column, heading) in zip(figure.subplots(1, 2), titles.items()):
        for method, look in shown.items():
            values = frame[frame["method"] == method].groupby(["scale", "index"])[column]
            per_prompt = (values.mean() if column == "spearman" else values.max()).reset_index()
            places = per_prompt["scale"].map(scales.index)
            shift = (list(shown).index(method) - (len(shown) - 1) / 2) * 0.5 / (len(shown) + 2)
            _with_intervals(ax, look, per_prompt.groupby(places)[column], shift)
        style.thin(ax)
        on.zero(ax)
        style.label(ax.xaxis, [number(s) for s in scales], 8)
        ax.set_xlim(-0.4, len(scales) - 0.6)
        on.ticks(ax.yaxis)
        on.heading(ax, heading, "noise, as a share of each embedding's norm")
    on.legend(figure, shown)
    style.caption(
        figure,
        "How far noise on the embeddings moves scores",
        on.setting(card, frame["index"].nunique()),
    )
    return figure


def _with_intervals(ax: Axes, look: on.Look, groups: Any, shift: float = 0.0) -> None:
    """Means of groups of values, by the key of the group on x."""
    keys, values = zip(*groups)
    each = summaries(group.to_numpy() for group in values)
    low, high = (np.array([getattr(s, side) for s in each]) for side in ("low", "high"))
    means = np.array([s.mean for s in each])
    on.line(ax, look, list(keys), means, low, high, shift)


def spectrum(card: FaithfulnessCard) -> Figure:
    """Eigenvalues, and the share that the first k hold: median over prompts, with a band."""
    assert card.spectra is not None
    frame = card.spectra
    figure = style.sheet(2 * 3.9 + 0.8, 4.1)
    left, right = figure.subplots(1, 2)
    for ax, column in ((left, "eigenvalue"), (right, "share")):
        table = frame.pivot(index="k", columns="index", values=column).sort_index()
        # All that there is lies below k where a prompt has fewer.
        table = table.ffill() if column == "share" else table
        low, middle, high = (table.quantile(q, axis=1).to_numpy() for q in (0.1, 0.5, 0.9))
        k = table.index.to_numpy()
        ax.set_xscale("log")
        ax.fill_between(k, low, high, color=style.css(0.18), linewidth=0)
        ax.plot(k, middle, color=style.css(0.75), linewidth=1.5)
        style.thin(ax)
        top = max(int(k.max()), 2)
        places = [4**i for i in range(math.floor(math.log(top, 4)) + 1)]
        places += [top] if top > 1.6 * places[-1] else []
        style.label(ax.xaxis, [str(p) for p in places], 8, places)
        ax.minorticks_off()
        ax.set_xlim(0.92, top * 1.08)
    left.set_yscale("log")
    low, high = left.get_ylim()
    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    places = [10.0**d for d in list(decades)[:: -(-len(decades) // 7) or 1]]
    style.label(left.yaxis, [number(p) for p in places], 8, places)
    left.minorticks_off()
    right.set_ylim(0, 1.02)
    style.label(right.yaxis, ["0", "25%", "50%", "75%", "100%"], 8, [0.0, 0.25, 0.5, 0.75, 1.0])
    for share in (0.5, 0.9, 0.99):
        k = ranks(frame, share).median()
        if math.isfinite(k):
            right.plot([k, k], [0, share], color=style.FAINT, linewidth=0.9, zorder=0)
            right.plot(k, share, marker="o", markersize=4.5, color=style.READ)
            told = f"{100 * share:g}%: k = {number(float(k))}"
            style.note(right, told, (k, share), (5, -9), size=7.5, color=style.READ)
    on.heading(left, "k-th eigenvalue of F", "k", "nats per unit² of the final state")
    on.heading(right, "share of tr F that the first k hold", "k")
    n = frame["index"].nunique()
    reading = "line: median over prompts; band: 10% to 90%"
    style.caption(
        figure, "How the Fisher information of predictions is spread", on.setting(card, n, reading)
    )
    return figure
