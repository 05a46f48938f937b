"""Paired comparisons over passages, and what they say of a claim."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tl_scopes.results.statistics import LEVEL, comparisons, holm, summary

if TYPE_CHECKING:
    import pandas as pd

FOR, AGAINST, OPEN = "for", "against", "open"
Verdict = Literal["holds", "does not hold", "not decided"]
# What counts as no difference, as a share of the value.
MARGIN = 0.05
# The fewest passages on which a Wilcoxon test could be significant decide nothing else either.
LEAST = 6


@dataclass(frozen=True)
class Evidence:
    """One number that a claim rests on: for it, against it, or open.

    `value`: the number with its 95% bootstrap interval `low`, `high`, over `n` passages. `p`: of the
    Wilcoxon signed-rank test after Holm's correction over all comparisons of the claim; NaN where the
    interval alone decides.
    """

    cell: str
    what: str
    value: float
    low: float
    high: float
    n: int
    p: float = math.nan
    outcome: str = OPEN


def differences(
    pairs: Iterable[tuple[str, str, pd.Series, pd.Series]], either: bool = False
) -> list[Evidence]:
    """Whether the first of each pair is greater, on the passages that both have; Holm over all pairs.

    `pairs`: cell, what is compared, and values by passage. For where p < 0.05 and the mean difference
    is above zero, against where it is below (`either`: for in both), open else, and where the ranks
    that are tested lean the other way than the mean.
    """
    listed = [(cell, what, *a.align(b, join="inner")) for cell, what, a, b in pairs]
    tested = comparisons((a.to_numpy(), b.to_numpy()) for *_, a, b in listed)
    found = [
        Evidence(cell, what, c.difference, c.low, c.high, c.n, c.p)
        for (cell, what, *_), c in zip(listed, tested)
    ]
    corrected = holm([e.p for e in found])
    made = []
    for e, p, c in zip(found, corrected, tested):
        sure = p < LEVEL and (either or e.value * c.ranks > 0)
        outcome = (FOR if e.value > 0 or either else AGAINST) if sure else OPEN
        made.append(replace(e, p=float(p), outcome=outcome))
    return made


def within(cell: str, what: str, values: pd.Series, low: float, high: float) -> Evidence:
    """Whether a mean lies between two bounds: for where its whole interval does, against where no
    part of it does, open else and with fewer than `LEAST` passages."""
    s = summary(values.to_numpy(dtype=float))
    inside = low <= s.low and s.high <= high
    outside = s.low > high or s.high < low
    outcome = FOR if inside else AGAINST if outside else OPEN
    outcome = outcome if s.n >= LEAST else OPEN
    return Evidence(cell, what, s.mean, s.low, s.high, s.n, outcome=outcome)


def verdict(evidence: Sequence[Evidence], need: str) -> Verdict:
    """`need`: "every" piece of evidence for the claim; "most" of them (over half); "some" (one)."""
    outcomes = [e.outcome for e in evidence]
    count = outcomes.count(FOR)
    if need == "some":
        refuted = bool(outcomes) and outcomes.count(AGAINST) == len(outcomes)
        return "holds" if count else "does not hold" if refuted else "not decided"
    if AGAINST in outcomes:
        return "does not hold"
    enough = count == len(outcomes) if need == "every" else 2 * count > len(outcomes)
    return "holds" if count and enough else "not decided"


@dataclass(frozen=True)
class Claim:
    """`text`: the claim in our words. `paper`: what it rests on there. `need`: how much of the evidence
    must be for it: "every", "most" or "some" (`verdict`). `unit`: of the evidence's values."""

    text: str
    paper: str
    need: str
    unit: str
    evidence: list[Evidence]

    @property
    def verdict(self) -> Verdict:
        return verdict(self.evidence, self.need)
