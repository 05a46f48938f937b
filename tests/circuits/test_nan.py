"""NaN, infinity and influence from the future are named errors of every function, never numbers."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.circuit_refusals import CALLS, S, T, each_class, ones
from support.refusals import refused, spoilt
from tl_scopes.circuits import components, head_paths
from tl_scopes.errors import NumericalError, UnsupportedModelError

pytestmark = pytest.mark.wrong_types


@each_class
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
@pytest.mark.parametrize(
    ("place", "word"),
    [("embed", "at embed"), ("block 1", r"at resid\(2\)"), ("W_U", "in the unembedding")],
)
def test_weights_that_are_not_numbers(name, place, word, value):
    model = spoilt(name, place, value)
    for call in CALLS.values():
        refused(lambda c=call: c(model, T, S), NumericalError, "NaN or inf", word)
    if place != "W_U":
        deep = ts.DirectionScope(ones, site=3)
        for call in (components, CALLS["flow"], CALLS["flow_path"], head_paths):
            refused(lambda c=call: c(model, T, deep), NumericalError, "NaN or inf", word)


@each_class
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_norms_that_give_no_numbers(name, value):
    model = spoilt(name, "block 1", value)
    for label in ("components", "flow", "flow_path", "head_paths"):
        call = functools.partial(CALLS[label], model, T, S, frozen="norms")
        assert "float16" not in refused(call, NumericalError, "NaN or inf", r"resid\(2\)")
    half = zoo.build(name, torch.float16)
    with half.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a * float("inf"))]):
        call = functools.partial(components, half, T, S, frozen="norms")
        refused(call, NumericalError, r"resid\(1\)", "float16 an overflow")


@each_class
@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_hooks_that_give_no_numbers(name, value):
    model = zoo.build(name)

    def spoil(a, hook):
        return a + torch.tensor(value)

    with model.hooks([("blocks.1.hook_mlp_out", spoil)]):
        for call in CALLS.values():
            refused(lambda c=call: c(model, T, S), NumericalError, "NaN or inf", r"resid\(2\)")


@each_class
def test_gradients_that_are_not_numbers(name):
    model = zoo.build(name)

    def spoil(g, hook):
        return (g[0] * float("nan"),) if isinstance(g, tuple) else g * float("nan")

    with model.hooks(bwd_hooks=[("blocks.1.hook_mlp_out", spoil)]):
        for label, call in CALLS.items():
            if label != "scope_metric":
                words = ["gradient at", "forward pass was finite", "hooks between"]
                message = refused(lambda c=call: c(model, T, S), NumericalError, *words)
                assert "float16" not in message


@each_class
def test_an_overflow_of_half_precision(name):
    model = zoo.build(name, torch.float16)

    def grow(g, hook):
        return (g[0] * 6e4,) if isinstance(g, tuple) else g * 6e4

    with model.hooks(
        bwd_hooks=[("blocks.1.hook_resid_pre", grow), ("blocks.0.hook_mlp_out", grow)]
    ):
        for label in ("components", "head_paths"):
            words = ["gradient at", "float16", "bfloat16 or float32"]
            refused(lambda c=CALLS[label]: c(model, T, S), NumericalError, *words)


@each_class
def test_effects_beyond_single_precision(name):
    """Finite in the float64 that they are worked out in, not in what a result holds."""
    scope = ts.FunctionScope(lambda z: z.sum() * 1e60)
    for call in (components, CALLS["flow"], CALLS["flow_path"], head_paths):
        words = ["NaN or infinity in the result", "scale"]
        refused(lambda c=call: c(zoo.shared(name), T, scope), NumericalError, *words)


@each_class
def test_models_that_look_ahead_are_refused(name):
    model = zoo.build(name)
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a.flip(1))]):
        for label in ("components", "flow", "flow_path", "head_paths"):
            call = functools.partial(CALLS[label], model, T, S, position=2)
            refused(
                call, UnsupportedModelError, "position 1", "not causal", "blocks.1.hook_resid_pre"
            )
