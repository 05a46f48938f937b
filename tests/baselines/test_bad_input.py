"""What a hurried user gets wrong with baselines: each is a named error that says what is allowed, before any pass."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo, zoo_unfit
from support.refusals import refused
from tl_scopes import baselines, errors
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
from tl_scopes.errors import (
    EmptyPromptError,
    PositionError,
    PromptError,
    PromptTooLongError,
    ScopeParameterError,
    SiteError,
    TargetError,
    UnsupportedModelError,
)
from tl_scopes.evaluation.methods import score

pytestmark = pytest.mark.wrong_types
MODELS = [n for n in ("hooked/llama", "bridge/llama") if n in zoo.names()]
each_class = pytest.mark.parametrize("name", MODELS)
METHODS = [
    GradientNorm(), InputXGradient(), SmoothGrad(draws=2), LeaveOneOut(), AttentionRollout(), Random(),
    IntegratedGradients(steps=2), SemanticPath(steps=2),
]  # fmt: skip
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
T = zoo.TEXT


NAN, INF = float("nan"), float("inf")
OF = ["of is", "allowed: 'log_prob', 'logit'"]
STEPS = ["steps is", "whole number from 1"]
SEED = ["seed is", "whole number from 0"]
BASELINE = ["baseline is", "'zero', 'pad', 'bos', 'mean', or a tensor"]
REPLACED = ["replacement is", "'zero', 'pad', 'bos', 'mean', 'hide'"]
PARAMETERS: list[tuple[Any, dict[str, Any], list[str]]] = [
    *((m, dict(of=of), OF) for m in (GradientNorm, InputXGradient, SmoothGrad) for of in ("prob", None, ["logit"])),
    *((InputXGradient, dict(reduce=r), ["reduce is", "'norm'.*'sum'"]) for r in ("mean", None, {})),
    *((IntegratedGradients, dict(steps=s), STEPS) for s in (0, -1, 2.5, True, "5", None)),
    (IntegratedGradients, dict(steps=1, rule="riemann_left"), ["steps is 1", "from 2"]),
    (SemanticPath, dict(steps=1), ["steps is 1", "from 2"]),
    (SemanticPath, dict(rule="published"), ["'published'", "drop rule", "IntegratedGradients"]),
    *((IntegratedGradients, dict(rule=r), ["rule is", "'gausslegendre'", "'published'"]) for r in ("mean", None, [1])),
    *((IntegratedGradients, dict(baseline=b), BASELINE) for b in ("black", "hide", 0, None, [0.0], np.zeros(16))),
    *((LeaveOneOut, dict(replacement=r), REPLACED) for r in ("blank", None, 0, np.zeros(2), ["zero"])),
    *((LeaveOneOut, dict(measure=m), ["measure is", "'kl', 'log_prob', 'logit'"]) for m in ("prob", None, ["kl"])),
    *((SmoothGrad, dict(draws=d), ["draws is", "whole number"]) for d in (0, 1.5, True)),
    *((SmoothGrad, dict(noise=n), ["noise is", "above 0"]) for n in (0, NAN, INF, "0.1", None, True)),
    *((m, dict(seed=s), SEED) for m in (Random, SmoothGrad) for s in (-1, 1.0, None, True, 2**63)),
    *((AttentionRollout, dict(residual=r), ["residual is", "below 1"]) for r in (-0.1, 1, "a", None, True, NAN)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "wrong", "words"),
    PARAMETERS,
    ids=lambda v: f"{v}"[:40] if isinstance(v, dict) else None,
)
def test_parameters(method, wrong, words):
    refused(lambda: method(**wrong), ScopeParameterError, *words)


@each_class
@each_method
def test_prompts_positions_and_sites(name, method):
    model = zoo.shared(name)
    for prompt, error in (
        ("", EmptyPromptError),
        ([], EmptyPromptError),
        (3.0, PromptError),
        ([1.5], PromptError),
        ([10**6], PromptError),
        ([T, T], PromptError),
        (list(range(5, 38)), PromptTooLongError),
    ):
        refused(lambda prompt=prompt: method.attribute(model, prompt), error)
    refused(lambda: method.attribute(model, T, position=99), PositionError, "99", "6 tokens")
    refused(lambda: method.attribute(model, [5, 6], prepend_bos=True), PromptError, "prepend_bos")
    for sites in ([], 9, "ebmed", None, "blocks.0.attn.hook_result", "blocks.0.hook_resid_pre[0]"):
        refused(lambda sites=sites: method.attribute(model, T, sites=sites), SiteError)


@each_class
def test_targets(name):
    model = zoo.shared(name)
    for make in (GradientNorm, InputXGradient, SmoothGrad, IntegratedGradients, SemanticPath):
        for target in ("", zoo.SPLIT_WORD, -1, 10**9, True, ts.NEXT_TOKEN):
            refused(lambda make=make, t=target: make(t).attribute(model, T), TargetError)
    refused(lambda: LeaveOneOut(-1, "logit").attribute(model, T), TargetError)


@each_class
def test_activations_without_a_place_in_a_row_of_tokens(name):
    attention = ["blocks.0.attn.hook_pattern", "blocks.0.attn.hook_attn_scores"]
    for method in (InputXGradient(), IntegratedGradients(steps=2), LeaveOneOut(), Random()):
        # A prompt as long as there are heads hides which axis is which.
        for site, prompt in itertools.product(attention, (T, [0, 5, 6, 7])):
            call = functools.partial(method.attribute, zoo.shared(name), prompt, sites=site)
            refused(call, SiteError, "has shape", r"\[batch, pos")
    if name.startswith("hooked"):  # once each for queries, keys and values
        call = functools.partial(InputXGradient().attribute, zoo.shared(name), T)
        refused(lambda: call(sites="blocks.0.ln1.hook_normalized"), SiteError, "3 times")


@each_class
def test_activations_without_a_path(name):
    model = zoo.build(name)
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: torch.ones_like(a))]):
        for make in (InputXGradient, SmoothGrad, IntegratedGradients, SemanticPath):
            refused(lambda m=make: m().attribute(model, T), SiteError, "no path", "hook of yours")
        assert not LeaveOneOut().attribute(model, T).scores.any()


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


def test_what_is_no_model_or_no_method():
    for method in METHODS:
        refused(
            lambda method=method: method.attribute("gpt2", T), UnsupportedModelError, "builtins.str"
        )
    with pytest.raises(TypeError):
        Method()
    assert set(baselines.__all__) == {type(m).__name__ for m in METHODS} | {"Method", "Scored"}


UNFIT = [
    label
    for label in (
        "other/hugging-face",
        "bridge/dropout",
        "bridge/inner-dropout",
    )
    if label in zoo_unfit.refused()
]


@pytest.mark.parametrize("label", UNFIT)
def test_unfit_models_are_refused_as_for_scopes(label):
    error, make = zoo_unfit.refused()[label]
    model = make()
    for method in (InputXGradient(), LeaveOneOut(), Random()):
        with pytest.raises(getattr(errors, error)):
            method.attribute(model, T)


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
