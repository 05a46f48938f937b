"""What the benchmarks compare with computes the same scores, and what they measure is what they say."""

from __future__ import annotations

import sys
import time

import pytest
import torch

import tl_scopes as ts
from benchmarks import cases, floor, measure, passages, prompts
from benchmarks.published import Published
from support import real_models, zoo
from tl_scopes.checking.spent import spent

NAME = "llama"
PAIRED = pytest.mark.skipif(not zoo.names("bridge"), reason="this transformer-lens has no bridge")


@PAIRED
@pytest.mark.parametrize("k", [1, 4, None])
def test_the_published_method_gives_our_scores(k):
    hf_model = zoo.hf_model(NAME, torch.float32)
    model = zoo.boot(zoo.hf_model(NAME, torch.float32), torch.float32)
    ids = torch.tensor([[1, 7, 12, 5, 9, 3]])
    published = Published(hf_model.requires_grad_(False))
    ours = {
        "semantic": ts.attribute(model, ids, ts.SemanticScope()),
        "temperature": ts.attribute(model, ids, ts.TemperatureScope()),
        "fisher": ts.attribute(model, ids, ts.FisherScope(rank="full" if k is None else k)),
    }
    theirs = {
        "semantic": published.semantic(ids),
        "temperature": published.temperature(ids),
        "fisher": published.fisher(ids, k),
    }
    for what, found in ours.items():
        torch.testing.assert_close(theirs[what].float(), found.scores[0], rtol=1e-3, atol=1e-5)


@PAIRED
def test_the_floor_is_below_what_torch_counts():
    """`FlopCounterMode` counts the matmuls that are run; the floor, those that are needed."""
    from torch.utils.flop_counter import FlopCounterMode

    model = zoo.shared(f"bridge/{NAME}")
    ids = torch.tensor([[1, 7, 12, 5, 9, 3, 4, 8]])
    ts.attribute(model, ids, ts.SemanticScope())
    with FlopCounterMode(display=False) as counter:
        ts.attribute(model, ids, ts.SemanticScope())
    needed = 2 * floor.scope(model, ids.shape[1], 1)
    assert 0.6 * counter.get_total_flops() <= needed <= 1.2 * counter.get_total_flops()


def test_ratios_are_those_of_the_calls(monkeypatch):
    order: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def sleeps(name: str, seconds: float):
        def call() -> None:
            order.append(name)
            clock[0] += seconds

        return call

    timing = measure.interleaved(sleeps("a", 0.03), sleeps("b", 0.01), 4, 60, warm=True)
    assert "".join(order) == "ba" + "ab" + "ba" + "ab" + "ba"
    assert len(timing.a) == len(timing.b) == 4
    assert timing.ratio == pytest.approx(3) and timing.spread == pytest.approx((3, 3))
    order.clear()
    measure.interleaved(sleeps("a", 0.03), sleeps("b", 0.01), 9, 0.0, warm=False)
    assert "".join(order) == "abba", "out of budget, but two rounds"
    order.clear()
    whole = measure.interleaved(
        sleeps("a", 0.05), sleeps("b", 0.01), 3, 60, warm=False, less=sleeps("c", 0.04)
    )
    assert "".join(order) == "abc" + "cba" + "abc"
    assert whole.a == pytest.approx([0.01] * 3) and whole.ratio == pytest.approx(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "freed before"])
def test_peak_memory_is_seen(kept):
    # Pieces small enough to come from the heap, which malloc keeps as long as one behind them lives.
    pieces = [torch.ones(2**14) for _ in range(5000 * kept)]  # 312 MiB
    last = torch.ones(2**10)
    del pieces
    _, mib = spent(lambda: torch.ones(64, 2**20).sum())  # 256 MiB
    assert mib is not None and 200 < mib < 400
    assert last.all()


@pytest.mark.real
def test_prompts_have_the_lengths_asked_for():
    model = real_models.shared()
    for n in (32, 2048):
        ids = prompts.tokens(model, n)
        assert ids.shape == (1, n) and int((ids == model.tokenizer.bos_token_id).sum()) == 1
    many = prompts.batch(model, 8, 20, 60)
    assert len(many) == 8 and all(20 <= len(p) <= 60 for p in many)
    listed = list(cases.cases(model, "gemma-3-270m", None, True, (128,)))
    assert len({(c.what, c.over) for c in listed}) == len(listed) > 4


def test_percentiles_are_of_the_passages_alone():
    shared = {"model": "m", "class": "bridge", "over": "bare forward", "tokens": 128}
    ratios = [2.0, 2.2, 2.4, 2.6, 4.0]
    rows = [shared | {"what": f"{passages.LABEL}{i}", "ratio": r} for i, r in enumerate(ratios)]
    other = shared | {"what": "fisher 4", "ratio": 9.0}
    assert passages.summary([other]) == []
    middle, high = passages.summary([other, *rows])
    assert (middle["ratio"], middle["met"], middle["bound"]) == (2.4, False, "<= 2.3")
    assert high["ratio"] == pytest.approx(2.6 + 0.6 * 1.4) and not high["met"]
    assert (high["lowest"], high["highest"]) == (2.0, 4.0)
    assert all(row["met"] for row in passages.summary(rows[:2]))


@pytest.mark.real
def test_passages_are_as_long_as_their_kind_allows():
    model = real_models.shared()
    found = passages.tokens(model, cases.MAIN)
    short = {what for what, ids in found.items() if ids.shape != (1, cases.MAIN)}
    assert len(found) == 12 and short == {"first words"}
    listed = list(cases.of_passages(model, quick=True))
    assert [c.tokens for c in listed] == [5, 128, 128]
    assert all(0 < c.facts()["entropy"] < 12 for c in listed)


@pytest.mark.real
@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_repeated_sequences_are_of_single_tokens(name):
    model = real_models.shared(name)
    bos = len(model.to_tokens(" apple")[0]) - 1
    assert len({*prompts.NOUNS}) == len(prompts.NOUNS)
    assert len(model.to_tokens("".join(f" {noun}" for noun in prompts.NOUNS))[0]) == bos + len(
        prompts.NOUNS
    )
    for prompt, target in prompts.repeated(3):
        words = prompt.split()
        assert len(words) == 23 and words[:11] == words[12:] and words[11] == target.strip()
