"""The report's figures: AOPC by method, Fisher's share and AOPC against rank, random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.replication import methods
from benchmarks.replication.cells import DEPTHS, Cell
from benchmarks.replication.methods import (
    FISHER,
    IG,
    IXG,
    MAIN,
    RANDOM,
    RANKS,
    SEMANTIC,
    TEMPERATURE,
    rank,
)
from tl_scopes.render.figures.card_axes import heading
from tl_scopes.render.figures.style import (
    INK,
    LINE,
    PALE,
    SOFT,
    caption,
    literal,
    sheet,
    thin,
    write,
)
from tl_scopes.results.statistics import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNIT = "AOPC, nats × share of tokens"
COLOURS = {
    RANDOM: PALE,
    IG: "#cc79a7",
    IXG: "#e69f00",
    SEMANTIC: "#009e73",
    TEMPERATURE: "#d55e00",
    FISHER: "#0072b2",
}


def draw(cells: Sequence[Cell], folder: Path) -> dict[str, Path]:
    """Write every figure as PNG to `folder`; by name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"aopc": aopc, "share": share, "rank": against_rank, "randomisation": randomisation}
    paths = {}
    for name, make in made.items():
        paths[name] = folder / f"{name}.png"
        make(cells).savefig(paths[name], dpi=150)
    return paths


def aopc(cells: Sequence[Cell]) -> Figure:
    """Means of the main table and of the PAD table with their intervals."""
    figure, panels = _panels(cells, 2.6)
    for ax, cell in zip(panels, cells):
        for y, name in enumerate(reversed(MAIN)):
            for kind, shift, face in (("zero", 0.12, COLOURS[name]), ("pad", -0.16, "white")):
                s = summary(cell.of(name, replacement=kind).to_numpy())
                ax.plot([s.low, s.high], [y + shift] * 2, color=COLOURS[name], linewidth=1.4)
                ax.plot(s.mean, y + shift, "o", color=COLOURS[name], mfc=face, markersize=5.5)
        ax.set_yticks(range(len(MAIN)), list(reversed(MAIN)))
        ax.set_xlim(left=0)
        ax.set_ylim(-0.6, len(MAIN) - 0.4)
        _finish(ax, cell, UNIT)
    caption(
        figure,
        "What the tokens with the highest scores are worth",
        "fall of the predicted token's log-probability when they are replaced",
        ["● by zero", "○ by PAD", "lines: 95% bootstrap intervals of the mean"],
    )
    return figure


def share(cells: Sequence[Cell]) -> Figure:
    """How much of tr F the first k eigenvectors hold, passage by passage."""
    figure, panels = _panels(cells, 3.0)
    for ax, cell in zip(panels, cells):
        table = cell.spectra.pivot(index="k", columns="index", values="share").ffill()
        for index in table:
            ax.plot(table.index, table[index], color=COLOURS[FISHER], alpha=0.35, linewidth=0.8)
        mean = table.mean(axis=1)
        ax.plot(mean.index, mean, color=INK, linewidth=1.8)
        for k in (k for k in RANKS if k in mean.index):
            value = float(mean.loc[k])
            ax.plot(k, value, "o", color=INK, markersize=4)
            label = ax.annotate("", (k, value), (5, -10), textcoords="offset points")
            write(label, f"{value:.0%}", size=8)
        ax.set_xscale("log")
        ks = [4**i for i in range(6) if 4**i <= mean.index.max()]
        ax.set_xticks(ks, [str(k) for k in ks])
        ax.set_ylim(0, 1.02)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        n = table.shape[1]
        _finish(ax, cell, "k", "share of tr F held by the first k", f"{n} passages")
    caption(
        figure,
        "How many directions the Fisher information of a prediction has",
        "cumulative share of tr F against the number of eigenvectors",
        ["thin: single passages", f"black: their mean, marked at k = {', '.join(map(str, RANKS))}"],
    )
    return figure


def against_rank(cells: Sequence[Cell]) -> Figure:
    """AOPC of Fisher scopes by rank, and of the other methods on the same passages."""
    figure, panels = _panels(cells, 3.2)
    for ax, cell in zip(panels, cells):
        found = [summary(cell.ranked(rank(k)).to_numpy()) for k in RANKS]
        means, sems = (np.array([getattr(s, key) for s in found]) for key in ("mean", "sem"))
        ax.fill_between(
            RANKS, means - sems, means + sems, color=COLOURS[FISHER], alpha=0.18, linewidth=0
        )
        ax.plot(RANKS, means, "o-", color=COLOURS[FISHER], linewidth=1.8, label="Fisher, rank k")
        for name in (TEMPERATURE, SEMANTIC, IXG, IG):
            mean = float(cell.ranked(name).mean())
            ax.axhline(mean, color=COLOURS[name], linestyle="--", linewidth=1.2, label=name)
        ax.set_xscale("log")
        ax.set_xticks(RANKS, [str(k) for k in RANKS])
        _finish(ax, cell, "k", UNIT, f"{found[0].n} passages")
    _legend(figure, panels[0])
    caption(
        figure,
        "What more rank is worth",
        "AOPC (zero ablation) against the rank of the Fisher Scope",
        ["band: ± standard error of the mean", "dashed: other methods on the same passages"],
    )
    return figure


def randomisation(cells: Sequence[Cell]) -> Figure:
    """Similarity to the intact model's scores by the share of blocks with random weights."""
    figure, panels = _panels(cells, 3.0)
    for ax, cell in zip(panels, cells):
        for name in methods.randomised():
            found = [summary(cell.after(name, depth).to_numpy()) for depth in DEPTHS]
            errors = [0.0, *(s.sem for s in found)]
            ax.errorbar([0, *DEPTHS], [1.0, *(s.mean for s in found)], yerr=errors, marker="o",
                        markersize=4, capsize=2, linewidth=1.5, color=COLOURS[name],
                        label=name)  # fmt: skip
        ax.set_xticks([0, *DEPTHS], ["none", "¼", "½", "all"])
        ax.set_ylim(top=1.08)
        n = cell.randomised["index"].nunique()
        _finish(ax, cell, "blocks with random weights, from the output",
                "Spearman with the intact model", f"{n} passages")  # fmt: skip
    _legend(figure, panels[0])
    caption(
        figure,
        "How far scores depend on what the model has learnt",
        "similarity of scores when blocks hold random weights",
        [
            "mean ± standard error over passages that are predicted right",
            "Random: scores that ignore the model, which fail",
        ],
    )
    return figure


def _panels(cells: Sequence[Cell], height: float) -> tuple[Any, list[Axes]]:
    """One panel a cell, at most two in a row."""
    columns = min(2, len(cells))
    rows = -(-len(cells) // columns)
    figure = sheet(4.8 * columns, height * rows + 1.0)
    made = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in made[len(cells) :]:
        spare.set_visible(False)
    return figure, made[: len(cells)]


def _finish(ax: Axes, cell: Cell, x: str, y: str = "", what: str = "") -> None:
    heading(ax, f"{cell.name} ({what or f'{cell.n} passages'})", x)
    write(ax.yaxis.label, y, size=8, color=SOFT)
    thin(ax)
    ax.minorticks_off()
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        literal(text, size=8)
    ax.grid(color=LINE, linewidth=0.7)
    ax.set_axisbelow(True)


def _legend(figure: Any, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    shown = figure.legend(handles, labels, loc="outside right center", frameon=False)
    for text in shown.get_texts():
        literal(text, size=8)
