"""Blocks that are run again on the way back: the same scores, no hook fired twice, no trace, less memory."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.reference import TOKENS
from support.traces import each_class
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import ScopeParameterError
from tl_scopes.jacobian import checkpointing, probes

MANY = "hooked/parallel hooked/gemma2 bridge/gpt2 bridge/gemma3 bridge/mixtral bridge/phi".split()
NAMED = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z[1]", "blocks.1.hook_mlp_out"]


def runs(model, layer: int) -> list[int]:
    """How often block `layer` was run so far, counted where no hook can see it."""
    block, counts = model.blocks[layer], []
    module = next(m for m in block.modules() if isinstance(m, torch.nn.Linear) or m is block.mlp)
    forward = type(module).forward

    def counted(self, *args, **kwargs):
        if self is module:
            counts.append(1)
        return forward(self, *args, **kwargs)

    vars(module)["forward"] = counted.__get__(module)
    return counts


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        *((name, ts.SemanticScope(3)) for name in zoo.kinds()),
        # Many directions at once: what blocks are made of differs by class, experts and parallel MLPs.
        *((name, ts.FisherScope(rank="full", tail=0)) for name in zoo.names() if name in MANY),
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_scores_are_the_same(name, scope):
    model = zoo.shared(name)
    kept = ts.attribute(model, TOKENS, scope, sites="all", checkpoint_blocks=False)
    loops = view_of(model).loops_backward
    again = ts.attribute(model, TOKENS, scope, sites="all", checkpoint_blocks=True)
    torch.testing.assert_close(again.scores, kept.scores, rtol=1e-6, atol=1e-9)
    assert view_of(model).loops_backward == loops, "directions no longer share a backward pass"


@pytest.mark.parametrize("name", zoo.kinds())
def test_sites_inside_blocks_are_captured(name):
    model = zoo.shared(name)
    named = []
    for site in NAMED:
        try:
            ts.attribute(model, TOKENS, ts.SemanticScope(3), sites=site, checkpoint_blocks=False)
            named.append(site)
        except ts.errors.ScopesError:
            continue  # not every architecture has each of them
    assert named
    kept, again = (
        ts.attribute(model, TOKENS, ts.SemanticScope(3), sites=named, checkpoint_blocks=flag)
        for flag in (False, True)
    )
    assert again.sites == kept.sites
    torch.testing.assert_close(again.scores, kept.scores, rtol=1e-6, atol=1e-9)


@each_class
@pytest.mark.parametrize(
    "site", [1, "resid(3)", "blocks.1.attn.hook_z[0]", "blocks.1.hook_mlp_out"]
)
def test_a_direction_read_inside_a_block(name, site):
    model = zoo.shared(name)
    width = 4 if "hook_z" in str(site) else 16
    scope = ts.DirectionScope(torch.linspace(-1, 1, width), site=site)
    kept, again = (
        ts.attribute(model, TOKENS, scope, sites=["embed", 0, 1], checkpoint_blocks=flag).scores
        for flag in (False, True)
    )
    torch.testing.assert_close(again, kept, rtol=1e-6, atol=1e-9)


@each_class
def test_only_blocks_without_hooks_are_run_twice(name):
    model = zoo.build(name)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    seen = []
    model.add_hook("blocks.1.hook_mlp_out", lambda a, hook: seen.append("mlp") or a * 1.5)
    model.hook_dict["blocks.2.attn.hook_z"].add_hook(
        lambda g, hook: seen.append("z") or None, "bwd"
    )
    counts = [runs(model, layer) for layer in range(3)]
    call = dict(scope=ts.SemanticScope(3), sites=["embed", 2])
    ts.attribute(model, TOKENS, **call)  # new hooks: the gradient is held against a nudge once
    for seen_by_it in (seen, *counts):
        seen_by_it.clear()
    again = ts.attribute(model, TOKENS, **call, checkpoint_blocks=True)
    assert sorted(seen) == ["mlp", "z"]
    assert [len(c) for c in counts] == [2, 1, 1]
    kept = ts.attribute(model, TOKENS, **call, checkpoint_blocks=False)
    torch.testing.assert_close(again.scores, kept.scores, rtol=1e-6, atol=1e-9)


@each_class
def test_long_prompts_are_checkpointed_unasked(name, monkeypatch):
    model = zoo.build(name)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    counts = runs(model, 1)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    counts.clear()
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    assert len(counts) == 1
    needed = checkpointing.kept_bytes(view_of(model), 1, len(TOKENS))
    monkeypatch.setattr(checkpointing, "BUDGET_BYTES", needed)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    assert len(counts) == 2
    monkeypatch.setattr(checkpointing, "BUDGET_BYTES", needed - 1)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    assert len(counts) == 4
    ts.attribute(model, TOKENS, ts.SemanticScope(3), checkpoint_blocks=False)
    assert len(counts) == 5


@each_class
def test_what_autograd_keeps_is_one_block_of_it(name):
    """In bytes of tensors saved by the forward pass: without checkpoints, in proportion to the blocks."""
    model = zoo.shared(name)
    prompt = (TOKENS * 5)[:32]
    kept = {}
    ts.attribute(model, prompt, ts.SemanticScope(3))
    for flag in (False, True):
        size = []

        def pack(tensor, size=size):
            size.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            ts.attribute(model, prompt, ts.SemanticScope(3), checkpoint_blocks=flag)
        kept[flag] = sum(size)
    assert kept[True] < 0.1 * kept[False]


@pytest.mark.wrong_types
@pytest.mark.parametrize("value", [0, 1, "auto"])
def test_other_values_are_refused(value):
    model = zoo.shared(zoo.names()[0])
    with pytest.raises(ScopeParameterError, match="True, False, None"):
        ts.attribute(model, TOKENS, ts.SemanticScope(3), checkpoint_blocks=value)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((n, torch.float32) for n in zoo.kinds() if not n.endswith("/olmo2")),
        *((n, torch.bfloat16) for n in zoo.names() if n in MANY),
    ],
    ids=str,
)
def test_what_is_kept_is_estimated(name, dtype):
    model = zoo.build(name, dtype)
    view = view_of(model)
    weights = [*model.parameters(), *model.buffers()]
    own = {a.untyped_storage().data_ptr() for a in weights}
    kept: dict[int, torch.Tensor] = {}

    def keep(a: torch.Tensor) -> torch.Tensor:
        kept[a.untyped_storage().data_ptr()] = a
        return a

    ids = torch.tensor([(TOKENS * zoo.N_CTX)[: zoo.N_CTX]])
    with view.locked(), torch.autograd.graph.saved_tensors_hooks(keep, lambda a: a):
        probes.record(view, ids, view.sites("embed"), None)
    found = sum(a.untyped_storage().nbytes() for key, a in kept.items() if key not in own)
    assert 0.3 < found / checkpointing.kept_bytes(view, 1, zoo.N_CTX) < 1.3
