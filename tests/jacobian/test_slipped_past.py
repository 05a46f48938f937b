"""What once went unseen after a model's first use, or ended in an error of torch's that says little."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules import module as torch_module

import tl_scopes as ts
from support import zoo
from support.traces import built, each_class, each_use
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import (
    ProcessedWeightsWarning,
    ScopeParameterError,
    UnsupportedModelError,
)

T = zoo.TEXT
SCOPE = ts.SemanticScope(5)
needs_bridge = pytest.mark.skipif(zoo.TransformerBridge is None, reason="transformer-lens < 3")

_PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "addmm", "bmm", "einsum")


class _Cut(torch.Tensor):
    """A weight whose products hand no gradient on, as integer kernels' do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") not in _PRODUCTS:
            return super().__torch_function__(func, types, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return cls.product(func(*args, **(kwargs or {})))

    @staticmethod
    def product(out):
        return out.detach()


class _Coarse(_Cut):
    """A weight whose products are others than those of the numbers it stands for."""

    @staticmethod
    def product(out):
        return out * 1.1

    def dequantize(self):
        return self.as_subclass(torch.Tensor)


# ------------------------------------------------------------------------------------------- replaced weights
def matrix(part):
    """The module, and the name there, of the first matrix of weights below a part of the model."""
    stores = (
        (module, key, p) for module in part.modules() for key, p in module._parameters.items()
    )
    return next(found for found in stores if found[2] is not None and found[2].ndim == 2)


REPLACED = {
    "MLP": (lambda model: model.blocks[1].mlp, _Cut, "slope"),
    "head": (lambda model: model.unembed, _Coarse, r"logits differ from y W_U"),
}


@each_class
@pytest.mark.parametrize("part", REPLACED)
def test_a_weight_replaced_after_first_use_is_looked_at_again(name, part):
    find, kind, words = REPLACED[part]
    model = zoo.build(name)
    expected = ts.attribute(model, T, SCOPE).scores
    module, key, weight = matrix(find(model))
    setattr(module, key, torch.nn.Parameter(weight.detach().as_subclass(kind)))
    with pytest.raises(UnsupportedModelError, match=words):
        ts.attribute(model, T, SCOPE)
    setattr(module, key, weight)
    assert torch.equal(ts.attribute(model, T, SCOPE).scores, expected)


@each_class
def test_a_parameter_object_is_told_from_another_with_the_same_numbers(name):
    model = zoo.build(name)
    before = view_of(model).circumstances()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.0)
    assert view_of(model).circumstances() == before
    module, key, weight = next(
        (m, key, p) for m in model.blocks.modules() for key, p in m._parameters.items()
    )
    setattr(module, key, torch.nn.Parameter(weight.detach()))
    assert view_of(model).circumstances() != before


# ------------------------------------------------------------------------------------------- torch's global hooks
@each_class
@each_use
def test_global_backward_hooks_that_change_gradients_are_refused(name, used):
    model = built(name, used)
    with (
        torch_module.register_module_full_backward_hook(
            lambda module, inner, outer: tuple(None if g is None else g * 0 for g in inner)
        ),
        pytest.raises(UnsupportedModelError, match=r"slope.*torch's global hooks"),
    ):
        ts.attribute(model, T, SCOPE)
    assert ts.attribute(model, T, SCOPE).scores.any()


REGISTER = {
    "before": torch_module.register_module_forward_pre_hook,
    "after": torch_module.register_module_forward_hook,
    "on the way back": torch_module.register_module_full_backward_hook,
}


@each_class
@pytest.mark.parametrize("kind", REGISTER)
def test_a_result_says_that_global_hooks_were_in_force(name, kind):
    model = zoo.build(name)
    expected = ts.attribute(model, T, SCOPE)
    with REGISTER[kind](lambda *_: None):
        found = ts.attribute(model, T, SCOPE)
    assert found.provenance.hooks == ("torch's global hooks",)
    torch.testing.assert_close(found.scores, expected.scores)
    assert ts.attribute(model, T, SCOPE).provenance.hooks == ()


@each_class
@each_use
def test_global_hooks_are_part_of_the_model(name, used):
    """An edit at the last position sees the whole prompt; one of the logits is refused."""
    model = built(name, used)
    mlp = model.blocks[1].mlp

    def edit(module, args, out):
        return out * torch.arange(out.shape[1]).flip(0)[:, None] if module is mlp else None

    with model.hooks([("blocks.1.hook_mlp_out", lambda a, hook: edit(mlp, (), a))]):
        expected = ts.attribute(model, T, SCOPE, position=2).scores
    with torch_module.register_module_forward_hook(edit):
        found = ts.attribute(model, T, SCOPE, position=2).scores
    torch.testing.assert_close(found, expected)
    with mlp.register_forward_hook(edit):
        found = ts.attribute(model, T, SCOPE, position=2).scores
        batch = ts.attribute_batch(model, [T, f"{T} {T}"], SCOPE, position=[2, -1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(batch[0].scores, expected)
    with (
        torch_module.register_module_forward_hook(
            lambda module, args, out: out * 2 if module is model.unembed else None
        ),
        pytest.raises(UnsupportedModelError, match=r"logits.*remove such hooks"),
    ):
        ts.attribute(model, T, SCOPE)


# ------------------------------------------------------------------------------------------- edits by hand
@each_class
@each_use
def test_centring_through_data_is_seen(name, used):
    model = built(name, used)
    assert not used or ts.attribute(model, T, SCOPE).provenance.processing == "raw"
    if name.startswith("bridge"):
        W = model.unembed.original_component.weight.data
        W -= W.mean(0, keepdim=True)
    else:
        W = model.unembed.W_U.data
        W -= W.mean(1, keepdim=True)
    with pytest.warns(ProcessedWeightsWarning, match="mean logit"):
        found = ts.attribute(model, T, SCOPE)
    assert found.provenance.processing == "processed: W_U mean-centred"
    assert ts.attribute(model, T, ts.TemperatureScope()).scores.any()


# ------------------------------------------------------------------------------------------- hooks' own tensors
@each_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_stability_under_a_hook_that_owns_tensors(name, dtype):
    model = zoo.build(name).to(dtype)
    model.cfg.dtype = dtype
    W = torch.eye(model.cfg.d_model, dtype=dtype) * 1.5
    layer = torch.nn.Linear(model.cfg.d_model, model.cfg.d_model, dtype=dtype)
    for own in (lambda a, hook: a @ W, lambda a, hook: a + layer(a)):
        with model.hooks([("blocks.1.hook_resid_pre", own)]):
            ts.attribute(model, T, SCOPE)
            with pytest.raises(
                ScopeParameterError, match=r"stability=True.*blocks\.1\.hook_resid_pre.*\.to\(a\)"
            ) as caught:
                ts.attribute(model, T, SCOPE, stability=True)
            assert isinstance(caught.value.__cause__, RuntimeError)
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a @ W.to(a))]):
        assert ts.attribute(model, T, SCOPE, stability=True).stability is not None
    assert ts.attribute(model, T, SCOPE, stability=True).stability is not None


@each_class
def test_errors_of_a_users_own_stay_theirs(name):
    model = zoo.build(name, torch.float32)
    calls = []

    def fail(a, hook):
        calls.append(a.dtype)
        if a.dtype != calls[0]:
            raise RuntimeError("mine")

    with (
        model.hooks([("blocks.1.hook_resid_pre", fail)]),
        pytest.raises(RuntimeError, match=r"^mine$"),
    ):
        ts.attribute(model, T, SCOPE, stability=True)


@each_class
def test_tensors_made_under_inference_mode_are_named(name):
    model = zoo.build(name)
    with torch.inference_mode():
        scale = torch.full((model.cfg.d_model,), 1.5)
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a * scale)]):
        with pytest.raises(
            UnsupportedModelError, match=r"inference_mode.*blocks\.1\.hook_resid_pre.*clone"
        ) as caught:
            ts.attribute(model, T, SCOPE)
        assert isinstance(caught.value.__cause__, RuntimeError)
    kept = scale.clone()
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a * kept)]):
        assert ts.attribute(model, T, SCOPE).scores.any()


# ------------------------------------------------------------------------------------------- compiled inside
@needs_bridge
@pytest.mark.parametrize("part", ["original_model", "original_model.model"])
@each_use
def test_a_compiled_wrapped_model_is_named(part, used):
    model = built("bridge/llama", used)
    module = model.original_model if part == "original_model" else model.original_model.model
    module.compile(backend="eager")
    with pytest.raises(UnsupportedModelError, match=rf"was compiled \({part}\)"):
        ts.attribute(model, T, SCOPE)
    module._compiled_call_impl = None
    assert ts.attribute(model, T, SCOPE).scores.any()
    model.original_model = torch.compile(model.original_model, backend="eager")
    with pytest.raises(UnsupportedModelError, match=r"Put original_model\._orig_mod back"):
        ts.attribute(model, T, SCOPE)
