"""Circuits at the edges of what models can do: shortest prompts, half precision, zeros."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.hook_edits import embed_hook, final_states, zeroing
from support.traces import PLAIN as MODELS
from support.traces import each_class
from tl_scopes.circuits import components, flow, flow_path, head_paths, scope_metric, verify

pytestmark = pytest.mark.wrong_types
T, S = zoo.TEXT, ts.SemanticScope(5)
FISHER = ts.FisherScope(rank=2, samples=2)
ones = torch.ones(16)
POST_NORM = zoo.known("hooked/gemma2", "bridge/gemma2")


def tensors(result) -> dict[str, torch.Tensor]:
    return {k: v for k, v in vars(result).items() if isinstance(v, torch.Tensor)}


def everything(model, prompt, scope, **more) -> list:
    """A result of every function but `verify`."""
    found = [components(model, prompt, scope, by, **more) for by in ("head", "neuron", "layer")]
    found.append(flow(model, prompt, scope, 1, **more))
    found.append(flow_path(model, prompt, scope, [1, 2], **more))
    return [*found, head_paths(model, prompt, scope, split=True, **more)]


# ------------------------------------------------------------------------------------- prompts and read positions
@each_class
@pytest.mark.parametrize("scope", [S, FISHER], ids=lambda s: s.name)
@pytest.mark.parametrize(
    ("ids", "position"),
    [([5], -1), ([0], -1), ([0, 5], -1), ([5, 6, 7], -1), ([0, 5, 6, 7], 0), ([0, 5, 6, 7], -2)],
)
def test_short_prompts_and_any_position(name, ids, position, scope):
    model = zoo.shared(name)
    read = position % len(ids)
    scores = ts.attribute(model, ids, scope, position=position).scores[0]
    *parts, through, path, heads = everything(model, ids, scope, position=position)
    for each in (*parts, through, path, heads):
        assert each.position == read
        assert all(x.isfinite().all() for x in tensors(each).values())
    torch.testing.assert_close(through.scores, scores)
    torch.testing.assert_close(heads.scores, scores)
    torch.testing.assert_close(through.signed.sum(0), scores)
    torch.testing.assert_close(path.nodes[0], scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(path.nodes.sum(1), scores.sum().expand(3), rtol=1e-4, atol=1e-5)
    for each in parts:
        error = (each.direct_vectors.sum((1, 2)) - each.whole).abs().max()
        assert error <= 1e-4 * each.direct_vectors.abs().max()
        assert not each.direct[:, [t for t in range(len(ids)) if t != read]].any()
        assert not each.total[:, read + 1 :].any()
    metric = scope_metric(model, ids, scope, position=position)
    with torch.no_grad():
        assert float(metric(model(torch.tensor([ids])))) == pytest.approx(metric.clean, abs=1e-5)
    mean = components(model, ids, scope, baseline="mean", position=position)
    assert mean.total.isfinite().all()
    if len(ids) == 1:  # BOS alone too is all there is to take a mean over
        assert not mean.total.any()


@each_class
def test_a_prompt_is_what_comes_before_the_read(name):
    """Tokens after it change nothing, baselines included."""
    model, ids = zoo.shared(name), [0, 5, 6, 7, 8, 9]
    for options in ({}, dict(baseline="mean"), dict(reference=[[5, 6], [0, 7]])):
        whole = components(model, ids, S, position=3, **options)
        cut = components(model, ids[:4], S, **options)
        torch.testing.assert_close(whole.total[:, :4], cut.total)
    whole = components(model, ids, S, position=3, corrupted=ids[::-1])
    cut = components(model, ids[:4], S, corrupted=ids[::-1][:4])
    torch.testing.assert_close(whole.total[:, :4], cut.total)
    for by in ("token", "head"):
        scores = ((i, ts.attribute(model, i, S, position=3)) for i in (ids, ids[:4]))
        long, short = (verify(model, *each, by, "mean", seed=1).measured for each in scores)
        torch.testing.assert_close(long, short)


# ------------------------------------------------------------------------------------------------ half precision
HALF = [(name, torch.bfloat16) for name in POST_NORM] + [(name, torch.float16) for name in MODELS]


@pytest.mark.parametrize(("name", "dtype"), HALF)
def test_half_precision_is_close(name, dtype):
    fine, coarse = zoo.shared(name), zoo.build(name, dtype)
    for scope in (S, ts.FisherScope(rank="full")):
        wanted, got = (everything(m, T, scope, frozen=None) for m in (fine, coarse))
        for a, b in zip(wanted, got):
            for key, x in tensors(a).items():
                if not key.endswith("_vectors") and x.dtype == torch.float32:  # F's signs are free
                    other = getattr(b, key)
                    assert other.dtype == torch.float32
                    allowed = 0.15 * float(x.abs().max()) + (1e-2 if key == "whole" else 0)
                    torch.testing.assert_close(other, x, rtol=0, atol=allowed, msg=f"{key}: {a!r}")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "scope", [ts.TemperatureScope(), ts.DirectionScope(ones), ts.FisherScope(rank=2)], ids=lambda s: s.name
)  # fmt: skip
def test_half_precision_measures_small_changes(name, scope):
    """The scalar itself is not rounded to half precision, whose steps may exceed every change."""
    model = zoo.build(name, torch.bfloat16)
    with torch.no_grad():
        # A large constant part of what is read, which is no change.
        norm = model.ln_final
        next(p for p in norm.parameters()).data[0] *= 64
    read = ts.attribute(model, T, scope)
    assert (read.fisher is not None) == (scope.name == "fisher")
    found = verify(model, T, read, scope=scope, steps=[1.0])
    ids, metric = model.to_tokens(T), scope_metric(model, T, scope)
    for label, measured in list(zip(found.labels, found.measured))[:3]:
        t = int(label.split(":")[0])
        with torch.no_grad(), final_states(model) as seen:
            model(ids)
            with model.hooks([(embed_hook(model), zeroing(slice(None), t))]):
                model(ids)
        before, after = (y[0, -1].float() for y in seen)
        if scope.name == "direction":
            wanted = (after - before).sum()
        elif scope.name == "temperature":
            wanted = after.norm() - before.norm()
            assert metric.clean == pytest.approx(float(before.norm()), rel=1e-5)
        else:
            v, w = metric.answer.explained.vectors, metric.answer.explained.every_weight
            wanted = (w * (v @ (after - before)).double() ** 2).sum()
        assert float(measured) == pytest.approx(float(wanted), rel=1e-4, abs=1e-5)


# ------------------------------------------------------------------------------------------------------- zeros
@each_class
def test_a_head_without_values(name):
    """Its z is zero whatever comes in, so that nothing passes through it and ablating it changes nothing."""
    model = zoo.build(name)
    with torch.no_grad():
        if name.startswith("hooked"):
            model.blocks[1].attn._W_V.data[0] = 0
        else:
            model.blocks[1].attn.v.weight.data[:4] = 0
    found = components(model, T, S)
    row = found.labels.index("L1H0")
    assert not found.total[row].any() and not found.direct[row].any()
    assert found.sensitivity[row].any() and found.total[found.labels.index("L1H2")].any()
    paths = head_paths(model, T, S, split=True)
    assert not paths.norms[1, 0].any() and paths.norms[1, 2].any()
    for each in (found, paths):
        assert all(x.isfinite().all() for x in tensors(each).values())
    told = verify(model, T, found, "head", top=12)
    dead = told.labels.index("L1H0")
    assert told.measured[dead] == 0 and told.predicted[dead] == 0
    assert all(math.isfinite(e) for e in told.step_errors)


@pytest.mark.parametrize("name", POST_NORM)
def test_norms_fed_zeros(name):
    """Heads ablated at one position leave the norm behind them nothing to scale there."""
    model = zoo.build(name)

    with model.hooks([("blocks.1.attn.hook_z", zeroing(slice(None), 2))]):
        found = components(model, T, S)
        assert not found.heads("direct")[1, :, 2].any() and found.heads("direct")[1, :, -1].any()
        assert all(x.isfinite().all() for x in tensors(found).values())
        error = (found.direct_vectors.sum((1, 2)) - found.whole).abs().max()
        assert error < 1e-5 * found.direct_vectors.abs().max()
        for call in (
            components,
            partial(flow, layer=1),
            partial(flow_path, layers=[1, 2]),
            head_paths,
        ):
            held = call(model, T, S, frozen="norms")
            assert all(x.isfinite().all() for x in tensors(held).values())


@pytest.mark.parametrize("name", POST_NORM)
def test_norms_without_a_gain(name):
    """What they give is zero, and so is the gradient through them: nothing to refuse."""
    model = zoo.build(name)
    norm = model.blocks[1].ln1_post
    with torch.no_grad():
        for gain in norm.parameters():
            gain.fill_(0.0 if name.startswith("hooked") else -1.0)
    for frozen in (None, "norms"):
        found = components(model, T, S, frozen=frozen)
        assert not found.heads("direct")[1].any() and found.heads("direct")[2].any()
        assert all(x.isfinite().all() for x in tensors(found).values())


@each_class
@pytest.mark.parametrize(
    "scope",
    [ts.DirectionScope(ones * 0), ts.DirectionScope(ones * 0, site=2), ts.FunctionScope(lambda z: z.sum() * 0)],
    ids=["final", "inside", "function"],
)  # fmt: skip
def test_vectors_of_norm_zero(name, scope):
    for each in everything(zoo.shared(name), T, scope):
        values = tensors(each)
        assert not any(x.any() for k, x in values.items() if k not in ("tokens", "weights"))
    assert not flow(zoo.shared(name), T, scope, 1).share.any()


@each_class
def test_a_certain_prediction_has_no_information(name):
    model = zoo.build(name)
    with torch.no_grad():
        model.unembed.W_U.data *= 1e4
    for each in everything(model, T, ts.FisherScope(rank="full")):
        shown = [x for k, x in tensors(each).items() if k in ("total", "norms", "nodes")]
        assert shown and not any(x.any() for x in shown)


@each_class
def test_gradients_too_small_to_square(name):
    model = zoo.build(name, torch.float32)

    def shrink(a, hook):
        return torch.linspace(-1, 1, a.shape[-1]) + a * 1e-25

    with model.hooks([("blocks.2.hook_resid_pre", shrink)]):
        found = flow(model, T, S, 1)
        assert found.scores.abs().max() < 1e-20
        assert found.signed.abs().max() < 1e-20 and found.norms.abs().max() < 1e-20
        assert flow_path(model, T, S, [1, 2]).nodes.abs().max() < 1e-20
