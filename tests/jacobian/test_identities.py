"""Float64 identities of the scores on every zoo model: finite differences, gradients by hand, flow, causality.

`exact_float64` keeps Hugging Face's inner casts, and the public scores, in float64.
"""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.reference import HEADS, POSITION, TOKENS, close, norms

A, B = 7, 11
KINDS = ("semantic", "difference", "temperature", "function", "direction")
LAYERS = {"direction": (0, 1)}  # the direction is read at layer 2


def entropy(logits: torch.Tensor) -> torch.Tensor:
    return -(torch.softmax(logits, -1) * torch.log_softmax(logits, -1)).sum(-1)


def case(kind: str, name: str):
    """A scope, the scalar it explains, and what that is a function of (a site of the reference)."""
    with torch.no_grad():
        W_U = zoo.shared(name).W_U
        a, b = W_U[:, A].clone(), W_U[:, B].clone()
    v = torch.randn(len(a), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return {
        "semantic": (ts.SemanticScope(A), lambda y: y @ a, "final"),
        "difference": (ts.LogitDifferenceScope(A, B), lambda y: y @ (a - b), "final"),
        "temperature": (ts.TemperatureScope(), lambda y: y.norm(dim=-1), "final"),
        "function": (ts.FunctionScope(entropy), entropy, "logits"),
        "direction": (ts.DirectionScope(v, site=2), lambda h: h @ v, 2),
    }[kind]


@functools.cache
def measured(name: str) -> dict[str, torch.Tensor]:
    """Scores by kind of scope at the embedding, every layer before what is read, and the heads of a layer."""
    found = {}
    for kind in KINDS:
        sites = ["embed", *LAYERS.get(kind, range(4)), HEADS]
        with zoo.exact_float64():
            result = ts.attribute(
                zoo.shared(name), TOKENS, case(kind, name)[0], sites=sites, position=POSITION
            )
        found[kind] = result.scores
    return found


@pytest.mark.parametrize("name", zoo.names())
def test_scores_are_norms_of_finite_differences(name):
    """Identity (1), at the embedding, a middle layer and the heads of a layer."""
    ref = reference.of(name)
    for kind in KINDS:
        _, scalar, of = case(kind, name)
        got = measured(name)[kind]
        # A kink (ReLU, a router) within a step of a coordinate would show here as a gross error.
        for row, site in ((0, "embed"), (2, 1)):
            close(got[row], norms(ref.finite_difference(site, scalar, of)), 1e-7)
        heads = norms(ref.finite_difference(HEADS, scalar, of)).T
        close(got[-len(heads) :], heads, 1e-7)


@pytest.mark.parametrize("name", zoo.names())
def test_scores_are_norms_of_independent_jacobians(name):
    """The same by autograd, which is exact, at every layer; temperature, identity (3), is the gradient of `||y||`."""
    ref = reference.of(name)
    for kind in KINDS:
        _, scalar, of = case(kind, name)
        value = ref.at_read(of).clone().requires_grad_()
        (v,) = torch.autograd.grad(scalar(value), value)
        places = ["embed", *LAYERS.get(kind, range(4))]
        wanted = [norms(torch.tensordot(v, ref.jacobian(site, of), dims=1)) for site in places]
        close(measured(name)[kind][: len(places)], torch.stack(wanted))


@pytest.mark.parametrize("name", zoo.kinds())
def test_flow_through_the_positions_of_a_layer_sums_to_the_whole(name):
    """Identity (5): `v^T J_t` is the vector sum, over positions j of layer 2, of what passes through j."""
    ref = reference.of(name)
    delta = torch.zeros(1, *ref.shape("embed"), dtype=torch.float64, requires_grad=True)
    seen = ref.forward({"embed": delta}, watch=[2])
    with torch.no_grad():
        v = zoo.shared(name).W_U[:, A]
    (inner,) = torch.autograd.grad(seen["final"][0, POSITION] @ v, seen[2], retain_graph=True)
    parts = torch.stack(
        [
            torch.autograd.grad((seen[2][0, j] * inner[0, j]).sum(), delta, retain_graph=True)[0][0]
            for j in range(len(TOKENS))
        ]
    )
    got = measured(name)["semantic"]
    close(got[0], norms(parts.sum(0)))
    close(got[3], norms(inner[0]))
    # The vectors cancel in part: adding up their norms instead would be seen.
    assert (norms(parts).sum(0) >= got[0] - 1e-9).all()
    assert norms(parts).sum() > 1.01 * got[0].sum()


@pytest.mark.parametrize("name", zoo.kinds())
def test_nothing_after_the_read_position_matters(name):
    """Identity (6); and everything up to it does, at the input, unless a window is too narrow."""
    reads = [0, 3, len(TOKENS) - 1]
    with zoo.exact_float64():
        result = ts.attribute_sequence(
            zoo.shared(name), TOKENS, ts.SemanticScope(A), positions=reads, sites="all"
        )
    for position, got in zip(reads, result.scores):
        assert (got[:, position + 1 :] == 0).all()
        assert (got[:, position] > 0).all()
        assert (got[0, : position + 1] > 0).all()


@pytest.mark.parametrize("name", zoo.kinds())
def test_at_the_last_layer_only_the_read_position_counts(name):
    """Identity (7)."""
    got = measured(name)["semantic"][:5]
    others = torch.arange(len(TOKENS)) != POSITION
    assert got[-1, POSITION] > 0 and (got[-1, others] == 0).all()
    assert (got[:-1, :POSITION].sum(1) > 0).all(), (
        "at every layer before it, attention still moves something"
    )
