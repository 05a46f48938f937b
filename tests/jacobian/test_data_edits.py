"""Weights edited through `.data` between calls, which raises no version: nothing stale is used."""

from __future__ import annotations

import copy

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.reference import TOKENS
from tl_scopes import baselines
from tl_scopes.errors import ProcessedWeightsWarning

EACH_CLASS = pytest.mark.parametrize(
    "name", [n for n in zoo.names() if n.endswith(("/llama", "/ln", "/gpt2"))]
)
PARIS = "The Eiffel Tower is located in the city of"


def head_of(model) -> torch.Tensor:
    """`W_U` as the model stores it, [d_model, d_vocab]."""
    if type(model).__name__ == "HookedTransformer":
        return model.unembed.W_U.data
    return model.unembed.original_component.weight.data.T


def same(left: ts.Attribution, right: ts.Attribution) -> None:
    torch.testing.assert_close(left.scores, right.scores, rtol=1e-6, atol=1e-9)
    if left.fisher is not None and right.fisher is not None:
        assert left.fisher.trace == pytest.approx(right.fisher.trace, rel=1e-9)
        assert left.fisher.share == pytest.approx(right.fisher.share, rel=1e-9)


@EACH_CLASS
@pytest.mark.parametrize("rank", [1, 3, "full"])
def test_fisher_after_columns_of_the_head_grew(name, rank):
    used, scope = zoo.build(name), ts.FisherScope(rank=rank)
    first = ts.attribute(used, TOKENS, scope)
    ids = [c.id for c in first.prediction]
    fresh = zoo.build(name)
    for model in (used, fresh):
        head_of(model)[:, ids] *= 3
    found = ts.attribute(used, TOKENS, scope)
    same(found, ts.attribute(fresh, TOKENS, scope))
    assert found.fisher.trace != pytest.approx(first.fisher.trace, rel=1e-2)


@pytest.mark.parametrize("name", zoo.names("hooked")[:2])
def test_centring_is_seen_at_the_next_call(name):
    model, scope = zoo.build(name), ts.SemanticScope(5)
    assert ts.attribute(model, TOKENS, scope).provenance.processing == "raw"
    kept = model.unembed.W_U.data.clone()
    model.unembed.W_U.data -= model.unembed.W_U.data.mean(-1, keepdim=True)
    with pytest.warns(ProcessedWeightsWarning, match="mean-centred"):
        found = ts.attribute(model, TOKENS, scope)
    assert "mean-centred" in found.provenance.processing
    model.unembed.W_U.data.copy_(kept)
    assert ts.attribute(model, TOKENS, scope).provenance.processing == "raw"


@EACH_CLASS
def test_the_mean_embedding_follows_the_embedding(name):
    used, method = zoo.build(name), baselines.LeaveOneOut(5, replacement="mean")
    method.attribute(used, TOKENS)
    fresh = zoo.build(name)
    for model in (used, fresh):
        next(iter(model.embed.parameters())).data[7] += 3
    same(method.attribute(used, TOKENS), method.attribute(fresh, TOKENS))


def without_embedding_or_mlp(model) -> None:
    for module in (model.embed, model.blocks[-1].mlp):
        for parameter in module.parameters():
            parameter.data.zero_()


@pytest.mark.parametrize(
    "name", [n for n in zoo.names() if n.endswith(("/llama", "/gemma2", "/mixtral", "/granite"))]
)
def test_what_a_first_use_on_zeroed_weights_measured_is_measured_again(name):
    used, fresh = zoo.build(name), zoo.build(name)
    weights = copy.deepcopy({n: p.data for n, p in used.named_parameters()})
    without_embedding_or_mlp(used)
    ts.attribute(used, TOKENS, ts.SemanticScope(5), sites=["embed", 1])
    for n, p in used.named_parameters():
        p.data.copy_(weights[n])
    scope = ts.FisherScope(rank=2)
    same(*(ts.attribute(m, TOKENS, scope, sites=["embed", 1]) for m in (used, fresh)))


@pytest.mark.real("smollm2-135m-instruct")
def test_the_values_of_a_real_model():
    used, fresh = (ts.models.load("smollm2-135m-instruct") for _ in range(2))
    first = ts.attribute(used, PARIS, ts.FisherScope())
    for model in (used, fresh):
        head_of(model)[:, [c.id for c in first.prediction]] *= 3
    found, right = (ts.attribute(m, PARIS, ts.FisherScope()).fisher for m in (used, fresh))
    assert (found.trace, found.share) == pytest.approx((right.trace, right.share), rel=1e-5)
    if type(used).__name__ == "TransformerBridge":  # its embedding is its head, and changes with it
        assert found.trace == pytest.approx(0.617, abs=1e-3)
