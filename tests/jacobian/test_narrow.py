"""The last block's MLP is run for the read positions alone, unless somebody would notice."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.by_hand import by_hand
from support.reference import TOKENS
from support.traces import PLAIN, each_class
from tl_scopes.adapter.view import view_of
from tl_scopes.jacobian.answers import Job, Limits, run

SITES = ["embed", 0, 2, 3]


def seen_by_mlp(model, layer: int) -> list[tuple[int, ...]]:
    """Shapes that a block's MLP is given from now on, seen where no hook is."""
    mlp, shapes = model.blocks[layer].mlp, []
    forward = mlp.forward

    def noting(x, *args, **kwargs):
        shapes.append(tuple(x.shape))
        return forward(x, *args, **kwargs)

    vars(mlp)["forward"] = noting
    return shapes


def both(model, call):
    """A call's results with and without it."""
    view = view_of(model)
    narrow = call()
    known, view.positionwise_mlp = view.positionwise_mlp, None
    try:
        return known is not None, narrow, call()
    finally:
        view.positionwise_mlp = known


@pytest.mark.parametrize("name", zoo.names())
@pytest.mark.parametrize(
    "scope", [ts.TemperatureScope(), ts.FisherScope(rank=3)], ids=lambda s: s.name
)
def test_scores_are_the_same(name, scope):
    model = zoo.shared(name)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    prompts = [TOKENS, TOKENS[:4], TOKENS[:6]]

    def call():
        return [
            *ts.attribute_batch(model, prompts, scope, sites=SITES, position=[-1, 1, -2]),
            ts.attribute_sequence(model, TOKENS, scope, positions=[1, 4], sites=SITES),
        ]

    known, narrow, whole = both(model, call)
    for a, b in zip(narrow, whole):
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-6, atol=1e-9)
    # BLOOM's takes two tensors, OPT's bridge has two layers instead, and some models have none.
    special = ("bridge/bloom", "bridge/opt", "hooked/attn-only", "hooked/attn-only-no-norm")
    assert known == (name not in special)


@pytest.mark.parametrize("name", PLAIN)
def test_a_place_that_is_read_twice_counts_once(name):
    model = zoo.shared(name)
    scopes = [ts.TemperatureScope(), ts.SemanticScope(3), ts.FisherScope(rank=2)]
    apart = [ts.attribute(model, TOKENS, scope).scores for scope in scopes]
    view = view_of(model)
    job = Job(TOKENS, [(len(TOKENS) - 1, scope) for scope in scopes])
    (together,) = run(view, [job], view.sites("embed"), Limits())
    for answer, alone in zip(together, apart):
        scores = answer.attribution(view, TOKENS).scores
        torch.testing.assert_close(scores, alone, rtol=1e-6, atol=1e-9)


@each_class
def test_it_sees_the_read_positions_alone(name):
    model = zoo.build(name)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    last, before = seen_by_mlp(model, 2), seen_by_mlp(model, 1)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))  # another forward: nudged once more
    for shapes in (last, before):
        shapes.clear()
    n, d = len(TOKENS), model.cfg.d_model
    ts.attribute(model, TOKENS, ts.SemanticScope(3), sites="all")
    ts.attribute_batch(model, [TOKENS, TOKENS[:5]], ts.SemanticScope(3))
    ts.attribute_sequence(model, TOKENS, ts.SemanticScope(3), positions=[2, n - 1])
    ts.attribute_sequence(model, TOKENS, ts.SemanticScope(3))  # all: nothing to leave out
    assert last == [(1, 1, d), (1, 2, d), (1, 2, d), (1, n, d)]
    assert before == [(1, n, d), (2, n, d), (1, n, d), (1, n, d)]


@each_class
@pytest.mark.parametrize("watch", ["site", "hook", "torch hook", "direction", "checkpoint"])
def test_whoever_watches_sees_all_of_it(name, watch):
    model = zoo.build(name)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    plain = by_hand(model, torch.tensor([TOKENS]), target=3)
    shapes = seen_by_mlp(model, 2)
    sites, scope, more = ["embed"], ts.SemanticScope(3), {}
    if watch == "site":
        sites = ["embed", "blocks.2.hook_mlp_out"]
    elif watch == "hook":
        model.add_hook("blocks.2.hook_mlp_out", lambda a, hook: a)
    elif watch == "torch hook":
        model.blocks[2].mlp.register_forward_hook(lambda *_: None)
    elif watch == "direction":
        scope = ts.DirectionScope(torch.ones(model.cfg.d_model), site="blocks.2.hook_mlp_out")
    else:
        more = dict(checkpoint_blocks=True)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))  # other hooks: nudged once more
    shapes.clear()
    found = ts.attribute(model, TOKENS, scope, sites=sites, **more)
    assert set(shapes) == {(1, len(TOKENS), model.cfg.d_model)}
    if watch != "direction":
        torch.testing.assert_close(found.scores[0], plain, rtol=2e-5, atol=1e-6)


@each_class
def test_an_mlp_that_mixes_positions_is_left_alone(name):
    model = zoo.build(name)
    mlp = model.blocks[2].mlp
    forward = mlp.forward
    vars(mlp)["forward"] = lambda x, *args, **kwargs: forward(x.cumsum(1), *args, **kwargs)
    expected = by_hand(model, torch.tensor([TOKENS]), target=3)
    found = ts.attribute(model, TOKENS, ts.SemanticScope(3))
    assert view_of(model).positionwise_mlp is None
    torch.testing.assert_close(found.scores[0], expected, rtol=2e-5, atol=1e-6)


@each_class
@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_tells_mixing_from_rounding(name, dtype, mixes):
    model = zoo.build(name).to(dtype)
    model.cfg.dtype = dtype
    mlp = model.blocks[2].mlp
    forward = mlp.forward
    if mixes:
        vars(mlp)["forward"] = lambda x, *args, **kwargs: forward(x.cumsum(1), *args, **kwargs)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    assert (view_of(model).positionwise_mlp is None) == mixes


@each_class
def test_what_is_known_of_one_mlp_is_not_believed_of_another(name):
    model = zoo.build(name)
    ts.attribute(model, TOKENS, ts.SemanticScope(3))
    other = zoo.build(name).blocks[2].mlp
    forward = other.forward
    vars(other)["forward"] = lambda x, *args, **kwargs: forward(x.cumsum(1), *args, **kwargs)
    if name.startswith("hooked"):
        model.blocks[2].mlp = other
    else:
        model.blocks[2].original_component.mlp = other
        model.blocks[2].mlp = other
    expected = by_hand(model, torch.tensor([TOKENS]), target=3)
    found = ts.attribute(model, TOKENS, ts.SemanticScope(3))
    torch.testing.assert_close(found.scores[0], expected, rtol=2e-5, atol=1e-6)
