"""NaN and infinity, and influence from the future, are named errors of every call: never numbers."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.calls import CALLS, CIRCUITS, EXPLAINING, ONES, TELLING, VARIANTS, S, T, calls
from support.refusals import refused
from support.traces import PLAIN, each_class
from tl_scopes.errors import NumericalError, UnsupportedModelError

pytestmark = pytest.mark.wrong_types
NAN, INF = float("nan"), float("inf")
TRACING = [call for call in CIRCUITS if call not in ("scope_metric", "verify")]
# Random scores are of no number of the model's: it need not look at them.
PLACES = {"embed": "at embed", "block 1": r"at resid\(2\)", "W_U": "in the unembedding"}
DEEP = ts.DirectionScope(ONES, site=3)


def refuse(model, call: str, *words: str, error=NumericalError, **given) -> str:
    return refused(functools.partial(CALLS[call], model, **given), error, *words)


def spoilt(name: str, place: str, value: float, dtype=torch.float64):
    model = zoo.build(name, dtype)
    with torch.no_grad():
        if place == "embed":
            model.embed.W_E.data[5:] = value
        elif place == "block 1":
            next(p for n, p in model.blocks[1].named_parameters() if "mlp" in n).data.fill_(value)
        else:
            model.unembed.W_U.data.fill_(value)
    return model


@pytest.mark.filterwarnings("error")  # weights full of infinity are not "mean-centred"
@pytest.mark.parametrize(("name", "place", "value"), chosen.pairs(PLAIN, PLACES, [NAN, INF, -INF]))
def test_weights_that_are_not_numbers(name, place, value):
    model = spoilt(name, place, value)
    for call in calls(but=TELLING):
        assert "float16" not in refuse(model, call, "NaN or inf", PLACES[place])
    for sites in ("all", 3, "embed"):  # also where the first call has already seen the model
        assert "float16" not in refuse(model, "attribute", "NaN or inf", PLACES[place], sites=sites)
    for call in TRACING if place != "W_U" else ():
        refuse(model, call, "NaN or inf", PLACES[place], scope=DEEP)


@each_class
def test_half_precision_that_overflows(name):
    model = spoilt(name, "block 1", 6e4, torch.float16)
    words = r"resid\(2\)", "float16", "bfloat16 or float32"
    refuse(model, "attribute", *words)
    half = zoo.build(name, torch.float16)

    def grow(g, hook):
        return (g[0] * 6e4,) if isinstance(g, tuple) else g * 6e4

    places = ("blocks.1.hook_resid_pre", "blocks.0.hook_mlp_out")
    with half.hooks(bwd_hooks=[(place, grow) for place in places]):
        for call in ("components", "head_paths"):
            refuse(half, call, "gradient at", *words[1:])
    with half.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a * INF)]):
        words = r"resid\(1\)", "float16 an overflow"
        refuse(half, "components", *words, frozen="norms")


@each_class
@pytest.mark.parametrize("value", [NAN, INF])
def test_norms_that_give_no_numbers(name, value):
    model = spoilt(name, "block 1", value)
    for call in TRACING:
        message = refuse(model, call, "NaN or inf", r"resid\(2\)", frozen="norms")
        assert "float16" not in message


@each_class
@pytest.mark.parametrize("value", [NAN, -INF])
def test_hooks_that_give_no_numbers(name, value):
    model = zoo.build(name)
    with model.hooks([("blocks.1.hook_mlp_out", lambda a, hook: a + torch.tensor(value))]):
        for call in calls(but=TELLING):
            refuse(model, call, "NaN or inf", r"resid\(2\)")
        for variant in ("mean", "hide", "published"):
            asked = functools.partial(VARIANTS[variant], model)
            refused(asked, NumericalError, r"NaN or inf.*resid\(2\)")
    assert all(CALLS[call](model).scores.isfinite().all() for call in EXPLAINING)


@each_class
def test_gradients_that_are_not_numbers(name):
    model = zoo.build(name)

    def spoil(g, hook):
        return (g[0] * NAN,) if isinstance(g, tuple) else g * NAN

    with model.hooks(bwd_hooks=[("blocks.1.hook_mlp_out", spoil)]):
        message = refuse(model, "attribute", "gradient", "forward .* finite", sites="all")
        assert "resid(1)" in message, "the last place on the way back that was fine is resid(2)"
        assert "float16" not in message
        assert ts.attribute(model, T, S, sites=[2, 3]).scores.isfinite().all()
        for call in CIRCUITS:
            if call != "scope_metric":  # which takes no gradient
                words = "gradient at", "forward pass was finite", "hooks between"
                assert "float16" not in refuse(model, call, *words)


@each_class
def test_effects_beyond_single_precision(name):
    """Finite in the float64 that they are worked out in, not in what a result holds."""
    scope = ts.FunctionScope(lambda z: z.sum() * 1e60)
    for call in TRACING:
        refuse(zoo.shared(name), call, "NaN or infinity in the result", "scale", scope=scope)


@each_class
def test_models_that_look_ahead_are_refused(name):
    """A patch that carries a later token to an earlier position makes the model non-causal."""
    model = zoo.build(name)
    ahead = ("blocks.1.hook_resid_pre", lambda a, hook: a.flip(1))
    with model.hooks([ahead]):
        refuse(model, "attribute", "not causal", error=UnsupportedModelError, position=2)
        for call in TRACING:
            words = "position 1", "not causal", "blocks.1.hook_resid_pre"
            refuse(model, call, *words, error=UnsupportedModelError, position=2)
        for call in EXPLAINING:
            if call not in ("AttentionRollout", "LeaveOneOut", "Random"):  # which take no gradient
                words = r"not causal.*hook"
                refuse(model, call, words, error=UnsupportedModelError, position=2)
    for call in EXPLAINING:
        assert CALLS[call](model, position=2).scores[:, 3:].eq(0).all()
