"""HookedTransformer with raw weights and TransformerBridge of the same weights give the same scores."""

from __future__ import annotations

import contextlib

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.reference import HEADS, TOKENS

A, B = 7, 11


def entropy(logits: torch.Tensor) -> torch.Tensor:
    return -(torch.softmax(logits, -1) * torch.log_softmax(logits, -1)).sum(-1)


SCOPES = [
    ts.SemanticScope(),
    ts.SemanticScope(zoo.ONE_TOKEN),
    ts.LogitDifferenceScope(A, B),
    ts.TemperatureScope(),
    ts.FisherScope(),
    ts.FisherScope(rank=4),
    ts.FisherScope(rank=0.9),
    ts.FisherScope(rank="full"),
    ts.FisherScope(samples=4),
    ts.FisherScope(rank=2, samples=4),
    ts.FunctionScope(entropy),
    ts.DirectionScope(torch.linspace(-1, 1, 16)),
]
INSIDE = ts.DirectionScope(torch.linspace(-1, 1, 16), site=2)


def compare(hooked, bridge, tolerance: float, exact: bool) -> None:
    sites = ["all", HEADS]
    with zoo.exact_float64() if exact else contextlib.nullcontext():
        left, right = (
            [
                *ts.attribute_batch(model, [TOKENS] * len(SCOPES), SCOPES, sites=sites),
                ts.attribute(model, TOKENS, INSIDE, sites=["embed", 0, 1, HEADS]),
            ]
            for model in (hooked, bridge)
        )
    for a, b in zip(left, right):
        assert a.sites == b.sites and a.units == b.units and a.target == b.target
        assert a.str_tokens == b.str_tokens and a.has_bos and b.has_bos
        assert [c.id for c in a.prediction] == [c.id for c in b.prediction]
        for x, y in ((a.scores, b.scores), (a.standard_error, b.standard_error)):
            if x is not None:
                torch.testing.assert_close(x, y, rtol=0, atol=tolerance * float(x.abs().max()))
    assert (left[0].provenance.model_class, right[0].provenance.model_class) == (
        "HookedTransformer",
        "TransformerBridge",
    )


@pytest.mark.parametrize("name", zoo.pairs())
def test_classes_agree_in_float64(name):
    compare(zoo.shared(f"hooked/{name}"), zoo.shared(f"bridge/{name}"), 2e-8, exact=True)


@pytest.mark.parametrize("name", zoo.pairs())
def test_classes_agree_in_float32(name):
    models = (zoo.shared(f"{kind}/{name}", torch.float32) for kind in ("hooked", "bridge"))
    compare(*models, 1e-5, exact=False)
