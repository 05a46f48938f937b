"""Faithfulness of circuits of edges: the strongest that connect, in the real runs of patched edges."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import zoo
from tl_scopes.circuits import Pairs, faithfulness, select
from tl_scopes.circuits.edges import edges
from tl_scopes.circuits.wiring.runs import EdgeRuns
from tl_scopes.errors import ScopeParameterError

NAMES = zoo.known("hooked/gqa", "bridge/gemma3")
SIZES = (0.05, 0.3, 0.6, 0.9, 1.0)
CLEAN = [[0, 5, 6, 7, 8], [0, 9, 8, 7, 6], [0, 12, 13, 14, 15]]
CORRUPTED = [[0, 4, 6, 3, 8], [0, 9, 3, 7, 4], [0, 12, 6, 14, 5]]
PAIRS = Pairs(CLEAN, CORRUPTED, ts.LogitDifferenceScope(5, 11))
each = pytest.mark.parametrize("name", NAMES)


@functools.cache
def scored(name: str):
    with zoo.exact_float64():
        return edges(zoo.shared(name), PAIRS)


@functools.cache
def judged(name: str):
    with zoo.exact_float64():
        return faithfulness(zoo.shared(name), PAIRS, scored(name), SIZES, random=2)


@each
def test_every_size_is_a_run_of_the_strongest_that_connect(name):
    result, scores = judged(name), scored(name)
    assert result.of == "edges" and result.candidates == len(scores.labels)
    with zoo.exact_float64():
        (batch,) = PAIRS.batches(zoo.shared(name))
        with batch.locked():
            runs = EdgeRuns(batch)
            assert runs.edges == scores.labels
            for i, size in enumerate(result.sizes):
                inside = set(select(scores, size).edges) if result.kept[i] else set()
                assert len(inside) == result.kept[i]
                wanted = runs.metrics(torch.tensor([[e in inside for e in runs.edges]]))[:, 0]
                torch.testing.assert_close(
                    result.metrics[:, i], wanted, rtol=1e-6, atol=1e-6, check_dtype=False
                )
    assert float(result.f[-1]) == 1.0 and result.kept[-1] == result.candidates
    assert result.random.shape == (2, 3, len(SIZES))


@each
def test_a_circuit_of_edges_is_judged_at_its_own_size(name):
    circuit = select(scored(name), share=0.6)
    with zoo.exact_float64():
        one = faithfulness(zoo.shared(name), PAIRS, circuit, random=1)
    assert one.sizes == one.kept == (len(circuit),)
    torch.testing.assert_close(
        one.metrics[:, 0], judged(name).metrics[:, 2], rtol=1e-6, atol=1e-6, check_dtype=False
    )


@each
def test_a_killed_call_goes_on(name, tmp_path):
    model, given = zoo.shared(name), dict(sizes=[0.5, 1.0], random=1)
    first = faithfulness(model, PAIRS, scored(name), **given, out=tmp_path / "run")
    again = faithfulness(model, PAIRS, scored(name), **given, out=tmp_path / "run")
    assert torch.equal(first.metrics, again.metrics) and torch.equal(first.random, again.random)


@each
def test_what_cannot_be_is_refused(name):
    model = zoo.shared(name)
    with pytest.raises(ScopeParameterError, match="edges take"):
        faithfulness(model, PAIRS, scored(name), ablation="mean")
    with pytest.raises(ScopeParameterError, match="exact=True patches nodes"):
        faithfulness(model, PAIRS, scored(name), exact=True)
    numbers = dict(zip(scored(name).labels, scored(name).summed().tolist()))
    with pytest.raises(ScopeParameterError, match="lack 'embed -> read'"):
        faithfulness(model, PAIRS, {k: v for k, v in numbers.items() if k != "embed -> read"})
    with pytest.raises(ScopeParameterError, match="'L9H0 -> read'"):
        faithfulness(model, PAIRS, numbers | {"L9H0 -> read": 1.0})
