"""Verification and metrics asked for what cannot be: named errors, and the same question asked again."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.refusals import MODELS, refused
from tl_scopes.circuits import components, flow, head_paths, scope_metric, verify
from tl_scopes.errors import (
    EmptyPromptError,
    LengthMismatchError,
    NumericalError,
    PromptError,
    ScopeParameterError,
    TargetError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.wrong_types
each_class = pytest.mark.parametrize("name", MODELS)
T, S = zoo.TEXT, ts.SemanticScope(5)
OTHER = "The cat sat on the"
ones = torch.ones(16)
INSIDE = ts.DirectionScope(ones, site=2)


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


OPTIONS = {
    "by": (dict(by="mlp"), ["by is 'mlp'", "'token', 'head'"]),
    "by None": (dict(by=None), ["by is None", "'token', 'head'"]),
    "by list": (dict(by=["head"]), ["head", "'token', 'head'"]),
    "intervention": (dict(intervention="noise"), ["'noise'", '"zero", "mean", "pad", "corrupt"']),
    "intervention None": (dict(intervention=None), ["None", '"corrupt"']),
    "intervention list": (dict(intervention=["zero"]), ["zero", '"corrupt"']),
    "corrupt alone": (dict(intervention="corrupt"), ["corrupted=", "both or none"]),
    "corrupted alone": (dict(corrupted=OTHER), ["corrupted=", "both or none"]),
    "pad of heads": (dict(by="head", intervention="pad"), ["embed", 'by="token"', '"zero"']),
    "top": (dict(top=-1), [r"\(-1, 10, 5\)", "whole numbers from 0"]),
    "top True": (dict(top=True), ["True", "whole numbers from 0"]),
    "random": (dict(random=1.5), ["1.5", "whole numbers from 0"]),
    "k": (dict(k=0), [r"\(10, 10, 0\)", "k from 1"]),
    "k None": (dict(k=None), ["None", "k from 1"]),
    "nothing": (dict(top=0, random=0), ["only 0 of 6", "at least three", "raise top"]),
    "two": (dict(top=1, random=1), ["only 2 of 6", "at least three"]),
    "no steps": (dict(steps=[]), [r"steps is \[\]", "above 0"]),
    "steps None": (dict(steps=None), ["None", "list of shares"]),
    "one step": (dict(steps=0.5), ["0.5", "list of shares"]),
    "step 0": (dict(steps=[0.0, 1.0]), [r"\[0.0, 1.0\]", "above 0"]),
    "step 2": (dict(steps=[2]), [r"\[2\]", "up to 1"]),
    "step nan": (dict(steps=[float("nan")]), ["nan", "up to 1"]),
    "text steps": (dict(steps="abc"), ["'abc'", "list of shares"]),
    "seed": (dict(seed="a"), ["seed is 'a'", "int from 0"]),
    "seed -1": (dict(seed=-1), ["seed is -1", "int from 0"]),
    "seed None": (dict(seed=None), ["seed is None", "int from 0"]),
    "seed 1.5": (dict(seed=1.5), ["seed is 1.5", "int from 0"]),
}


@each_class
@pytest.mark.parametrize("case", OPTIONS)
def test_options(name, case):
    options, words = OPTIONS[case]
    call = functools.partial(verify, zoo.shared(name), T, made(name), **options)
    refused(call, ScopeParameterError, *words)


@each_class
def test_steps_in_any_container_work(name):
    model = zoo.shared(name)
    for steps in ((0.5, 1), iter([0.5, 1]), np.array([0.5, 1], np.float32), torch.tensor([0.5, 1])):
        assert verify(model, T, made(name), steps=steps).steps == (0.5, 1.0)


@each_class
@pytest.mark.parametrize(
    ("by", "kind", "words"),
    [("token", "components", ["Components", "Attribution, Flow, HeadPaths"]),
     ("head", "flow", ["Flow", "Attribution, Components, HeadPaths"]),
     ("token", "sequence", ["SequenceAttribution"]), ("head", "mlps", ["no heads", 'by="head"'])],
)  # fmt: skip
def test_results_of_another_kind(name, by, kind, words):
    call = functools.partial(verify, zoo.shared(name), T, made(name, kind), by)
    refused(call, ScopeParameterError, *words)


@each_class
@pytest.mark.parametrize("other", [None, 3, "scores", torch.ones(6)], ids=repr)
def test_what_is_no_result(name, other):
    words = [type(other).__name__, "make one with tl_scopes.attribute"]
    for by in ("token", "head"):
        call = functools.partial(verify, zoo.shared(name), T, other, by)
        refused(call, ScopeParameterError, *words)


@each_class
def test_another_prompt(name):
    model, attribution = zoo.shared(name), made(name)
    for prompt, at in (("The cat sat on the", 2), (f"{T} Paris", 6), ("The capital of France", 5)):
        words = ["6 of the attribution", f"position {at} on", "give the prompt"]
        refused(lambda p=prompt: verify(model, p, attribution), PromptError, *words)
    bare = functools.partial(verify, model, T, attribution, prepend_bos=not attribution.has_bos)
    refused(bare, PromptError, "position 0 on", "prepend_bos")
    refused(lambda: verify(model, "", attribution), EmptyPromptError)
    short = functools.partial(
        verify, model, T, attribution, intervention="corrupt", corrupted="The cat"
    )
    refused(short, LengthMismatchError, "corrupted prompt", "same")
    two = ts.attribute(model, [0, 5], S)
    refused(lambda: verify(model, [0, 5], two), ScopeParameterError, "only 2 of 2", "longer prompt")


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
    elsewhere = ts.DirectionScope(ones, site=2, position=3)
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
    refused(call, ScopeParameterError, "pad token", str(pad), '"zero" or "mean"')
    deeper = functools.partial(verify, model, T, made(name, "deeper"), intervention="pad")
    refused(deeper, ScopeParameterError, '"embed"', '"zero", "mean" or "corrupt"')


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
    none = ts.DirectionScope(ones * 0)
    attribution = ts.attribute(model, T, none)
    words = ["all changes are equal", "choose another"]
    refused(lambda: verify(model, T, attribution, scope=none), NumericalError, *words)
    same = functools.partial(verify, model, T, made(name), intervention="corrupt", corrupted=T)
    refused(same, NumericalError, *words)


@each_class
def test_metrics(name):
    model = zoo.shared(name)
    refused(
        lambda: scope_metric(model, T, INSIDE),
        ScopeParameterError,
        "reads at 2",
        "logits do not determine",
        "verify",
    )
    metric = scope_metric(model, T, ts.TemperatureScope())
    n, vocabulary = 6, model.W_U.shape[1]
    for shape in ((n + 1, vocabulary), (1, n - 1, vocabulary), (n, vocabulary - 1), (vocabulary,),
                  (0, n, vocabulary), (1, 1, n, vocabulary)):  # fmt: skip
        refused(
            lambda s=shape: metric(torch.zeros(s)),
            LengthMismatchError,
            str(shape[0]),
            "pos = 6",
            str(vocabulary),
        )
    for other in (None, (torch.zeros(1, n, vocabulary),), np.zeros((n, vocabulary))):
        refused(lambda o=other: metric(o), PromptError, type(other).__name__, "give")


@each_class
def test_targets_after_the_end(name):
    after = ts.SemanticScope(ts.NEXT_TOKEN)
    refused(lambda: scope_metric(zoo.shared(name), T, after), TargetError, "NEXT_TOKEN")
    assert scope_metric(zoo.shared(name), T, after, position=2).position == 2


@each_class
def test_w_u_that_hides_the_final_state(name):
    model = zoo.build(name)
    with torch.no_grad():
        model.unembed.W_U.data[3] = 0
    metric = scope_metric(model, T, ts.TemperatureScope())
    logits = torch.zeros(6, model.W_U.shape[1])
    refused(lambda: metric(logits), UnsupportedModelError, "rank", "use a semantic")
    assert scope_metric(model, T, S)(logits) == 0
