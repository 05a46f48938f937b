"""Baselines and replacements that a model does not have are refused; half precision and centred logits are told."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from support import zoo, zoo_unfit
from support.calls import T
from support.refusals import refused
from support.traces import each_class
from tl_scopes import errors
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines import (
    AttentionRollout,
    GradientNorm,
    InputXGradient,
    IntegratedGradients,
    LeaveOneOut,
    Method,
    Random,
    SemanticPath,
    SmoothGrad,
)
from tl_scopes.errors import ScopeParameterError
from tl_scopes.evaluation.methods import score

pytestmark = pytest.mark.wrong_types


def test_a_method_has_scores():
    with pytest.raises(TypeError):
        Method()


@each_class
def test_baselines_of_a_wrong_shape(name):
    model = zoo.shared(name)
    for shape in ((15,), (3, 16), (1, 6, 16), (6, 15)):
        method = IntegratedGradients(steps=2, baseline=torch.zeros(shape))
        refused(
            lambda m=method: m.attribute(model, T),
            ScopeParameterError,
            re.escape(str(shape)),
            r"\(6, 16\)",
        )


@each_class
def test_replacements_that_the_model_does_not_have(name, monkeypatch):
    model, ids = zoo.build(name), [5, 6, 7]
    methods = LeaveOneOut(replacement="pad"), IntegratedGradients(steps=2, baseline="pad")
    for method in methods:
        call = functools.partial(method.attribute, model, ids, sites=1)
        refused(call, ScopeParameterError, "'pad'", '"embed" only', "'resid\\(1\\)'")
    for token_id in (None, 10**6):
        with monkeypatch.context() as patch:
            patch.setattr(type(model.tokenizer), "pad_token_id", token_id, raising=False)
            for method in methods:
                call = functools.partial(method.attribute, model, ids)
                words = ("pad_token_id", f"which is {token_id}", '"zero" or "mean"')
                refused(call, ScopeParameterError, *words)
    assert methods[0].attribute(model, ids).scores.any()
    model.tokenizer = None
    call = functools.partial(LeaveOneOut(replacement="bos").attribute, model, ids)
    refused(call, ScopeParameterError, "bos_token_id", "None")
    assert LeaveOneOut().attribute(model, ids).scores.any()


@each_class
def test_half_precision_is_near_full_precision(name):
    """Differentiated in the model's dtype, norms in float32; a tiny model's rounding is a few percent."""
    full = zoo.build(name, torch.float32)
    methods = [
        LeaveOneOut(7, "log_prob", "hide"), InputXGradient(7), IntegratedGradients(7, steps=4, baseline="pad"),
        GradientNorm(7), LeaveOneOut(7, "log_prob", "mean"), AttentionRollout(), SemanticPath(7),
        SmoothGrad(7, noise=0.01), Random(),
    ]  # fmt: skip
    for dtype, allowed, some in (
        (torch.bfloat16, 0.1, methods),
        (torch.float16, 0.02, methods[:3]),
    ):
        model = zoo.build(name, dtype)
        for method in some:
            half, whole = (method.attribute(m, T).scores for m in (model, full))
            assert half.dtype == torch.float32 and torch.isfinite(half).all()
            if isinstance(method, InputXGradient):
                assert not torch.equal(half, half.to(dtype).float()), (
                    "a norm was reduced in half precision"
                )
            error = (half - whole).abs().max() / whole.abs().max()
            assert error < allowed, (dtype, method, error)


@pytest.mark.parametrize("label", [k for k in zoo_unfit.processed() if k.endswith("/rms")])
def test_a_centred_logit_is_told(label):
    model = zoo_unfit.processed()[label][1]()
    for method in (SemanticPath(), InputXGradient(of="logit"), LeaveOneOut(measure="logit")):
        with pytest.warns(
            errors.ProcessedWeightsWarning, match=f"{method.name} explains the logit minus"
        ):
            method.attribute(model, T)
        with pytest.warns(errors.ProcessedWeightsWarning):
            score(view_of(model), [T], [method], -1)
    InputXGradient().attribute(model, T)  # a log-probability is what it was; a warning is an error
