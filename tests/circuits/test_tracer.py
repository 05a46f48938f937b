"""Targets for circuit-tracer: what its `AttributionTargets` takes for one, and whose gradient the vector is."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from tl_scopes.circuits import circuit_tracer_targets
from tl_scopes.errors import ProcessedWeightsError, ScopeParameterError

NAMES = zoo.known("hooked/gqa", "bridge/llama")
IDS = [0, 5, 6, 7, 8]
each = pytest.mark.parametrize("name", NAMES)


def final_state(model) -> torch.Tensor:
    kept = []
    remove = model.unembed.register_forward_pre_hook(
        lambda module, args: kept.append(args[0][0, -1].clone())
    )
    with torch.no_grad():
        model(torch.tensor([IDS]))
    remove.remove()
    return kept[-1]


def is_theirs(target) -> bool:
    """What their validation of a custom target asks for: three things in a tuple, of these types."""
    name, weight, vector = target
    return (
        isinstance(target, tuple)
        and isinstance(name, str)
        and isinstance(weight, float)
        and isinstance(vector, torch.Tensor)
        and vector.ndim == 1
    )


@each
def test_vectors_are_the_scopes(name):
    model = zoo.shared(name)
    W, y = model.W_U.detach().float(), final_state(model).float()
    with torch.no_grad():
        chances = model(torch.tensor([IDS]))[0, -1].softmax(-1)
    (one,) = circuit_tracer_targets(model, IDS, ts.SemanticScope(7))
    torch.testing.assert_close(one.vec, W[:, 7])
    assert one.prob == pytest.approx(float(chances[7]), rel=1e-5)
    (one,) = circuit_tracer_targets(model, IDS, ts.LogitDifferenceScope(7, 9))
    torch.testing.assert_close(one.vec, W[:, 7] - W[:, 9])
    assert one.prob == 1.0
    (one,) = circuit_tracer_targets(model, IDS, ts.TemperatureScope())
    torch.testing.assert_close(one.vec, y / y.norm(), rtol=1e-4, atol=1e-5)
    (one,) = circuit_tracer_targets(model, IDS, ts.DirectionScope(torch.arange(16.0)))
    torch.testing.assert_close(one.vec, torch.arange(16.0))
    assert is_theirs(one)
    (one,) = circuit_tracer_targets(model, IDS, ts.ContinuationScope([7]))
    wanted = W[:, 7] - W @ chances.float()  # the gradient of a log-probability
    torch.testing.assert_close(one.vec, wanted, rtol=1e-4, atol=1e-5)


@each
def test_fisher_has_a_target_a_vector(name):
    model = zoo.shared(name)
    targets = circuit_tracer_targets(model, IDS, ts.FisherScope(rank=3))
    assert len(targets) == 3 and all(map(is_theirs, targets))
    assert sum(t.prob for t in targets) == pytest.approx(1.0)
    assert [t.prob for t in targets] == sorted((t.prob for t in targets), reverse=True)
    vectors = torch.stack([t.vec for t in targets])
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(3), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        p = model(torch.tensor([IDS]))[0, -1].softmax(-1)
        W = model.W_U
        F = W @ (torch.diag(p) - torch.outer(p, p)) @ W.T
    values = torch.linalg.eigvalsh(F).flip(0)[:3]
    torch.testing.assert_close(
        torch.tensor([t.prob for t in targets]),
        (values / values.sum()).float(),
        rtol=1e-3,
        atol=1e-4,
    )


@each
def test_what_it_has_no_place_for_is_refused(name):
    model = zoo.shared(name)
    for scope in (ts.DirectionScope(torch.ones(16), site=2), ts.ContinuationScope([7, 8])):
        with pytest.raises(ScopeParameterError, match="last token"):
            circuit_tracer_targets(model, IDS, scope)
    with pytest.raises(ScopeParameterError, match="end the prompt there"):
        circuit_tracer_targets(model, IDS, ts.DirectionScope(torch.ones(16), position=2))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("hooked")])
def test_folded_weights_are_refused(name):
    model = zoo.build(name)
    model.process_weights_(fold_ln=True, center_writing_weights=False, center_unembed=False)
    with pytest.raises(ProcessedWeightsError, match="circuit-tracer's are not"):
        circuit_tracer_targets(model, IDS, ts.SemanticScope(7))
