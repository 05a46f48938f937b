"""What a call runs: one forward pass, one backward pass, no unembedding, no token that cannot matter."""

from __future__ import annotations

import contextlib

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.reference import TOKENS
from tl_scopes import circuits
from tl_scopes.adapter.unembedding import Unembedding

SAME = len(TOKENS)
# Tokens on which a bridge is held against what it wraps.
COMPARED = 16
# The architectures that differ in how they run: others take the same path as one of these.
NAMES = [
    name
    for name in zoo.names()
    if name.split("/")[1]
    in ("ln", "softcap", "shortformer", "bloom", "gpt2", "opt", "gemma2", "mixtral", "native")
]


class Counts:
    """Widths of what entered block 0, passes through the unembedding, backward passes, rows multiplied by W_U."""

    def __init__(self) -> None:
        self.forwards: list[tuple[int, int]] = []
        self.unembedded: list[tuple[int, int]] = []
        self.backwards: list[int] = []
        self.multiplied: list[int] = []


@contextlib.contextmanager
def counting(model, monkeypatch):
    counts = Counts()
    gradient, raw_logits = torch.autograd.grad, Unembedding.raw_logits
    first_block, last_step = type(model.blocks[0]).forward, type(model.unembed).forward

    def grad(outputs, inputs, grad_outputs=None, *args, **kwargs):
        batched = kwargs.get("is_grads_batched", False)
        if (
            grad_outputs is not None
        ):  # the slope of an output transform is no pass through the model
            counts.backwards.append(len(grad_outputs[0]) if batched else 1)
        return gradient(outputs, inputs, grad_outputs, *args, **kwargs)

    def counted(self, y):
        counts.multiplied.append(len(y))
        return raw_logits(self, y)

    def block(self, *args, **kwargs):
        if self is model.blocks[0]:
            counts.forwards.append(tuple((args[0] if args else kwargs["hidden_states"]).shape[:2]))
        return first_block(self, *args, **kwargs)

    def unembedding(self, y, *args, **kwargs):
        if self is model.unembed:
            counts.unembedded.append(tuple(y.shape[:2]))
        return last_step(self, y, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", grad)
        patch.setattr(Unembedding, "raw_logits", counted)
        # Not hooks on the modules: they would ask for another check of last step and slope.
        patch.setattr(type(model.blocks[0]), "forward", block)
        patch.setattr(type(model.unembed), "forward", unembedding)
        yield counts


def ready(name: str):
    """A model that has been used before."""
    model = zoo.shared(name)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_one_forward_and_one_backward_pass_whatever_the_sites(name, monkeypatch):
    model = ready(name)
    for scope, directions in ((ts.SemanticScope(), 1), (ts.FisherScope(rank=8), 8)):
        for sites in ("embed", "all"):
            with counting(model, monkeypatch) as counts:
                ts.attribute(model, TOKENS, scope, sites=sites)
            assert counts.forwards == [(1, SAME)]
            assert counts.backwards == [directions]
            assert counts.unembedded == [], "the forward pass went past the final state"
            assert counts.multiplied == [1], "W_U belongs to the read position alone"


@pytest.mark.parametrize("name", NAMES)
def test_tokens_after_the_last_read_are_not_run(name, monkeypatch):
    model = ready(name)
    with counting(model, monkeypatch) as counts:
        ts.attribute(model, TOKENS, ts.SemanticScope(), position=2)
        ts.attribute_sequence(model, TOKENS, ts.SemanticScope(), positions=[0, 3])
    assert counts.forwards == [(1, 3), (1, 4)]
    assert counts.multiplied == [1, 2]
    assert counts.unembedded == []


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_a_batch_share_their_passes(name, monkeypatch):
    model = ready(name)
    prompts = [TOKENS, TOKENS[:3], TOKENS[:5]]
    with counting(model, monkeypatch) as counts:
        ts.attribute_batch(model, prompts, ts.SemanticScope(), sites="all")
    assert counts.forwards == [(3, SAME)] and counts.backwards == [1] and counts.multiplied == [3]
    with counting(model, monkeypatch) as counts:
        ts.attribute_batch(model, prompts, ts.SemanticScope(), batch_tokens=1)
    assert counts.forwards == [(1, 3), (1, 5), (1, SAME)] and counts.backwards == [1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_a_direction_inside_the_model_runs_no_further(name, monkeypatch):
    model = ready(name)
    later = []
    handle = model.blocks[2].register_forward_pre_hook(
        lambda *args: later.append(1), with_kwargs=True
    )
    try:
        ts.attribute(model, TOKENS, ts.SemanticScope(3))
        later.clear()
        with counting(model, monkeypatch) as counts:
            # What enters block 2 leaves block 1; its hook may sit at either end.
            ts.attribute(
                model,
                TOKENS,
                ts.DirectionScope(torch.ones(16), site="resid(1)"),
                sites=["embed", 0],
            )
    finally:
        handle.remove()
    assert counts.forwards == [(1, SAME)] and counts.backwards == [1]
    assert not later and counts.multiplied == [] and counts.unembedded == []


@pytest.mark.parametrize("chunk_size, passes", [(1, [1] * 8), (3, [3, 3, 2]), (None, [8])])
@pytest.mark.parametrize("name", zoo.names("hooked")[:1] + zoo.names("bridge")[:1])
def test_directions_share_backward_passes_in_chunks(name, chunk_size, passes, monkeypatch):
    model = ready(name)
    with counting(model, monkeypatch) as counts:
        ts.attribute(model, TOKENS, ts.FisherScope(rank=8), chunk_size=chunk_size)
    assert counts.backwards == passes and counts.forwards == [(1, SAME)]


@pytest.mark.parametrize("name", zoo.names("hooked")[:1] + zoo.names("bridge", "softcap"))
def test_first_use_checks_the_unembedding_at_one_position(name, monkeypatch):
    model = zoo.build(name)
    for first in (True, False):
        with counting(model, monkeypatch) as counts:
            ts.attribute(model, TOKENS, ts.SemanticScope(3))
        # The last step; the model beside what it wraps; the gradient, and the model nudged along four
        # directions and back; other tokens after it; the call.
        beside = [(1, COMPARED)] if "bridge" in name else []
        nudged = [(1, SAME), *beside, (1, SAME), (9, SAME), (3, SAME)] if first else []
        assert counts.forwards == [*nudged, (1, SAME)]
        assert counts.unembedded == ([(1, 1), *beside] if first else [])


@pytest.mark.parametrize(
    ("name", "by"), chosen.each(zoo.names("", "gqa"), ["head", "mlp", "layer", "neuron"])
)
def test_components_take_one_pass_either_way_whatever_their_number(name, by, monkeypatch):
    if (by == "neuron" and "moe" in zoo.traits(name)) or name == "bridge/granite":
        pytest.skip("has no such parts")
    model = zoo.shared(name)
    circuits.components(model, zoo.TEXT, ts.SemanticScope(5), by)  # checks the last step
    with counting(model, monkeypatch) as counts:
        circuits.components(model, zoo.TEXT, ts.SemanticScope(5), by, baseline="mean")
    assert len(counts.forwards) == 1 and counts.backwards == [1]
    with counting(model, monkeypatch) as counts:
        circuits.components(model, zoo.TEXT, ts.FisherScope(rank=3), by)
    assert len(counts.forwards) == 1 and counts.backwards == [3]
