"""Statistics against scipy and statsmodels on the same numbers, against hand-made cases, and their properties."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from support.ci import in_ci
from tl_scopes.errors import ScopeParameterError
from tl_scopes.results.statistics import (
    RESAMPLES,
    comparisons,
    holm,
    summaries,
    summary,
)

try:
    from statsmodels.stats.multitest import multipletests
except ImportError:
    if in_ci():
        raise
    multipletests = None

NAN = math.nan
PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def compare_pairs(a, b, seed: int = 0):
    return comparisons([(a, b)], seed=seed)[0]


def numbers(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 1.0, n)


def interval(values: np.ndarray, confidence: float = 0.95, seed: int = 0):
    """scipy's own, asked for plainly."""
    found = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


# --- summaries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 7, 200])
def test_a_summary_is_scipys(n):
    values = numbers(n, seed=n)
    found = summary(values, confidence=0.9, seed=5)
    assert found.mean == pytest.approx(values.mean()) and found.n == n and found.left_out == 0
    assert found.sem == pytest.approx(scipy_stats.sem(values))
    assert (found.low, found.high) == pytest.approx(interval(values, 0.9, 5))
    assert found.low <= found.mean <= found.high


def test_a_summary_by_hand():
    found = summary([1.0, 2.0, 3.0])
    assert (found.mean, found.sem) == pytest.approx((2.0, 1 / math.sqrt(3)))
    assert (found.low, found.high) == pytest.approx((1.0, 3.0), abs=1 / 3)
    constant = summary([4.0] * 5)
    assert (constant.mean, constant.sem, constant.low, constant.high) == (4.0, 0.0, 4.0, 4.0)


def test_numbers_that_are_none_are_left_out_and_counted():
    values = numbers(20)
    found = summary([NAN, *values, math.inf, -math.inf])
    assert found.left_out == 3 and found.n == 20
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), *interval(values)))


def test_too_few_numbers_have_no_error():
    empty, one = summary([]), summary([2.0, NAN])
    assert (empty.n, one.n, one.left_out, one.mean) == (0, 1, 1, 2.0)
    assert all(map(math.isnan, (empty.mean, empty.sem, empty.low, one.sem, one.low, one.high)))


def test_large_samples_are_resampled_in_parts():
    values = numbers(30_000)  # 2,000 resamples at once would be half a gigabyte
    found = summary(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.sem, rel=0.1)


def test_intervals_cover_what_they_should():
    random, hits = np.random.default_rng(0), 0
    for trial in range(150):
        found = summary(random.normal(1.0, 2.0, 40), seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 150 <= 0.99


# --- pairs --------------------------------------------------------------------------------------


def counted(differences) -> float:
    """The share of all patterns of signs whose rank sum is at least as far from zero."""
    ranks = scipy_stats.rankdata(np.abs(differences))
    signs = np.array(list(itertools.product((-1, 1), repeat=len(ranks))))
    sums = np.abs(signs @ ranks)
    return float((sums >= abs(np.sign(differences) @ ranks) - 1e-9).mean())


@pytest.mark.parametrize("n", [6, 10, 14, 60])
@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties and zeros"])
def test_a_comparison_is_scipys(n, rounded):
    a, b = numbers(n, 1), numbers(n, 2) * 1.5
    if rounded:
        a, b = a.round(), b.round()
    found = compare_pairs(a, b, seed=3)
    differ = a != b
    wanted = scipy_stats.wilcoxon((a - b)[differ])
    assert found.statistic == pytest.approx(wanted.statistic)
    tied = len(set(np.abs(a - b)[differ])) < differ.sum()
    if tied and differ.sum() <= 13:
        assert found.p == pytest.approx(counted((a - b)[differ]))
    else:
        assert found.p == pytest.approx(wanted.pvalue)
    assert found.difference == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx(interval(a - b, seed=3))
    other = compare_pairs(b, a, seed=3)
    assert other.p == pytest.approx(found.p)
    assert other.difference == pytest.approx(-found.difference)


def test_a_comparison_by_hand():
    """All of 6 differences have one sign: 2 of the 64 sign patterns are as extreme."""
    found = compare_pairs([2.0, 4.0, 6.0, 8.0, 10.0, 12.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (found.statistic, found.p, found.n) == (0.0, 2 / 64, 6)
    assert found.difference == 3.5 and found.note == ""
    # Ranks of |1|, |-2|, |3|: positive 1 + 3, negative 2.
    assert compare_pairs([1.0, 0.0, 3.0], [0.0, 2.0, 0.0]).statistic == 2.0


def test_equal_rows_do_not_differ():
    found = compare_pairs([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (found.p, found.difference, found.low, found.high) == (1.0, 0.0, 0.0, 0.0)
    assert found.note == "all differences are zero"


def test_pairs_with_a_missing_side_are_left_out_and_counted():
    a, b = numbers(12, 1), numbers(12, 2)
    found = compare_pairs([NAN, *a, 1.0, math.inf], [5.0, *b, NAN, math.inf])
    assert (found.left_out, found.n) == (3, 12)
    assert found.p == pytest.approx(scipy_stats.wilcoxon(a, b).pvalue)
    none = compare_pairs([NAN, 1.0], [1.0, NAN])
    assert none.n == 0 and math.isnan(none.p) and math.isnan(none.difference)
    assert none.note == "no pair has both sides"


@pytest.mark.parametrize(("n", "least"), [(1, 1.0), (3, 0.25), (5, 0.0625)])
def test_few_pairs_say_what_they_cannot_show(n, least):
    found = compare_pairs(np.arange(1.0, n + 1), np.zeros(n))
    assert found.p == least and found.note.endswith(f"cannot fall below {least:.2g}")
    assert compare_pairs(np.arange(1.0, 7), np.zeros(6)).note == ""


@pytest.mark.parametrize(
    ("differing", "of", "p"),
    [
        ([1.0] * 5, 60, 0.0625),
        ([1.0] * 4, 100, 0.125),
        ([1.0] * 6, 60, 2**-5),
        (range(1, 6), 60, 0.0625),
        (range(1, 21), 60, 2**-19),
    ],
)
def test_pairs_without_a_difference_do_not_make_the_test_approximate(differing, of, p):
    """However many there are: scipy, given them, falls below what any pattern of signs can reach."""
    a = np.array([*differing, *[0.0] * (of - len(differing))])
    assert compare_pairs(a, np.zeros(of)).p == pytest.approx(p)


def test_ranks_have_a_direction_of_their_own():
    """Ranks of |1|, |-2|, |3|: positive 1 + 3, negative 2, of 6."""
    assert compare_pairs([1.0, 0.0, 3.0], [0.0, 2.0, 0.0]).ranks == pytest.approx(2 / 6)
    most, few = [-1.0 - i / 100 for i in range(90)], [1000.0] * 10
    found = compare_pairs([*most, *few], [0.0] * 100)
    assert found.p < 1e-6 and found.difference > 0 > found.ranks


@pytest.mark.wrong_types
def test_wrong_arguments_are_refused():
    with pytest.raises(ScopeParameterError, match="got 2 numbers to pair with 3"):
        compare_pairs([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ScopeParameterError, match=r"shape \[2, 2\]; allowed is one row"):
        summary(np.ones((2, 2)))
    with pytest.raises(ScopeParameterError, match="confidence=95"):
        summary([1.0, 2.0], confidence=95)


# --- Holm ---------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6, 0.001]) == pytest.approx([1.0, 1.0, 0.003])
    assert holm([]).tolist() == [] and holm([0.2]).tolist() == [0.2]


def test_a_test_that_could_not_be_made_is_not_counted():
    found = holm([NAN, 0.01, NAN, 0.04, 0.03])
    assert found[[1, 3, 4]] == pytest.approx([0.03, 0.06, 0.06]) and np.isnan(found[[0, 2]]).all()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.inf])
def test_holm_refuses_what_is_no_probability(wrong):
    with pytest.raises(ScopeParameterError, match="allowed is 0 to 1"):
        holm([0.5, wrong])


@pytest.mark.parametrize("n", [1, 7, 60])
def test_holm_is_statsmodels(n):
    if multipletests is None:
        pytest.skip("statsmodels is not installed")
    p = np.random.default_rng(n).random(n) ** 4
    p[: n // 3] = p[: n // 3].round(1)  # ties, zeros and ones
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@given(PROBABILITIES, st.randoms(use_true_random=False))
def test_holm_keeps_order_and_only_raises(p, random):
    found = holm(p)
    assert (found >= p).all() and (found <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert (found <= np.minimum(np.array(p) * len(p), 1)).all()  # never beyond Bonferroni
    shuffled = random.sample(range(len(p)), len(p))
    assert holm([p[i] for i in shuffled]) == pytest.approx(found[shuffled])


# --- many at once -------------------------------------------------------------------------------


def test_many_rows_at_once_are_each_as_alone():
    rows = [numbers(9, 1), numbers(9, 2), [NAN, *numbers(8, 3)], [], numbers(30, 4), [1.0]]
    for got, row in zip(summaries(rows, seed=7), rows):
        alone = summary(row, seed=7)
        assert astuple(got) == pytest.approx(astuple(alone), nan_ok=True)
    pairs = [(rows[0], rows[1]), (rows[1], rows[2]), (rows[4], numbers(30, 5)), ([], [])]
    for got, pair in zip(comparisons(pairs, seed=7), pairs):
        *one, note = astuple(got)
        *alone, wanted = astuple(compare_pairs(*pair, seed=7))
        assert one == pytest.approx(alone, nan_ok=True) and note == wanted
