"""Verification and metrics asked for what cannot be: named errors, and the same question asked again."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.calls import INSIDE, ONES, S, T
from support.refusals import refused
from support.traces import each_class
from tl_scopes.circuits import components, flow, head_paths, scope_metric, verify
from tl_scopes.errors import (
    LengthMismatchError,
    NumericalError,
    PromptError,
    ScopeParameterError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.wrong_types


@functools.cache
def made(name: str, kind: str = "attribution"):
    """A result of every kind, on the same prompt and scope."""
    model = zoo.shared(name)
    return {
        "attribution": lambda: ts.attribute(model, T, S),
        "deeper": lambda: ts.attribute(model, T, S, sites=2),
        "components": lambda: components(model, T, S),
        "mlps": lambda: components(model, T, S, "mlp"),
        "flow": lambda: flow(model, T, S, 1),
        "head_paths": lambda: head_paths(model, T, S),
        "sequence": lambda: ts.attribute_sequence(model, T, S),
    }[kind]()


@each_class
def test_steps_in_any_container_work(name):
    model = zoo.shared(name)
    for steps in ((0.5, 1), iter([0.5, 1]), np.array([0.5, 1], np.float32), torch.tensor([0.5, 1])):
        assert verify(model, T, made(name), steps=steps).steps == (0.5, 1.0)


KINDS = [
    ("components", "token", "Components", "Attribution, Flow, HeadPaths"),
    ("flow", "head", "Flow", "Attribution, Components, HeadPaths"),
    ("sequence", "token", "SequenceAttribution"),
    ("mlps", "head", "no heads", 'by="head"'),
]


@each_class
def test_results_of_another_kind(name):
    for kind, by, *words in KINDS:
        call = functools.partial(verify, zoo.shared(name), T, made(name, kind), by)
        refused(call, ScopeParameterError, *words)
    for other, by in itertools.product((None, 3, "scores", torch.ones(6)), ("token", "head")):
        words = type(other).__name__, "make one with tl_scopes.attribute"
        call = functools.partial(verify, zoo.shared(name), T, other, by)
        refused(call, ScopeParameterError, *words)


@each_class
def test_another_prompt(name):
    model = zoo.shared(name)
    ask = functools.partial(verify, model, attribution=made(name))
    for prompt, at in (("The cat sat on the", 2), (f"{T} Paris", 6), ("The capital of France", 5)):
        words = "6 of the attribution", f"position {at} on", "give the prompt"
        refused(functools.partial(ask, prompt), PromptError, *words)
    bare = functools.partial(ask, T, prepend_bos=not made(name).has_bos)
    refused(bare, PromptError, "position 0 on", "prepend_bos")
    two = functools.partial(verify, model, [0, 5], ts.attribute(model, [0, 5], S))
    refused(two, ScopeParameterError, "only 2 of 2", "longer prompt")


@each_class
def test_scopes_that_the_record_does_not_hold(name):
    model = zoo.shared(name)
    function = ts.FunctionScope(lambda z: z.logsumexp(0), label="evidence")
    for scope, words in ((function, ["evidence"]), (INSIDE, ["direction"])):
        attribution = ts.attribute(model, T, scope)
        ask_again = ["record does not hold", "scope=", *words]
        refused(lambda a=attribution: verify(model, T, a), ScopeParameterError, *ask_again)
        again = verify(model, T, attribution, scope=scope)
        assert len(again.labels) == 6 and again.scope.name == scope.name
        wrong = functools.partial(verify, model, T, attribution, scope=ts.TemperatureScope())
        refused(wrong, ScopeParameterError, "'temperature'", f"of {scope.name}", "made with")
    elsewhere = ts.DirectionScope(ONES, site=2, position=3)
    attribution = ts.attribute(model, T, INSIDE)
    moved = functools.partial(verify, model, T, attribution, scope=elsewhere)
    refused(moved, ScopeParameterError, "read at 3", "read at 5", "give the scope")


@each_class
@pytest.mark.parametrize(
    "scope",
    [ts.SemanticScope(), ts.SemanticScope(" Paris"), ts.SemanticScope(ts.NEXT_TOKEN),
     ts.LogitDifferenceScope(" Paris", 9), ts.LogitDifferenceScope(None, ts.NEXT_TOKEN),
     ts.TemperatureScope(), ts.FisherScope(rank="full"), ts.FisherScope(rank=0.5),
     ts.FisherScope(samples=3, seed=4), ts.FisherScope(rank=2, samples=2, distribution="normal")],
    ids=str,
)  # fmt: skip
def test_scopes_that_it_holds(name, scope, tmp_path):
    """From a file too: the same question, without naming the scope again."""
    model = zoo.shared(name)
    attribution = ts.attribute(model, T, scope, position=-2)
    told = verify(model, T, attribution, scope=scope)
    loaded = ts.Attribution.load(attribution.save(tmp_path / "a.safetensors"))
    for each in (attribution, loaded):
        found = verify(model, T, each)
        torch.testing.assert_close(found.measured, told.measured)
        torch.testing.assert_close(found.predicted, told.predicted)


@each_class
@pytest.mark.parametrize("pad", [None, 65, -1])
def test_pads_without_an_embedding(name, pad, monkeypatch):
    model = zoo.build(name)

    class Tokenizer(type(model.tokenizer)):
        pad_token_id = pad

    monkeypatch.setattr(model.tokenizer, "__class__", Tokenizer)
    ids = made(name).tokens  # TransformerLens itself pads text
    call = functools.partial(verify, model, ids, made(name), intervention="pad")
    refused(call, ScopeParameterError, "pad_token_id", str(pad), '"zero" or "mean"')
    for kind in ("pad", "likely"):
        deeper = functools.partial(verify, model, T, made(name, "deeper"), intervention=kind)
        refused(deeper, ScopeParameterError, kind, '"embed"', '"zero", "mean" or "corrupt"')


@each_class
def test_changes_that_are_no_numbers(name):
    """A hook that divides by an activation's norm: fine, until that activation is ablated."""
    model = zoo.build(name)
    with model.hooks(
        [("blocks.0.hook_resid_pre", lambda a, hook: a / a.norm(dim=-1, keepdim=True))]
    ):
        attribution = ts.attribute(model, T, S)
        words = ["an intervention gives NaN", "hooks", "another"]
        refused(lambda: verify(model, T, attribution), NumericalError, *words)
        # Only the whole step does.
        refused(lambda: verify(model, T, attribution, steps=[0.5]), NumericalError, *words)


@each_class
def test_nothing_that_matters(name):
    """No scale for ranks: no agreement is claimed."""
    model = zoo.shared(name)
    none = ts.DirectionScope(ONES * 0)
    attribution = ts.attribute(model, T, none)
    words = ["all changes are equal", "choose another"]
    refused(lambda: verify(model, T, attribution, scope=none), NumericalError, *words)
    same = functools.partial(verify, model, T, made(name), intervention="corrupt", corrupted=T)
    refused(same, NumericalError, *words)


@each_class
def test_metrics(name):
    model = zoo.shared(name)
    inside = functools.partial(scope_metric, model, T, INSIDE)
    refused(inside, ScopeParameterError, "reads at 2", "logits do not determine", "verify")
    metric = scope_metric(model, T, ts.TemperatureScope())
    n, vocabulary = 6, model.W_U.shape[1]
    for shape in ((n + 1, vocabulary), (1, n - 1, vocabulary), (n, vocabulary - 1), (vocabulary,),
                  (0, n, vocabulary), (1, 1, n, vocabulary)):  # fmt: skip
        words = str(shape[0]), "pos = 6", str(vocabulary)
        refused(functools.partial(metric, torch.zeros(shape)), LengthMismatchError, *words)
    for other in (None, (torch.zeros(1, n, vocabulary),), np.zeros((n, vocabulary))):
        refused(functools.partial(metric, other), PromptError, type(other).__name__, "give")


@each_class
def test_w_u_that_hides_the_final_state(name):
    model = zoo.build(name)
    with torch.no_grad():
        model.unembed.W_U.data[3] = 0
    metric = scope_metric(model, T, ts.TemperatureScope())
    logits = torch.zeros(6, model.W_U.shape[1])
    refused(lambda: metric(logits), UnsupportedModelError, "rank", "use a semantic")
    assert scope_metric(model, T, S)(logits) == 0
