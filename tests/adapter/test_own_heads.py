"""Heads of multi-head latent attention: those of an untouched Hugging Face copy, cut in its own attention."""

from __future__ import annotations

import functools
import sys

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.reference import TOKENS
from support.zoo_tables import UNUSUAL
from tl_scopes.circuits import components, flow, head_paths, verify
from tl_scopes.errors import UnsupportedModelError

A, HEADS, LAYER = 7, 4, 1
SCOPE = ts.SemanticScope(A)
LATENT = [n for n in UNUSUAL if "latent" in UNUSUAL[n].traits and zoo.TransformerBridge]


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-6) -> None:
    assert wanted.abs().max() > 1e-4, "nothing to compare"
    wanted = wanted.detach().to(got)
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


@functools.cache
def models(name: str):
    """A bridge, and a Hugging Face model that no bridge has touched."""
    return zoo.boot(zoo.hf_model(name)), zoo.hf_model(name)


def run(hf, edit, monkeypatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The logit of A, and the embedding, with `edit(layer, heads)` in the place of what the attention
    function gives, [batch, pos, head_index, d_head]."""
    layers = {layer.self_attn: i for i, layer in enumerate(hf.model.layers)}
    module = sys.modules[type(hf).__module__]
    eager = module.eager_attention_forward

    def edited(attention, *args, **kwargs):
        out, weights = eager(attention, *args, **kwargs)
        return edit(layers[attention], out), weights

    embedded = hf.model.embed_tokens(torch.tensor([TOKENS])).detach().requires_grad_()
    with monkeypatch.context() as patch, zoo.exact_float64():
        patch.setattr(module, "eager_attention_forward", edited)
        logits = hf(inputs_embeds=embedded, use_cache=False).logits
    return logits[0, -1, A], embedded


def put(out: torch.Tensor, head: int, value: torch.Tensor) -> torch.Tensor:
    out = out.clone()
    out[:, :, head] = value
    return out


@pytest.mark.parametrize("name", LATENT)
def test_every_function_names_the_heads_that_there_are(name, monkeypatch):
    bridge, hf = models(name)
    with zoo.exact_float64():
        paths = head_paths(bridge, TOKENS, SCOPE)
        sites = ts.attribute(bridge, TOKENS, SCOPE, sites=f"blocks.{LAYER}.attn.hook_z")
        checked = verify(bridge, TOKENS, paths, by="head", scope=SCOPE, top=3 * HEADS)
        effects = components(bridge, TOKENS, SCOPE)
    seen: list[torch.Tensor] = []

    def keep(layer, out):
        if layer == LAYER:
            seen.append(out)
        return out

    logit, embedded = run(hf, keep, monkeypatch)
    whole, at_heads = torch.autograd.grad(logit, [embedded, seen[0]])
    assert paths.norms.shape[1] == sites.scores.shape[0] == HEADS
    assert sites.sites == tuple(f"blocks.{LAYER}.attn.hook_z[{h}]" for h in range(HEADS))
    close(sites.scores, at_heads[0].norm(dim=-1).T)
    close(effects.heads()[LAYER], (at_heads * seen[0])[0].sum(-1).T)
    changes = dict(zip(checked.labels, checked.measured))
    for head in range(HEADS):
        cut = lambda _, out, h=head: put(out, h, out[:, :, h].detach())  # noqa: E731
        logit_cut, at = run(
            hf, lambda i, out, cut=cut: cut(i, out) if i == LAYER else out, monkeypatch
        )
        (rest,) = torch.autograd.grad(logit_cut, at)
        close(paths.norms[LAYER, head], (whole - rest)[0].norm(dim=-1))
        zero = lambda i, out, h=head: put(out, h, 0 * out[:, :, h]) if i == LAYER else out  # noqa: E731
        ablated, _ = run(hf, zero, monkeypatch)
        close(changes[f"L{LAYER}H{head}"], ablated - logit)


@pytest.mark.skipif(zoo.TransformerBridge is None, reason="no bridge")
def test_a_gate_beside_the_queries_is_no_head_of_its_own():
    """What lies at hook_q is not all of the pattern, nor one head's each: refused, held or named."""
    bridge, _ = models("qwen3-next")
    hook_q = f"blocks.{LAYER}.attn.hook_q"
    with zoo.exact_float64():
        assert head_paths(bridge, TOKENS, SCOPE).norms.shape[1] == HEADS
        for asked in (
            lambda: ts.attribute(bridge, TOKENS, SCOPE, sites=hook_q),
            lambda: flow(bridge, TOKENS, SCOPE, LAYER, frozen="patterns"),
            lambda: head_paths(bridge, TOKENS, SCOPE, split=True),
        ):
            with pytest.raises(UnsupportedModelError, match="hook_q shows 8 heads"):
                asked()
