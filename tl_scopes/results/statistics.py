"""Statistics over prompts: summaries, paired tests, Holm's correction, rank agreement. All but Holm's by scipy."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tl_scopes.errors import ScopeParameterError

RESAMPLES = 2000
LEVEL = 0.05

# Up to so many differences scipy's signed-rank test counts sign patterns where there are ties.
_EXACT = 13
# Numbers that a bootstrap draws at a time: 32 MB of them.
_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Summary:
    """The mean of some numbers, in their unit.

    `sem`: its standard error. `low`, `high`: its percentile bootstrap interval. `n`: how many
    numbers it is the mean of. `left_out`: how many more were NaN or infinite. NaN where too few are
    left: the mean of none, the rest of fewer than two.
    """

    mean: float
    sem: float
    low: float
    high: float
    n: int
    left_out: int


@dataclass(frozen=True)
class Comparison:
    """Paired differences `a - b`, in the unit of both.

    `difference`: their mean, with its percentile bootstrap interval `low`, `high`. `statistic`, `p`:
    Wilcoxon's signed-rank test, two-sided. `ranks`: the matched-pairs rank-biserial correlation, from
    -1 to 1: the test's own direction, which need not be that of the mean. `n`: pairs. `left_out`:
    pairs with a NaN or infinite side. `note`: what limits the test, or "".
    """

    difference: float
    low: float
    high: float
    statistic: float
    p: float
    ranks: float
    n: int
    left_out: int
    note: str


def summary(values: Collection[float], *, confidence: float = 0.95, seed: int = 0) -> Summary:
    """Mean, standard error and bootstrap interval of the mean of `values`.

    Args:
        values: numbers, one a prompt. NaN and infinite ones are left out and counted.
        confidence: of the interval (`RESAMPLES` resamples of whole prompts).
        seed: of the resamples.

    Raises `ScopeParameterError` unless `values` is one row of numbers.

        >>> summary([1.0, 2.0, float("nan")]).mean
        1.5
    """
    return summaries([values], confidence=confidence, seed=seed)[0]


def summaries(
    rows: Iterable[Collection[float]], *, confidence: float = 0.95, seed: int = 0
) -> list[Summary]:
    """`summary` of every row, several times faster than one by one."""
    from scipy import stats  # half a second to import

    given = [_row(values) for values in rows]
    kept = [row[np.isfinite(row)] for row in given]
    return [
        Summary(
            mean=float(own.mean()) if own.size else math.nan,
            sem=float(stats.sem(own)) if own.size > 1 else math.nan,
            low=low,
            high=high,
            n=int(own.size),
            left_out=int(row.size - own.size),
        )
        for row, own, (low, high) in zip(given, kept, _intervals(kept, confidence, seed))
    ]


def comparisons(
    pairs: Iterable[tuple[Collection[float], Collection[float]]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Comparison]:
    """Whether `a` and `b` of each pair of rows differ: Wilcoxon's signed-rank test, bootstrap interval.

    Args:
        pairs: of rows of numbers, one a prompt, those of the same prompts in the same order.
        confidence: of the intervals of the mean differences (whole pairs are resampled).
        seed: of the resamples.

    A pair of numbers with a NaN or infinite side is left out and counted. Differences of zero carry no
    sign and take no part in the test (Wilcoxon's treatment); with nothing but zeros p is 1. Raises
    `ScopeParameterError` unless both rows are rows of one length.

        >>> comparisons([([1.0, 2.0, 4.0], [0.5, 1.0, 1.5])])[0].difference
        1.3333333333333333
    """
    given = [_differences(_row(a), _row(b)) for a, b in pairs]
    kept = [row[np.isfinite(row)] for row in given]
    compared = []
    for row, finite, (low, high) in zip(given, kept, _intervals(kept, confidence, seed)):
        statistic, p, ranks, note = _signed_rank(finite)
        mean = float(finite.mean()) if finite.size else math.nan
        n, left_out = int(finite.size), int(row.size - finite.size)
        compared.append(Comparison(mean, low, high, statistic, p, ranks, n, left_out, note))
    return compared


def holm(p_values: Collection[float]) -> np.ndarray:
    """`p_values` corrected for their number by Holm's step-down method, in the same order.

    The i-th smallest of m is multiplied by m - i + 1, then raised to those before it, and cut off at
    1: the chance of any false rejection stays below the level, whatever the tests share. NaN (a test
    that could not be made) stays NaN and is not counted. Source: Holm, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979). Raises
    `ScopeParameterError` for a number outside [0, 1].
    """
    p = _row(p_values)
    tests = np.flatnonzero(~np.isnan(p))
    if ((p[tests] < 0) | (p[tests] > 1)).any():
        raise ScopeParameterError(
            f"got p values from {p[tests].min():g} to {p[tests].max():g}; allowed is 0 to 1, or NaN "
            "for a test that could not be made"
        )
    order = tests[np.argsort(p[tests], kind="stable")]
    corrected = p.copy()
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def rank_agreement(
    a: Sequence[float], b: Sequence[float], seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Spearman's rank correlation of paired values, and its percentile bootstrap interval.

    Resamples whole pairs, `RESAMPLES` times. All three are NaN where either side is constant: ranks
    then say nothing.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    drawn = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    with np.errstate(invalid="ignore"):  # 0 / 0 where a resample is constant
        value, resampled = float(_spearman(x, y)), np.asarray(_spearman(x[drawn], y[drawn]))
    tail = 50 * (1 - confidence)
    known = resampled[~np.isnan(resampled)]
    low, high = (
        float(np.percentile(known, q)) if known.size else math.nan for q in (tail, 100 - tail)
    )
    return value, low, high


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation of two lists of numbers.

    NaN where they hold fewer than two, or where one is constant: ranks then say nothing.
    """
    pair = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(pair[0]) < 2 or any(np.ptp(x) == 0 for x in pair):
        return float("nan")
    return float(_spearman(*pair))


def rank_likeness(a: Any, b: Any) -> float:
    """How alike two maps rank their tokens: Spearman's rank correlation, but 1 where the ranks are
    equal, those of constant maps included, and 0 where one alone is constant."""
    from scipy import stats

    x, y = stats.rankdata(a), stats.rankdata(b)
    if (x == y).all():
        return 1.0
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(_correlation(x, y))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray | np.floating:
    """Over the last axis."""
    from scipy import stats

    return _correlation(stats.rankdata(a, axis=-1), stats.rankdata(b, axis=-1))


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray | np.floating:
    """Pearson's, over the last axis."""
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (a, b))
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if len(a) != len(b):
        raise ScopeParameterError(
            f"got {len(a)} numbers to pair with {len(b)}; a paired test takes two rows of one "
            "length, with the same prompts in the same order: pair them first"
        )
    with np.errstate(invalid="ignore"):  # two infinite sides
        return a - b


def _signed_rank(differences: np.ndarray) -> tuple[float, float, float, str]:
    """Statistic and p as of `scipy.stats.wilcoxon`, rank-biserial correlation, and what limits the
    test."""
    from scipy import stats

    # Zeros first: with any, scipy no longer counts sign patterns, however few pairs differ.
    signed = differences[differences != 0]
    if not signed.size:
        if differences.size:
            return 0.0, 1.0, 0.0, "all differences are zero"
        return math.nan, math.nan, math.nan, "no pair has both sides"
    # No pattern of signs is rarer than all alike.
    least = min(2.0 ** (1 - signed.size), 1.0)
    note = (
        "" if least < LEVEL else f"{signed.size} differing pairs: p cannot fall below {least:.2g}"
    )
    size = np.abs(signed)
    ranks = stats.rankdata(size) * np.sign(signed)
    balance = float(ranks.sum() / np.abs(ranks).sum())
    if signed.size == 1:
        return 0.0, 1.0, balance, note
    found: Any
    if signed.size > _EXACT or len(set(size)) == signed.size:
        found = stats.wilcoxon(signed)
        return float(found.statistic), float(found.pvalue), balance, note
    # Of so few with ties, scipy ranks anew for every pattern of signs: seconds a test.
    found = stats.permutation_test(
        (ranks,),
        lambda x, axis: x.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,  # pyright: ignore[reportArgumentType]
    )
    statistic = min(ranks[ranks > 0].sum(), -ranks[ranks < 0].sum())
    return float(statistic), float(found.pvalue), balance, note


def _intervals(
    rows: Sequence[np.ndarray], confidence: float, seed: int
) -> list[tuple[float, float]]:
    """Of the mean of each row of finite numbers; rows of one length share their resamples."""
    from scipy import stats

    if not 0 < confidence < 1:
        raise ScopeParameterError(f"confidence={confidence!r}; allowed is between 0 and 1: 0.95")
    intervals = [(math.nan, math.nan)] * len(rows)
    for n in {row.size for row in rows if row.size > 1}:
        which = [i for i, row in enumerate(rows) if row.size == n]
        interval = stats.bootstrap(
            (np.stack([rows[i] for i in which]),),
            np.mean,
            axis=-1,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, _AT_ONCE // (n * len(which))),
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        for i, low, high in zip(which, interval.low, interval.high):
            intervals[i] = (float(low), float(high))
    return intervals


def _row(values: Collection[float]) -> np.ndarray:
    row = np.asarray(values, dtype=float)
    if row.ndim != 1:
        raise ScopeParameterError(
            f"got numbers of shape {list(row.shape)}; allowed is one row of them: flatten or "
            "select first"
        )
    return row
