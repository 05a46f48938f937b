"""The paper's claims on ablation that these models can test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.replication.cells import Cell
from benchmarks.replication.methods import (
    BASELINES,
    FISHER,
    IG,
    IXG,
    MAIN,
    RANDOM,
    SCOPES,
    SEMANTIC,
    TEMPERATURE,
)
from benchmarks.replication.paired import Claim, differences

if TYPE_CHECKING:
    import pandas as pd

Pair = tuple[str, str, "pd.Series", "pd.Series"]
Cells = Sequence[Cell]


def best(cell: Cell, names: Sequence[str], replacement: str = "zero", right: bool = False) -> str:
    """Which of `names` has the greatest mean AOPC, among those predicted right if `right`."""
    return max(names, key=lambda name: cell.aopc(name, replacement, right).mean())


def best_pairs(cells: Cells, replacement: str = "zero", right: bool = False) -> list[Pair]:
    """The best Scope and the best baseline of each cell. Who is best is told by the same passages."""
    pairs = []
    for cell in cells:
        a, b = (best(cell, names, replacement, right) for names in (SCOPES, BASELINES))
        values = (cell.aopc(name, replacement, right) for name in (a, b))
        pairs.append((cell.name, f"{a} − {b}", *values))
    return pairs


def grid(
    cells: Cells, first: Sequence[str], second: Sequence[str], replacement: str = "zero",
    right: bool = False,
) -> list[Pair]:  # fmt: skip
    """AOPC of each of `first` with each of `second` in every cell."""
    return [
        (
            cell.name,
            f"{a} − {b}" + (", predicted right" if right else ""),
            cell.aopc(a, replacement, right),
            cell.aopc(b, replacement, right),
        )
        for cell in cells
        for a in first
        for b in second
    ]


def _random_is_worst(cells: Cells) -> Claim:
    others = [name for name in MAIN if name != RANDOM]
    return Claim(
        "Every attribution method finds tokens that matter more than random ones (zero ablation).",
        "in 12 of 12 cells, by 0.2 to 1.5",
        "every",
        "AOPC",
        differences(grid(cells, others, (RANDOM,))),
    )


def _scope_leads(cells: Cells) -> Claim:
    return Claim(
        "The best Scope beats the best baseline (zero ablation, all passages).",
        "significantly in 10 of 12 cells, the reverse in none; by 0.03 to 0.16",
        "most",
        "AOPC",
        differences(best_pairs(cells)),
    )


def _scope_leads_correct(cells: Cells) -> Claim:
    return Claim(
        "The best Scope beats the best baseline on the passages that the model predicts right (zero ablation).",
        "significantly in 9 of 12 cells, the reverse in none",
        "most",
        "AOPC",
        differences(best_pairs(cells, right=True)),
    )


def _scope_leads_pad(cells: Cells) -> Claim:
    return Claim(
        "The best Scope beats the best baseline when tokens are replaced by PAD.",
        "best, or tied to two decimals, in 12 of 12 cells",
        "most",
        "AOPC",
        differences(best_pairs(cells, "pad")),
    )


def _fisher_never_loses(cells: Cells) -> Claim:
    pairs = [p for right in (False, True) for p in grid(cells, (FISHER,), BASELINES, right=right)]
    return Claim(
        "Fisher k=1 loses to neither baseline, and beats them mostly (zero ablation).",
        "17 of 24 won, none lost, on passages predicted right",
        "most",
        "AOPC",
        differences(pairs),
    )


def _fisher_is_best_scope(cells: Cells) -> Claim:
    return Claim(
        "Fisher k=1 is the best of the Scopes (the paper: except on Qwen).",
        "best mean of the three in 7 of 8 cells of Llama and Gemma, by 0.002 to 0.14 over the next",
        "most",
        "AOPC",
        differences(grid(cells, (FISHER,), (SEMANTIC, TEMPERATURE))),
    )


def _not_uniform(cells: Cells) -> Claim:
    return Claim(
        "Not every Scope is better everywhere: Semantic or Temperature loses to Input x Gradient somewhere.",
        "Semantic on Qwen and on IWSLT with Gemma, Temperature on IWSLT with Gemma",
        "some",
        "AOPC",
        differences(grid(cells, (IXG,), (SEMANTIC, TEMPERATURE))),
    )


def _ixg_is_strongest(cells: Cells) -> Claim:
    return Claim(
        "Input x Gradient is the stronger baseline: IG (from zero, 5 steps) is below it.",
        "in 11 of 12 cells: by 0.1 to 0.9 on Llama and Gemma, by nothing on Qwen",
        "most",
        "AOPC",
        differences(grid(cells, (IXG,), (IG,))),
    )


def _pad_widens(cells: Cells) -> Claim:
    def lead(cell: Cell, replacement: str) -> pd.Series:
        return cell.aopc(FISHER, replacement) - cell.aopc(IXG, replacement)

    pairs = [
        (c.name, f"lead of {FISHER} over {IXG}, PAD − zero", lead(c, "pad"), lead(c, "zero"))
        for c in cells
    ]
    return Claim(
        "PAD widens the Scopes' lead over the baselines.",
        "in 8 of 12 cells (best Scope against best baseline)",
        "most",
        "AOPC",
        differences(pairs),
    )


def _pad_hurts_more(cells: Cells) -> Claim:
    pairs = [
        (c.name, f"{RANDOM}, PAD − zero", c.aopc(RANDOM, "pad"), c.aopc(RANDOM)) for c in cells
    ]
    return Claim(
        "PAD at random tokens does more harm than zero.",
        "in 10 of 12 cells; 0.43 against 0.28 on average",
        "most",
        "AOPC",
        differences(pairs),
    )


CLAIMS = (
    _random_is_worst,
    _scope_leads,
    _scope_leads_correct,
    _scope_leads_pad,
    _fisher_never_loses,
    _fisher_is_best_scope,
    _not_uniform,
    _ixg_is_strongest,
    _pad_widens,
    _pad_hurts_more,
)
