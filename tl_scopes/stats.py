"""Rank agreement with a bootstrap interval."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def rank_agreement(
    a: Sequence[float], b: Sequence[float], seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Spearman's rank correlation of paired values, and its percentile bootstrap interval.

    Resamples whole pairs, `RESAMPLES` times. All three are NaN where either side is constant: ranks
    then say nothing.
    """
    from scipy import stats  # half a second to import

    pair = (np.asarray(a, dtype=float), np.asarray(b, dtype=float))
    with warnings.catch_warnings():
        # Resamples may be constant; scipy says so for each.
        warnings.simplefilter("ignore")
        value = float(_spearman(*pair))
        found = stats.bootstrap(
            pair,
            _spearman,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        tail = 50 * (1 - confidence)
        low, high = np.nanpercentile(found.bootstrap_distribution, [tail, 100 - tail])
    return value, float(low), float(high)


def _spearman(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray | np.floating:
    from scipy import stats

    ranks = [stats.rankdata(x, axis=axis) for x in (a, b)]
    x, y = (r - r.mean(axis=axis, keepdims=True) for r in ranks)
    return (x * y).sum(axis) / np.sqrt((x**2).sum(axis) * (y**2).sum(axis))
