"""The gradient is held against a nudge: wrong ones are refused by what is to blame, right ones pass with room."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

import tl_scopes as ts
from support import real_models, zoo, zoo_unfit
from support.marks import each_class, each_use, needs_bridge
from tl_scopes import baselines, circuits, models
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import TrainingModeError, UnsupportedModelError
from tl_scopes.jacobian import slope

SCOPE = ts.SemanticScope(5)
PROMPTS = [
    zoo.TEXT, zoo.LONG_TEXT, "The cat sat", "Paris", "a", "Because John is happy, Mary is not.",
    "the the the the", "Rome and Madrid and London", "The dog is old!", "never, never",
]  # fmt: skip
ENGLISH = [
    "The Eiffel Tower is located in the city of", "The capital of France is", "Once upon a time",
    "def f(x):\n    return", "2 + 2 =", "Paris", "Der Himmel ist", "日本の首都は", "Dear Sir or Madam,",
    "The cat sat on the mat and the dog is in Paris, not in London; because John said to Mary that",
]  # fmt: skip
# Share of the allowance that honest models may use up.
ROOM = {torch.float32: 0.5, torch.float64: 0.5, torch.bfloat16: 0.9, torch.float16: 0.9}


def with_room(monkeypatch, dtype: torch.dtype) -> None:
    for name in ("_PRECISE", "_HALF"):
        allowed, part = getattr(slope, name), ROOM[dtype]
        tight = replace(allowed, gradient=part * allowed.gradient, random=part * allowed.random)
        monkeypatch.setattr(slope, name, tight)


def half(name: str, dtype: torch.dtype):
    model = zoo.build(name).to(dtype)
    model.cfg.dtype = dtype
    return model


def on_the_way_back(at: str, edit):
    """A hook that edits the gradient at `at`, on either class."""
    return at, lambda g, hook: (edit(g[0]),) if isinstance(g, tuple) else edit(g)


def looked_at(model, prompt=zoo.TEXT) -> None:
    """`attribute`, with nothing known of the model's gradient."""
    view_of(model).followed.clear()
    ts.attribute(model, prompt, SCOPE)


def refused(model, prompt=zoo.LONG_TEXT, error=UnsupportedModelError) -> str:
    with pytest.raises(error) as caught:
        ts.attribute(model, prompt, SCOPE)
    return str(caught.value)


# ------------------------------------------------------------------------------------------- honest models
@pytest.mark.parametrize("name", zoo.names())
def test_every_architecture_passes_with_room(name, monkeypatch):
    """In float64, where honest models are nearer, every other test of these has them pass."""
    if "moe" not in zoo.traits(name) and "opt" not in name:  # a router or a ReLU may switch
        with_room(monkeypatch, torch.float32)
    for prompt in (zoo.LONG_TEXT, "a"):
        looked_at(zoo.shared(name, torch.float32), prompt)


@each_class
@pytest.mark.parametrize("dtype", ROOM, ids=str)
def test_every_dtype_passes_with_room(name, dtype, monkeypatch):
    with_room(monkeypatch, dtype)
    for prompt in PROMPTS:
        looked_at(zoo.shared(name, dtype), prompt)


@pytest.mark.real("smollm2-135m-instruct")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_bundled_model_passes_with_room(dtype, monkeypatch):
    with_room(monkeypatch, dtype)
    model = real_models.shared("smollm2-135m-instruct", dtype=dtype)
    for prompt in ENGLISH:
        looked_at(model, prompt)


# ------------------------------------------------------------------------------------------- wrong gradients
@each_class
@each_use
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.7, 1.3])
def test_a_gradient_that_is_30_percent_off_is_refused(name, factor, used):
    """The function, and so its Jacobian, is what it was without the hook."""
    model = zoo.build(name, torch.float32)
    if used:
        looked_at(model)
    rescaled = on_the_way_back("blocks.1.hook_resid_pre", lambda g: g * factor)
    with model.hooks(bwd_hooks=[rescaled]):
        for prompt in PROMPTS:
            message = refused(model, prompt)
            assert re.search("slope.*way back.*blocks.1.hook_resid_pre", message)
            assert "reset_hooks" in message
    looked_at(model)
    pair = (model, zoo.shared(name, torch.float32))
    torch.testing.assert_close(*(ts.attribute(m, zoo.TEXT, SCOPE).scores for m in pair))


HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@each_class
@HALF
@pytest.mark.parametrize("factor", [0, -1], ids=["zero", "turned over"])
def test_in_half_precision_a_gradient_that_is_missing_is_refused(name, dtype, factor):
    """Rounding hides what random directions do to a random direction of the final state."""
    model = half(name, dtype)
    missing = on_the_way_back("blocks.1.hook_resid_post", lambda g: g * factor)
    with model.hooks(bwd_hooks=[missing]):
        for prompt in (zoo.LONG_TEXT, zoo.TEXT):
            assert "blocks.1.hook_resid_post" in refused(model, prompt)
    looked_at(model)


@each_class
@HALF
def test_in_half_precision_a_stopped_gradient_is_refused(name, dtype):
    model = half(name, dtype)
    hooks = [(f"blocks.{i}.hook_{part}_out", stopped) for i in range(3) for part in ("attn", "mlp")]
    with model.hooks(fwd_hooks=hooks):
        assert "detach" in refused(model)


@pytest.mark.real("smollm2-135m-instruct")
def test_in_half_precision_a_bundled_model_is_no_exception():
    model = real_models.shared("smollm2-135m-instruct", dtype=torch.bfloat16)
    zero = ("blocks.5.hook_resid_post", lambda g, hook: (torch.zeros_like(g),))
    with model.hooks(bwd_hooks=[zero]):
        assert "blocks.5" in refused(model, ENGLISH[0])


@each_class
def test_weak_noise_is_told_from_a_wrong_gradient(name):
    model = zoo.build(name, torch.float32)
    torch.manual_seed(0)

    def noisy(a, hook):
        return a + 3e-4 * a.std() * torch.randn_like(a)

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", noisy)]):
        assert "two passes over the same tokens differ" in refused(model)


@each_class
def test_a_torch_hook_on_the_way_back_is_refused_by_name(name):
    model = zoo.build(name, torch.float32)
    handle = model.blocks[1].mlp.register_full_backward_hook(
        lambda module, inner, outer: tuple(g * 0 if g is not None else None for g in inner)
    )
    assert "blocks.1.mlp" in refused(model)
    handle.remove()
    looked_at(model)


def stopped(a, hook):
    return a.detach()


CUTS = {
    "a path": ("blocks.1.hook_mlp_out", stopped),
    "patterns": ("blocks.0.attn.hook_pattern", stopped),
    "other positions": (
        "blocks.1.hook_resid_pre",
        lambda a, hook: torch.cat([a[:, :-1].detach(), a[:, -1:]], 1),
    ),
    "everything": ("blocks.2.hook_resid_pre", stopped),
    "straight through": ("blocks.1.hook_resid_pre", lambda a, hook: 3 * a - (2 * a).detach()),
}


@each_class
@pytest.mark.parametrize("cut", CUTS)
@each_use
def test_a_stopped_gradient_is_refused_by_the_hook_that_stops_it(name, cut, used):
    model = zoo.build(name, torch.float32)
    if used:
        ts.attribute(model, zoo.LONG_TEXT, SCOPE)
    with model.hooks([CUTS[cut]]):
        message = refused(model)
        assert CUTS[cut][0] in message
        # What needs no gradient works as ever.
        assert baselines.LeaveOneOut(5, "logit").attribute(model, zoo.TEXT).scores.any()
    if cut in ("a path", "patterns", "everything"):
        assert "stored in an earlier pass" in message
    looked_at(model, zoo.LONG_TEXT)


@each_class
def test_the_remedy_works(name):
    """Values stored in an earlier pass are constant in the function too."""
    model = zoo.build(name, torch.float32)
    _, cache = model.run_with_cache(model.to_tokens(zoo.TEXT))
    stored = cache["blocks.0.attn.hook_pattern"].detach().clone()
    with model.hooks([("blocks.0.attn.hook_pattern", lambda a, hook: stored)]):
        assert ts.attribute(model, zoo.TEXT, SCOPE).scores.any()
    assert circuits.flow(model, zoo.TEXT, SCOPE, 1, frozen="patterns").scores.any()


@each_class
def test_one_token_does_not_speak_for_many(name):
    model = zoo.build(name, torch.float32)
    model.add_hook("blocks.0.attn.hook_pattern", stopped)
    ts.attribute(model, [0], SCOPE)  # all attention is on the only token: nothing is lost
    refused(model)


# ------------------------------------------------------------------------------------------- quantised models
@needs_bridge
def test_quantised_weights_alone_are_welcome():
    found, expected = (
        ts.attribute(make(), zoo.TEXT, SCOPE, sites="all").scores
        for make in (zoo_unfit.int8_bridge, zoo_unfit.dequantised_bridge)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@needs_bridge
def test_quantised_activations_are_refused_by_class():
    message = refused(zoo_unfit.int8_bridge(activations=True), zoo.TEXT)
    assert "_Int8Linear" in message and "blocks.0" in message and "float32" in message


def dynamic(module: torch.nn.Module) -> None:
    torch.ao.quantization.quantize_dynamic(
        module, {torch.nn.Linear}, dtype=torch.qint8, inplace=True
    )


@needs_bridge
@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation_is_refused_by_class():
    source = zoo.hf_model("llama", torch.float32)
    for layer in source.model.layers:
        dynamic(layer.mlp)
    message = refused(zoo.boot(source))
    assert "torch.ao.nn.quantized.dynamic" in message and "float32" in message
    model = zoo.build("bridge/llama", torch.float32)
    dynamic(model.original_model)
    assert "unembedding has no weight W_U" in refused(model) and "dynamic" in refused(model)


@pytest.mark.real("smollm2-135m-instruct")
@pytest.mark.filterwarnings("ignore")
@needs_bridge
def test_dynamic_quantisation_of_a_bundled_model_is_refused():
    model = models.load("smollm2-135m-instruct", backend="bridge")
    ts.attribute(model, ENGLISH[0], SCOPE)
    for block in model.blocks:
        mlp = block.mlp.original_component
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear = getattr(mlp, name).original_component
            holder = torch.nn.Sequential(linear)
            dynamic(holder)
            getattr(mlp, name)._modules["_original_component"] = holder[0]
    message = refused(model, ENGLISH[0])
    assert "slope" in message and "torch.ao.nn.quantized.dynamic" in message


class _Packed(torch.Tensor):
    """A weight that only gives its numbers when asked for, as quantising libraries' do."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def T(self):
        raise NotImplementedError("permute")

    def detach(self):
        return super().detach().as_subclass(_Packed)

    def dequantize(self):
        return self.as_subclass(torch.Tensor)


@needs_bridge
def test_a_head_that_is_quantised_itself():
    model = zoo.build("bridge/llama")
    expected = ts.attribute(model, zoo.TEXT, SCOPE).scores
    head = model.unembed.original_component
    plain = head.weight.detach()
    head.weight = torch.nn.Parameter(plain.as_subclass(_Packed), requires_grad=False)
    assert isinstance(head.weight, _Packed)
    torch.testing.assert_close(ts.attribute(model, zoo.TEXT, SCOPE).scores, expected)


# ------------------------------------------------------------------------------------------- when it is looked at
def look(a, hook):
    return None


@pytest.fixture
def looks(monkeypatch):
    measure = Mock(wraps=slope._measure)
    monkeypatch.setattr(slope, "_measure", measure)
    return measure


@each_class
def test_later_calls_cost_nothing(name, looks):
    model = zoo.build(name)
    for sites in ("embed", "all"):
        ts.attribute(model, zoo.LONG_TEXT, SCOPE, sites=sites)
        ts.attribute(model, zoo.TEXT, SCOPE, sites=sites)
    baselines.InputXGradient().attribute(model, zoo.TEXT)
    circuits.components(model, zoo.TEXT, SCOPE, "head")
    assert looks.call_count == 1


@each_class
def test_it_is_looked_at_again_when_something_changed(name, looks):
    model = zoo.build(name)
    for calls, change in enumerate((
        lambda: None,
        lambda: model.add_hook("blocks.1.hook_resid_pre", look),
        lambda: model.blocks[1].register_forward_hook(lambda *_: None),
        lambda: model.add_hook("blocks.1.hook_resid_pre", look, dir="bwd"),
        lambda: model.train(),
        lambda: setattr(model.to(torch.float32).cfg, "dtype", torch.float32),
    )):  # fmt: skip
        change()
        for _ in range(2):
            ts.attribute(model, zoo.LONG_TEXT, SCOPE)
        assert looks.call_count == calls + 1


@each_class
def test_the_same_hook_once_more_is_known(name, looks):
    model = zoo.build(name)
    for _ in range(3):
        with model.hooks([("blocks.1.hook_resid_pre", look)]):
            ts.attribute(model, zoo.TEXT, SCOPE)
    assert looks.call_count == 1


@each_class
def test_a_model_that_is_not_the_same_twice_is_refused(name):
    model = zoo.build(name)
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a + torch.rand_like(a))]):
        message = refused(model)
    assert "two passes" in message and "blocks.1.hook_resid_pre" in message
    norm, draws = model.blocks[1].ln2, itertools.count(1)
    norm.register_forward_hook(
        lambda module, args, out: out * next(draws) if module.training else out
    )
    ts.attribute(model, zoo.TEXT, SCOPE)
    model.train()
    assert "model.eval()" in refused(model, zoo.TEXT, TrainingModeError)
