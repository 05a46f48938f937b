"""Head paths: what is left when a head's output, values or pattern are cut, by plain hooks."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.exact import close, exactly
from support.hook_edits import embed_hook, final_states
from support.reference import POSITION, TOKENS
from tl_scopes.adapter.view import ModelView
from tl_scopes.circuits import components, head_paths
from tl_scopes.errors import ScopeParameterError, SiteError, UnsupportedModelError

A = 7
SCOPES = {"semantic": ts.SemanticScope(A), "fisher": ts.FisherScope(rank=2)}
SOME = zoo.known("hooked/gqa", "hooked/gemma2", "bridge/gpt2", "bridge/gemma3", "bridge/olmo2")


@functools.cache
def found(name: str, scope: str = "semantic", **options):
    return exactly(head_paths, name, SCOPES[scope], **options)


@functools.cache
def gradient(name: str, *cuts: tuple[str, int | None, int | None]) -> torch.Tensor:
    """The target's gradient at the embedding, [pos, d], with the graph cut at hooks: (hook, head, position),
    None for all of an axis."""
    model = zoo.shared(name)
    leaf: list[torch.Tensor] = []

    def root(a, hook):
        leaf.append(a.detach().requires_grad_())
        return leaf[0] * 1

    def cut(a, hook, head, position):
        out = a.clone()
        rows = slice(None) if position is None else position
        own = slice(None) if head is None else head
        out[:, rows, own] = a.detach()[:, rows, own]
        return out

    edits = [(embed_hook(model), root)]
    edits += [(h, functools.partial(cut, head=i, position=p)) for h, i, p in cuts]
    with zoo.exact_float64(), final_states(model) as final, model.hooks(fwd_hooks=edits):
        model(torch.tensor([TOKENS]))
    target = final[0][0, POSITION] @ model.W_U[:, A].detach()
    return torch.autograd.grad(target, leaf[0])[0][0]


def measures(part: torch.Tensor, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    unit = whole / whole.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    return part.norm(dim=-1), (part * unit).sum(-1)


@pytest.mark.parametrize("name", SOME)
def test_each_head_is_what_cutting_it_takes_away(name):
    result, whole = found(name), gradient(name)
    close(result.scores, whole.norm(dim=-1))
    for layer in range(3):
        z = f"blocks.{layer}.attn.hook_z"
        for head in range(result.norms.shape[1]):
            norms, signed = measures(whole - gradient(name, (z, head, None)), whole)
            close(result.norms[layer, head], norms)
            close(result.signed[layer, head], signed)
        norms, signed = measures(gradient(name, (z, None, None)), whole)
        close(result.outside_norms[layer], norms)
        close(result.outside_signed[layer], signed)


@pytest.mark.parametrize("name", SOME)
def test_values_and_patterns(name):
    result, whole = found(name, split=True), gradient(name)
    close(result.norms, found(name).norms)
    close(result.value_signed + result.pattern_signed, result.signed)
    layer, head = 1, 1
    z, q, k = (f"blocks.{layer}.attn.hook_{x}" for x in "zqk")
    frozen = [(q, None, None), (k, None, None)]
    value = gradient(name, *frozen) - gradient(name, *frozen, (z, head, None))
    pattern = whole - gradient(name, (z, head, None)) - value
    for part, norms, signed in (
        (value, result.value_norms, result.value_signed),
        (pattern, result.pattern_norms, result.pattern_signed),
    ):
        wanted = measures(part, whole)
        close(norms[layer, head], wanted[0])
        close(signed[layer, head], wanted[1])


@pytest.mark.parametrize("name", SOME)
def test_only_what_is_written_at_the_read_position(name):
    result, whole = found(name, read_only=True), gradient(name)
    z = "blocks.1.attn.hook_z"
    norms, _ = measures(whole - gradient(name, (z, 0, POSITION)), whole)
    close(result.norms[1, 0], norms)
    close(result.signed.sum(1) + result.outside_signed, result.scores.expand(3, -1))


# What several vectors add is the same on every architecture.
@pytest.mark.parametrize(
    ("name", "scope", "frozen"),
    [*((name, "semantic", None) for name in zoo.names()), *((name, "semantic", "both") for name in zoo.kinds()),
     *((name, "fisher", frozen) for name, frozen in chosen.each(SOME, [None, "both"]))],
)  # fmt: skip
def test_heads_and_what_is_outside_them_sum_to_the_whole(name, scope, frozen):
    result = found(name, scope, split=True, frozen=frozen)
    close(result.signed.sum(1) + result.outside_signed, result.scores.expand(3, -1))
    if frozen is None:
        close(result.scores, exactly(ts.attribute, name, SCOPES[scope]).scores[0])
    else:
        assert not result.pattern_norms.any()
        close(result.value_norms, result.norms)


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_chunks_change_nothing(chunk_size):
    for scope in SCOPES:
        one = found(SOME[-1], scope, split=True, chunk_size=chunk_size)
        close(one.pattern_norms, found(SOME[-1], scope, split=True).pattern_norms)


def test_a_deeper_source_and_an_earlier_read():
    name = SOME[-1]
    late = found(name, site=2)
    assert not late.norms[:2].any() and late.norms[2].any()
    close(late.outside_norms[0], late.scores)
    scope = ts.DirectionScope(torch.ones(16, dtype=torch.float64), site=1)
    early = exactly(head_paths, name, scope)
    assert early.norms[0].any() and not early.norms[1:].any()
    close(early.outside_norms[2], early.scores)
    with pytest.raises(SiteError, match="no head"):
        head_paths(zoo.shared(name), TOKENS, scope, site=1)
    with pytest.raises(SiteError, match="is a hook"):
        head_paths(zoo.shared(name), TOKENS, scope, site="blocks.0.attn.hook_z")


def test_a_model_without_heads_is_refused_by_name(monkeypatch):
    every = ModelView.hooks.fget
    monkeypatch.setattr(
        ModelView, "hooks",
        property(lambda view: {n: p for n, p in every(view).items() if not n.endswith("hook_z")}),
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="hook_z"):
        head_paths(zoo.shared(SOME[-1]), TOKENS, SCOPES["semantic"])
    with pytest.raises(UnsupportedModelError, match="hook_z"):
        components(zoo.shared(SOME[-1]), TOKENS, SCOPES["semantic"])


@pytest.mark.parametrize("name", SOME)
def test_heads_that_are_chosen_are_those_of_all(name, capfd):
    every, (first, second) = found(name), ((1, 0), (2, 1))
    one = found(name, layers=(1, 2), heads=(first, second, (0, 0)))
    assert one.heads == (first, second)
    for layer, head in one.heads:
        torch.testing.assert_close(one.norms[layer, head], every.norms[layer, head])
    assert one.norms.count_nonzero() <= 2 * one.norms.shape[-1]
    torch.testing.assert_close(one.signed.sum(1) + one.outside_signed, one.scores.expand(3, -1))
    assert not capfd.readouterr().err
    some = found(name, least_effect=0.5, progress=True)
    total = components(zoo.shared(name), TOKENS, SCOPES["semantic"], position=POSITION)
    sizes = {
        (i, h): abs(float(value))
        for i, h, kind, value in zip(
            total.layers, total.indices, total.kinds, total.total_vectors[0].sum(-1)
        )
        if kind == "head"
    }
    wanted = {pair for pair, size in sizes.items() if size >= 0.5 * max(sizes.values())}
    assert set(some.heads) == wanted and 0 < len(wanted) < len(sizes)
    price = sum(i + 0.5 for i, _ in wanted) / 3
    assert f"about {price:.0f} backward passes" in capfd.readouterr().err


@pytest.mark.parametrize("options", [{"layers": [3]}, {"heads": [(0, 9)]}, {"least_effect": 2}])
def test_heads_that_are_not_there(options):
    with pytest.raises(ScopeParameterError, match="allowed"):
        found.__wrapped__(SOME[0], **options)
