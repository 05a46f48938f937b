"""Controls for place: tokens that are spared, and the rankings of other prompts."""

from __future__ import annotations

import random

import pytest

import tl_scopes as ts
from support import zoo
from support.rankings import Given, log_probs
from support.traces import PLAIN
from tl_scopes.baselines import Random
from tl_scopes.errors import PositionError
from tl_scopes.evaluation import Settings, measure
from tl_scopes.evaluation.orders import _moved

IDS = zoo.tokenizer()(zoo.LONG_TEXT).input_ids
A, B, LONGER = IDS[:10], [IDS[0], *IDS[4:13]], IDS[:14]
AOPC = ("aopc_comprehensiveness", "aopc_sufficiency")
SETTINGS = Settings((0.2, 0.5), matched=1)


def values(rows, index=0) -> dict[str, float]:
    return {r["metric"]: r["value"] for r in rows if r["index"] == index and r["method"]}


@pytest.mark.parametrize("name", PLAIN)
def test_spared_tokens_are_neither_replaced_nor_compared(name):
    model = zoo.shared(name)
    last = len(A) - 1
    scores = tuple(float(t) for t in range(len(A)))  # the last token first
    settings = Settings((0.2, 0.5), leave_one_out="zero", spare_last=3, top=1)
    with zoo.exact_float64():
        rows = measure(model, [A], {"late": Given(scores)}, settings)
        before = log_probs(model, A, last)
        top = int(before.argmax())
        falls = {
            t: float(before[top] - log_probs(model, A, last, [t])[top]) for t in range(1, last - 2)
        }
        half = log_probs(model, A, last, [4, 5, 6])[top]
        rest = log_probs(model, A, last, [1, 2, 3, 4, 5])[top]
    found = {(r["metric"], r["fraction"]): r["value"] for r in rows if r["method"]}
    # 9 tokens after BOS less 3: a fifth is one, a half three of them.
    assert found["comprehensiveness", 0.2] == pytest.approx(falls[6], abs=1e-9)
    assert found["comprehensiveness", 0.5] == pytest.approx(float(before[top] - half), abs=1e-9)
    assert found["sufficiency", 0.2] == pytest.approx(float(before[top] - rest), abs=1e-9)
    (rank,) = (r["value"] for r in rows if r["metric"] == "loo_top_rank")
    assert rank * 6 == pytest.approx(round(rank * 6))


def test_too_many_spared_are_told():
    (row,) = measure(zoo.shared(PLAIN[0]), [A], [ts.SemanticScope()], Settings(spare_last=9))
    assert row["error"].startswith(PositionError.__name__) and "spare_last=9" in row["error"]


@pytest.mark.parametrize("spare", [0, 2])
def test_a_gain_is_over_the_ranking_of_another_prompt(spare):
    model, scope = zoo.shared(PLAIN[0]), ts.SemanticScope()
    settings = Settings((0.2, 0.5), matched=1, spare_last=spare)
    rows = measure(model, [A, B], {"own": scope}, settings)
    other = Given(tuple(ts.attribute(model, B, scope).scores[0].tolist()))
    alone = Settings((0.2, 0.5), spare_last=spare)
    elsewhere = values(measure(model, [A], {"other": other}, alone))
    own = values(rows)
    for name, sign in zip(AOPC, (1, -1)):
        gain = sign * (own[name] - elsewhere[name])
        assert own[f"{name}_gain"] == pytest.approx(gain, abs=1e-6)
    assert own[f"{AOPC[0]}_gain"] != 0
    without = values(measure(model, [A, B], {"own": scope}, alone))
    assert {k: v for k, v in own.items() if not k.endswith("_gain")} == pytest.approx(
        without, abs=1e-6
    )


def test_place_alone_gains_nothing_and_chance_little():
    model = zoo.shared(PLAIN[0])
    late = Given(tuple(float(t) for t in range(len(A))))
    found = values(measure(model, [A, B], {"late": late}, SETTINGS))
    assert found[f"{AOPC[0]}_gain"] == found[f"{AOPC[1]}_gain"] == 0
    prompts, draws = [A, B], {str(seed): Random(seed) for seed in range(60)}
    rows = measure(model, prompts, draws, SETTINGS)
    gains = [r["value"] for r in rows if r["metric"] == f"{AOPC[0]}_gain"]
    mean = sum(gains) / len(gains)
    spread = (sum((g - mean) ** 2 for g in gains) / len(gains)) ** 0.5
    assert abs(mean) < 3 * spread / len(gains) ** 0.5 and spread > 0


def test_alone_there_is_no_gain():
    rows = measure(zoo.shared(PLAIN[0]), [A], [ts.SemanticScope()], SETTINGS)
    assert not [r for r in rows if r["metric"].endswith("_gain")]


def test_places_are_counted_from_the_end():
    # Of a longer prompt, what this one has no token for is left out.
    assert _moved([9, 2, 7, 5, 8, 6, 4, 3, 1], range(1, 10), range(1, 5), random.Random(0)) == [
        4,
        2,
        3,
        1,
    ]
    # Of a shorter one, what it has none for comes last.
    found = _moved([2, 3, 1], range(1, 4), range(1, 7), random.Random(0))
    assert found[:3] == [5, 6, 4] and sorted(found[3:]) == [1, 2, 3]
    rows = measure(zoo.shared(PLAIN[0]), [A, LONGER], [Random(0)], SETTINGS)
    again = measure(zoo.shared(PLAIN[0]), [A, LONGER], [Random(0)], SETTINGS)
    assert rows == again
