"""The residual stream between attention and MLP: the same on both classes, for everything that takes a site."""

from __future__ import annotations

import contextlib

import pytest
import torch

import tl_scopes as ts
from support import real_models, zoo
from support.marks import needs_bridge
from support.reference import TOKENS
from support.zoo_tables import D_MODEL, N_LAYERS
from support.zoo_unfit import gpt1
from tl_scopes import baselines, circuits
from tl_scopes.errors import SiteError

MIDDLE = "blocks.1.hook_resid_mid"
PAIRS = [n for n in zoo.pairs() if n in ("gpt2", "llama", "gemma2", "bloom", "opt")]
BRIDGES = [n for n in zoo.kinds("bridge") if not zoo.traits(n) & {"parallel", "attn_only"}]
S = ts.SemanticScope(5)


def agree(name: str, call) -> None:
    with zoo.exact_float64():
        left, right = (call(zoo.shared(f"{kind}/{name}")) for kind in ("hooked", "bridge"))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-6 * float(left.abs().max()))


def forward_hooks(model) -> int:
    modules = [*model.modules(), *getattr(model, "original_model", model).modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize("name", PAIRS)
def test_scores_beside_other_sites_and_with_blocks_run_again(name):
    sites = ["embed", 1, MIDDLE, "blocks.1.hook_mlp_out", 2]
    agree(name, lambda m: ts.attribute(m, TOKENS, ts.FisherScope(rank=2), sites=sites).scores)
    model = zoo.shared(f"bridge/{name}")
    kept, again = (
        ts.attribute(model, TOKENS, S, sites=sites, checkpoint_blocks=c) for c in (False, True)
    )
    torch.testing.assert_close(again.scores, kept.scores)


@pytest.mark.parametrize("name", PAIRS)
def test_a_direction_read_there(name):
    scope = ts.DirectionScope(torch.linspace(-1, 1, D_MODEL), site=MIDDLE)
    sites = ["embed", 1, "blocks.1.hook_attn_out", MIDDLE]
    agree(name, lambda m: ts.attribute(m, TOKENS, scope, sites=sites).scores)
    agree(name, lambda m: circuits.components(m, TOKENS, scope, by="head").total)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    "method",
    [
        baselines.InputXGradient(5, reduce="sum"),
        baselines.IntegratedGradients(5, steps=4),
        baselines.LeaveOneOut(5),
    ],
    ids=lambda m: m.name,
)
def test_baselines(name, method):
    agree(name, lambda m: method.attribute(m, TOKENS, sites=MIDDLE).scores)


@pytest.mark.parametrize("name", PAIRS)
def test_verify_edits_what_the_attribution_scores(name):
    def changes(model):
        found = ts.attribute(model, TOKENS, S, sites=MIDDLE)
        checked = circuits.verify(model, TOKENS, found, steps=[1e-4, 1.0])
        assert checked.step_errors[0] < 1e-2
        return checked.measured

    agree(name, changes)


@needs_bridge
@pytest.mark.parametrize("name", BRIDGES)
def test_the_name_of_the_branch_keeps_its_meaning(name):
    model = zoo.shared(name)
    (alias,) = (
        n
        for n, point in model.hook_dict.items()
        if point is model.hook_dict[MIDDLE] and n != MIDDLE and n.startswith("blocks.1.")
    )
    alone = ts.attribute(model, TOKENS, S, sites="resid(1)").scores[0]
    before = forward_hooks(model)
    found = ts.attribute(model, TOKENS, S, sites=[MIDDLE, alias, "blocks.1.hook_resid_pre"])
    stream, branch, pre = found.scores
    assert (stream - branch).abs().max() > 0.01 * stream.max() > 0
    torch.testing.assert_close(pre, alone)
    assert forward_hooks(model) == before


@pytest.mark.parametrize("name", zoo.names("", "parallel") + zoo.names("", "attn_only"))
def test_blocks_without_a_middle_are_refused_by_name(name):
    with pytest.raises(SiteError, match=r"no stream runs between.*hook_resid_pre.*hook_resid_post"):
        ts.attribute(zoo.shared(name), TOKENS, S, sites=MIDDLE)


@needs_bridge
@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_the_stream_after_blocks_that_give_a_list(checkpoint_blocks):
    """GPT-1's: a bridge's own hook points are shown no list."""
    streams = []
    source, model = gpt1(), zoo.boot(gpt1())
    for block in source.transformer.h:
        block.register_forward_hook(lambda _, __, out: streams.append(out[0]))
    logit = source(torch.tensor([TOKENS])).logits[0, -1, 5]
    wanted = torch.stack([g[0].norm(dim=-1) for g in torch.autograd.grad(logit, streams)])
    assert (wanted[:, -1] > 0).all()
    model(torch.tensor([TOKENS]))  # in which a bridge wires hooks of its own
    before = forward_hooks(model)
    options = dict(checkpoint_blocks=checkpoint_blocks)
    for sites in [*range(1, N_LAYERS + 1)], [f"blocks.{i}.hook_out" for i in range(N_LAYERS)]:
        found = ts.attribute(model, TOKENS, S, sites=sites, **options)
        torch.testing.assert_close(found.scores.double(), wanted, rtol=1e-5, atol=1e-6)
    assert forward_hooks(model) == before
    blocks = circuits.components(model, TOKENS, S, by="layer")
    torch.testing.assert_close(blocks.direct.sum().double(), logit.detach(), rtol=1e-5, atol=1e-6)
    path = circuits.flow_path(model, TOKENS, S, layers=[1, 2, 3])
    assert path.edges.isfinite().all()


@needs_bridge
def test_a_block_that_is_no_sum_is_refused():
    model = zoo.boot(gpt1())
    assert ts.attribute(model, TOKENS, S, sites=["embed", 1]).scores.isfinite().all()
    before = forward_hooks(model)
    with pytest.raises(SiteError, match=r"not the sum.*blocks\.1\.hook_resid_pre"):
        ts.attribute(model, TOKENS, S, sites=MIDDLE)
    assert forward_hooks(model) == before


@needs_bridge
def test_a_hook_that_parts_stream_and_branch_is_refused():
    model = zoo.shared("bridge/llama")
    point = model.hook_dict["blocks.1.ln2.hook_in"]
    point.add_hook(lambda a, hook: 0.5 * a)
    with contextlib.ExitStack() as stack:
        stack.callback(point.remove_hooks, "fwd")
        with pytest.raises(SiteError, match="a hook of yours"):
            ts.attribute(model, TOKENS, S, sites=MIDDLE)


PARIS = "The Eiffel Tower is located in the city of"
RIGHT = [0.295, 0.586, 0.108, 0.728]
BRANCH = [0.013, 0.363, 0.071, 0.370]


@needs_bridge
@pytest.mark.real("smollm2-135m-instruct")
def test_the_values_of_a_real_model():
    model = real_models.shared("smollm2-135m-instruct", "bridge")
    names = [f"blocks.5.{hook}" for hook in ("hook_resid_mid", "hook_attn_out", "ln2.hook_in")]
    found = ts.attribute(model, PARIS, ts.SemanticScope(" Paris"), sites=names)
    middle, write, branch = found.scores
    torch.testing.assert_close(middle[:4], torch.tensor(RIGHT), rtol=0, atol=6e-4)
    torch.testing.assert_close(branch[:4], torch.tensor(BRANCH), rtol=0, atol=6e-4)
    torch.testing.assert_close(middle, write, rtol=1e-4, atol=1e-5)


@needs_bridge
@pytest.mark.real("gemma-3-270m")
def test_the_values_of_a_real_model_with_post_norms():
    model = real_models.shared("gemma-3-270m", "bridge")
    names = ["blocks.5.hook_resid_mid", "blocks.5.hook_attn_out"]
    found = ts.attribute(model, PARIS, ts.SemanticScope(" Paris"), sites=names)
    middle, write = found.scores
    torch.testing.assert_close(middle, write, rtol=1e-3, atol=1e-4)
