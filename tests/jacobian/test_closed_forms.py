"""Jacobians written down by hand: the final norm's, and those of attention that averages all it sees."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.reference import POSITION, TOKENS, close, norms

A = 7
SILENCED = [
    name
    for kind in ("hooked", "bridge")
    for trait in (
        "learned",
        "alibi",
        "embed_scale",
        "logit_scale",
        "softcap",
        "native",
        "post_norm",
        "parallel",
    )
    for name in zoo.names(kind, trait)[-1:]
    if "embed_norm" not in zoo.traits(name)
]


def by_hand(name: str, model, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The final norm at `x` [d_model]: its value, and its Jacobian [output, input]."""
    eye = torch.eye(len(x), dtype=torch.float64)
    if "no_norm" in zoo.traits(name):
        return x, eye
    norm, eps = model.ln_final, model.cfg.eps
    weight, bias = (getattr(norm, "w", None), getattr(norm, "b", None))
    if weight is None:
        weight, bias = norm.weight, getattr(norm, "bias", None)
    gain = weight.detach() + (1 if name.startswith("bridge/gemma") else 0)
    if "layernorm" in zoo.traits(name):
        eye = eye - 1 / len(x)
    centred = eye @ x
    scale = 1 / (centred.square().mean() + eps).sqrt()
    value = gain * scale * centred + (0 if bias is None else bias.detach())
    return value, (gain * scale)[:, None] * (
        eye - scale**2 * torch.outer(centred, centred) / len(x)
    )


def explained(
    model, y: torch.Tensor, p: torch.Tensor, slope: torch.Tensor
) -> list[tuple[ts.Scope, torch.Tensor]]:
    """Scopes, and for each a matrix `V` whose rows make up its score, `||V J||^2`."""
    W_U = model.W_U.detach()
    w = (W_U * slope).T
    rows = p.sqrt()[:, None] * (w - p @ w)
    return [
        (ts.SemanticScope(A), W_U[:, A][None]),
        (ts.LogitDifferenceScope(A, A + 1), (W_U[:, A] - W_U[:, A + 1])[None]),
        (ts.TemperatureScope(), (y / y.norm())[None]),
        (ts.FisherScope(rank="full", tail=0), rows),
    ]


def slope_of(name: str, model, raw: torch.Tensor) -> torch.Tensor:
    """The derivative of the step after the unembedding: soft-cap `c tanh(z / c)`, or a scale of 1/4."""
    if "softcap" in zoo.traits(name):
        return 1 - torch.tanh(raw / model.cfg.output_logits_soft_cap) ** 2
    return torch.full_like(raw, 0.25 if "logit_scale" in zoo.traits(name) else 1.0)


def check(name: str, model, ref: reference.Reference, jacobians: dict, sites: list) -> None:
    """Every scope against a Jacobian by hand: {position: [output, input]}, zero elsewhere."""
    y = ref.at_read("final")
    raw = y @ model.W_U.detach() + model.b_U.detach()
    p = torch.softmax(ref.at_read("logits"), -1)
    for scope, V in explained(model, y, p, slope_of(name, model, raw)):
        wanted = torch.zeros(len(TOKENS), dtype=torch.float64)
        for t, jacobian in jacobians.items():
            wanted[t] = (V @ jacobian).square().sum()
        if not isinstance(scope, ts.FisherScope):
            wanted = wanted.sqrt()
        with zoo.exact_float64():
            got = ts.attribute(model, TOKENS, scope, sites=sites, position=POSITION).scores
        for row in got:
            close(row, wanted, 1e-11)


@pytest.mark.parametrize("name", zoo.kinds())
def test_the_final_norm_by_hand(name):
    ref = reference.of(name)
    value, jacobian = by_hand(name, ref.model, ref.at_read(3))
    torch.testing.assert_close(value, ref.at_read("final"), rtol=0, atol=1e-12)
    check(name, ref.model, ref, {POSITION: jacobian}, [3])


@pytest.mark.parametrize("name", SILENCED)
def test_without_blocks_only_the_final_norm_remains(name):
    """All weights inside the blocks are zero: every site, the embedding included, has the final norm's Jacobian."""
    model = zoo.build(name)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.zero_()
    ref = reference.Reference(name, model=model)
    _, jacobian = by_hand(name, model, ref.at_read(0))
    torch.testing.assert_close(ref.at_read(0), ref.at_read(3), rtol=0, atol=0)
    check(name, model, ref, {POSITION: jacobian}, ["embed", 0, 1, 2, 3])


def averaging_models() -> list[str]:
    return zoo.names("hooked", "attn_only", "no_norm")


@pytest.mark.parametrize("name", averaging_models())
def test_uniform_attention_by_hand(name):
    """Identity (8): one layer, no norm, queries and keys zero, so that position p averages the values up to p."""
    model = zoo.raw_hooked(name.split("/")[1], torch.float64, n_layers=1)
    attention = model.blocks[0].attn
    with torch.no_grad():
        for parameter in (attention.W_Q, attention.b_Q, attention.W_K, attention.b_K):
            parameter.zero_()
    ref = reference.Reference(name, model=model)
    moved = torch.einsum("hde,hef->fd", attention.W_V, attention.W_O).detach() / (POSITION + 1)
    jacobians = dict.fromkeys(range(POSITION + 1), moved)
    jacobians[POSITION] = moved + torch.eye(len(moved), dtype=torch.float64)
    check(name, model, ref, jacobians, ["embed", 0])

    v = model.W_U[:, A].detach()
    through = norms(attention.W_O.detach() @ v)  # [head]
    sites = ["blocks.0.attn.hook_v", "blocks.0.attn.hook_z", 1]
    got = ts.attribute(model, TOKENS, ts.SemanticScope(A), sites=sites, position=POSITION)
    at_v, at_z, last = got.scores[:2], got.scores[2:4], got.scores[4]
    upto = torch.arange(len(TOKENS)) <= POSITION
    torch.testing.assert_close(
        at_v.double(), through[:, None] * upto / (POSITION + 1), rtol=1e-6, atol=0
    )
    only = torch.arange(len(TOKENS)) == POSITION
    torch.testing.assert_close(at_z.double(), through[:, None] * only, rtol=1e-6, atol=0)
    torch.testing.assert_close(last.double(), v.norm() * only, rtol=1e-6, atol=0)
