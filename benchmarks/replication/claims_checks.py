"""The paper's other claims that these models can test: leave-one-out, random weights, rank, IG's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from benchmarks.replication.cells import DEPTHS
from benchmarks.replication.claims_ablation import Cells
from benchmarks.replication.methods import (
    FISHER,
    FISHER4,
    IG,
    IG_PAD,
    IXG,
    PATH,
    RANDOM,
    RANKS,
    SCOPES,
    SEMANTIC,
    TEMPERATURE,
    rank,
)
from benchmarks.replication.paired import MARGIN, Claim, Evidence, differences, within

LOO_RHO, LOO_TOP = "loo_spearman", "loo_top_rank"
NEAR_ZERO, TOP, DEPENDS = 0.1, 0.05, 0.5


def _agreement(cells: Cells, firsts: Sequence[str], seconds: Sequence[str]) -> list[Evidence]:
    return differences(
        (c.name, f"{a} − {b}", c.of(a, LOO_RHO), c.of(b, LOO_RHO))
        for c in cells
        for a in firsts
        for b in seconds
    )


def _fisher_agrees_best(cells: Cells) -> Claim:
    return Claim(
        "Fisher k=4 ranks tokens most like leave-one-out does.",
        "Spearman 0.58 to 0.59, the next 0.55 to 0.56 (two models, LAMBADA)",
        "every",
        "Spearman",
        _agreement(cells, (FISHER4,), (SEMANTIC, TEMPERATURE, IXG, PATH)),
    )


def _path_agrees_least(cells: Cells) -> Claim:
    return Claim(
        "The path-integrated Semantic Scope agrees with leave-one-out far less than the gradients at the "
        "prompt itself.",
        "Spearman 0.30 to 0.32 against 0.53 to 0.59",
        "every",
        "Spearman",
        _agreement(cells, (SEMANTIC, TEMPERATURE, IXG, FISHER4), (PATH,)),
    )


def _random_agrees_not(cells: Cells) -> Claim:
    evidence = [within(c.name, RANDOM, c.of(RANDOM, LOO_RHO), -NEAR_ZERO, NEAR_ZERO) for c in cells]
    return Claim(
        f"Random scores do not agree with leave-one-out (mean Spearman within {NEAR_ZERO:g} of 0).",
        "-0.004 to 0.005",
        "every",
        "Spearman",
        evidence,
    )


def _top_token(cells: Cells) -> Claim:
    evidence = [
        within(c.name, FISHER4, (c.of(FISHER4, LOO_TOP) <= TOP).astype(float), 0.5, 1.0)
        for c in cells
    ]
    return Claim(
        "The first token of Fisher k=4 is mostly (over half of the passages) among leave-one-out's first 5%.",
        "in 62% to 75% of the passages",
        "every",
        "share",
        evidence,
    )


def _falls_with_depth(cells: Cells) -> Claim:
    steps = list(pairwise(DEPTHS))
    pairs = [
        (
            cell.name,
            f"{name}, {metric} at {a:g} − at {b:g} of the blocks",
            cell.after(name, a, metric),
            cell.after(name, b, metric),
        )
        for cell in cells
        for name in SCOPES
        for metric in ("similarity", "overlap")
        for a, b in steps
    ]
    return Claim(
        "Scores change the more, the more blocks hold random weights (a quarter, half, all; from the output).",
        "Spearman and Jaccard fall at each step in every cell",
        "every",
        "Spearman or Jaccard",
        differences(pairs),
    )


def _depends_on_weights(cells: Cells) -> Claim:
    evidence = [
        within(cell.name, name, cell.after(name, DEPTHS[-1]), -1, DEPENDS)
        for cell in cells
        for name in SCOPES
    ]
    return Claim(
        f"With all blocks random little of the scores' ranking is left (mean Spearman below {DEPENDS:g}).",
        "0.07 to 0.36",
        "every",
        "Spearman",
        evidence,
    )


def _rank_one_is_enough(cells: Cells) -> Claim:
    most = rank(RANKS[-1])
    evidence = []
    for cell in cells:
        a, b = cell.ranked(most), cell.ranked(FISHER)
        gain = (a - b).dropna() / b.mean()
        evidence.append(within(cell.name, f"({most} − {FISHER}) / {FISHER}", gain, -MARGIN, MARGIN))
    return Claim(
        f"Rank 1 is enough for AOPC: {most} differs by at most {MARGIN:.0%}.",
        "1.320 at k=1, 1.327 at 64, 1.329 at 256 (one cell)",
        "every",
        "share",
        evidence,
    )


def _ig_needs_its_baseline(cells: Cells) -> Claim:
    pairs = [
        (c.name, f"{IG_PAD} − {IG} (from zero)", c.ranked(IG_PAD), c.ranked(IG)) for c in cells
    ]
    return Claim(
        "What IG finds depends on its baseline: from PAD's embedding AOPC is another one than from zero.",
        "0.74 against 1.28, 0.53 against 0.96 (one model)",
        "every",
        "AOPC",
        differences(pairs, either=True),
    )


CLAIMS = (
    _fisher_agrees_best,
    _path_agrees_least,
    _random_agrees_not,
    _top_token,
    _falls_with_depth,
    _depends_on_weights,
    _rank_one_is_enough,
    _ig_needs_its_baseline,
)
# Neither of ablation nor of agreement.
OF_WEIGHTS = (_falls_with_depth, _depends_on_weights)
