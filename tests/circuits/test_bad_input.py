"""What a hurried user of `tl_scopes.circuits` gets wrong: named errors that say what was got, allowed, and to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo, zoo_unfit
from support.circuit_refusals import CALLS, S, T, attribution, each_class, ones
from support.refusals import PROMPTS, TARGETS, refused
from tl_scopes import errors
from tl_scopes.circuits import components, flow, flow_path, head_paths, verify
from tl_scopes.errors import (
    EmptyPromptError,
    LengthMismatchError,
    PositionError,
    ProcessedWeightsError,
    PromptError,
    ScopeParameterError,
    SiteError,
    TargetError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.wrong_types
IDS = [0, 5, 6, 7, 8, 9]
INSIDE = ts.DirectionScope(ones, site=2)
each_call = pytest.mark.parametrize("call", CALLS)
SOME_PROMPTS = [
    "empty text",
    "no ids",
    "list of lists",
    "None",
    "too long",
    "two BOS",
    "negative id",
]


@each_class
@each_call
@pytest.mark.parametrize("case", SOME_PROMPTS)
def test_prompts(name, call, case):
    prompt, error, words = PROMPTS[case]
    refused(lambda: CALLS[call](zoo.shared(name), prompt, S), error, *words)


@each_class
@pytest.mark.parametrize("what", ["corrupted", "reference"])
@pytest.mark.parametrize("case", [c for c in SOME_PROMPTS if c != "None"])
def test_other_prompts(name, what, case):
    prompt, error, words = PROMPTS[case]
    given = {what: prompt if what == "corrupted" else [T, prompt]}
    refused(lambda: components(zoo.shared(name), T, S, **given), error, *words)


@each_class
@each_call
@pytest.mark.parametrize("position", [True, "1", 1.0, None, 6, -7], ids=repr)
def test_positions(name, call, position):
    if call != "verify":  # it reads where the attribution did
        message = refused(
            lambda: CALLS[call](zoo.shared(name), T, S, position=position), PositionError
        )
        assert "int" in message or ("out of range" in message and "-6 to 5" in message)
    scope = ts.DirectionScope(ones, position=position)
    if position is not None:
        refused(lambda: CALLS[call](zoo.shared(name), T, scope), PositionError)


@each_class
@each_call
@pytest.mark.parametrize("case", ["two tokens", "unknown", "id too large", "bool", "next"])
def test_targets(name, call, case):
    target, words = TARGETS[case]
    for scope in (ts.SemanticScope(target), ts.LogitDifferenceScope(5, target)):
        if call == "verify" and scope.name != "semantic":
            continue
        refused(lambda s=scope: CALLS[call](zoo.shared(name), T, s), TargetError, *words)


@each_class
@each_call
def test_scopes(name, call):
    model = zoo.shared(name)
    for scope in (ts.FisherScope, ts.SemanticScope, "fisher", 3, {}, [S]):
        refused(lambda s=scope: CALLS[call](model, T, s), ScopeParameterError, "Scope", "give an? ")
    refused(
        lambda: CALLS[call](model, T, ts.FisherScope(rank=17)), ScopeParameterError, "rank 17", "16"
    )
    if call == "verify":
        message = refused(
            lambda: verify(model, T, attribution(), scope=INSIDE), ScopeParameterError
        )
        assert "'direction'" in message and "of semantic(target=5)" in message
        return
    narrow = ts.DirectionScope(ones[:15], site=None if call == "scope_metric" else 2)
    refused(lambda: CALLS[call](model, T, narrow), ScopeParameterError, r"\(15,\)", r"\(16,\)")
    vector = ts.FunctionScope(lambda z: z)
    refused(lambda: CALLS[call](model, T, vector), ScopeParameterError, "fn", "one number")
    if call != "scope_metric":
        nowhere = ts.DirectionScope(ones, site="nowhere")
        refused(lambda: CALLS[call](model, T, nowhere), SiteError, "'nowhere'", "Allowed")
        # The heads are where others have positions: position 2 must not be read as head 2.
        pattern = ts.DirectionScope(torch.ones(3, 3), site="blocks.2.attn.hook_pattern")
        words = [r"hook_pattern", r"\[batch, pos", "hook_z"]
        refused(lambda: CALLS[call](model, T, pattern, position=2), SiteError, *words)


@each_class
@pytest.mark.parametrize("call", ["components", "flow", "flow_path", "head_paths"])
def test_what_is_frozen(name, call):
    model = zoo.shared(name)
    for frozen in ("pattern", "", ["norms", "mlp"], [["norms"]], ["both", "norms"], True, 3, {1}):
        refused(
            lambda f=frozen: CALLS[call](model, T, S, frozen=f),
            ScopeParameterError,
            "frozen is",
            'None, "patterns", "norms", "both"',
        )
    for frozen in (["both"], ("norms", "patterns"), {"patterns", "norms"}, iter(["patterns", "norms"])):  # fmt: skip
        assert CALLS[call](model, T, S, frozen=frozen).frozen == ("patterns", "norms")
    assert CALLS[call](model, T, S, frozen=[]).frozen == ()


@each_class
@pytest.mark.parametrize("call", ["flow", "flow_path", "head_paths"])
@pytest.mark.parametrize("size", [0, -1, True, 1.5, "2"], ids=repr)
def test_chunk_sizes(name, call, size):
    refused(
        lambda: CALLS[call](zoo.shared(name), T, S, chunk_size=size),
        ScopeParameterError,
        f"chunk_size is {size!r}",
        "from 1",
    )


COMPONENTS = {
    "by": (dict(by="heads"), ["by is 'heads'", "'head', 'mlp', 'layer', 'neuron'"]),
    "by None": (dict(by=None), ["by is None", "'neuron'"]),
    "by list": (dict(by=["head"]), [r"\['head'\]", "'neuron'"]),
    "baseline": (dict(baseline="average"), ["'average'", '"zero", "mean", "corrupted"']),
    "baseline tensor": (dict(baseline=0), ["baseline is 0", "'mean'"]),
    "corrupted missing": (dict(baseline="corrupted"), ["needs corrupted="]),
    "corrupted and mean": (
        dict(baseline="mean", corrupted=T),
        ["corrupted is given", "'mean'", "drop"],
    ),
    "corrupted and zero": (dict(baseline="zero", corrupted=T), ["corrupted is given", "drop"]),
    "reference and zero": (dict(baseline="zero", reference=[T]), ["reference is given", "drop"]),
    "both": (dict(corrupted=T, reference=[T]), ["reference is given", "'corrupted'", "drop"]),
}


@each_class
@pytest.mark.parametrize("case", COMPONENTS)
def test_options_of_components(name, case):
    options, words = COMPONENTS[case]
    refused(lambda: components(zoo.shared(name), T, S, **options), ScopeParameterError, *words)


@each_class
def test_baseline_prompts(name):
    model = zoo.shared(name)
    short = refused(
        lambda: components(model, T, S, corrupted="The cat"),
        LengthMismatchError,
        "corrupted prompt has 3",
        "prompt 6",
        "same length",
    )
    assert "BOS" in short
    # Both must be as long even where the read position leaves the rest out.
    refused(
        lambda: components(model, T, S, corrupted=IDS[:4], position=2),
        LengthMismatchError,
        "4",
        "6",
    )
    refused(
        lambda: components(model, T, S, reference=[]),
        EmptyPromptError,
        "reference",
        "empty",
        "give",
    )
    for reference in (T, torch.tensor(IDS), {T}, 3, iter([T]), np.array(IDS)):
        refused(
            lambda r=reference: components(model, T, S, reference=r),
            PromptError,
            "reference",
            "list",
        )
    refused(lambda: components(model, T, S, reference=IDS), PromptError, "int", "allowed")
    refused(lambda: components(model, T, S, prepend_bos=1), PromptError, "prepend_bos is 1")


@each_class
@pytest.mark.parametrize(
    ("layer", "words"),
    [("nowhere", ["'nowhere'"]), (4, ["layer 4", r"resid\(3\)"]), (None, ["None"]), (1.0, ["1.0"]),
     (True, ["True"]), ("all", ["every layer|order"]), ("embed", ["order"]), ([], ["no site|list"]),
     ("blocks.1.attn.hook_z", ["is a hook", "layer from 0 to 3"]),
     ("blocks.1.hook_resid_pre", ["is a hook", "layer from 0 to 3"])],
)  # fmt: skip
def test_layers(name, layer, words):
    model = zoo.shared(name)
    refused(lambda: flow(model, T, S, layer), SiteError, *words)
    if layer not in ("embed", []):
        refused(lambda: flow(model, T, S, 1, site=layer), SiteError)
        refused(lambda: head_paths(model, T, S, site=layer), SiteError)
    for layers in ([layer], layer):
        refused(lambda each=layers: flow_path(model, T, S, each), SiteError)
    refused(lambda: flow_path(model, T, S, [1, layer]), SiteError)


@each_class
def test_layers_out_of_order(name):
    model = zoo.shared(name)
    for call in (
        lambda: flow_path(model, T, S, [2, 1]),
        lambda: flow_path(model, T, S, [1, 2], site=2),
        lambda: flow(model, T, S, 2, site=2),
        lambda: flow(model, T, S, 1, site=2),
    ):
        refused(call, SiteError, r"\['", "ascending order", "source comes first")
    refused(lambda: flow(model, T, INSIDE, 3), SiteError, r"resid\(3\)", "before", "give a site")
    refused(lambda: flow_path(model, T, INSIDE, [1, 3]), SiteError, r"resid\(3\)", "before")
    refused(lambda: head_paths(model, T, INSIDE, site=2), SiteError, "no head lies", "earlier")
    for source in (6, "a", True):
        refused(lambda s=source: flow_path(model, T, S, [1], source=s), PositionError, "position")
    assert flow_path(model, T, S, 1).sites == ("embed", "resid(1)")


@each_class
def test_heads_and_neurons_where_there_are_none(name):
    model = zoo.shared(name)
    outside = ts.DirectionScope(ones, site="embed")
    for call in (components, head_paths):
        refused(lambda c=call: c(model, T, outside), ScopeParameterError, "'embed'", "give a site")
    found = ts.attribute(model, T, outside)
    refused(
        lambda: verify(model, T, found, "head", scope=outside), ScopeParameterError, "outside the"
    )
    first = components(model, T, ts.DirectionScope(ones, site=0))
    assert first.labels == ("embed",)
    refused(first.heads, ScopeParameterError, "no heads", "by=")
    refused(lambda: first.top(kind="neuron"), ScopeParameterError, "'neuron'", "'embed'")
    refused(lambda: first.summed("totals"), ScopeParameterError, "'totals'", "'direct'")
    for attn_only in zoo.names("hooked", "attn_only"):
        refused(
            lambda n=attn_only: components(zoo.shared(n), T, S, "neuron"),
            UnsupportedModelError,
            "neuron",
            "MLP",
            "use by=",
        )


# ------------------------------------------------------------------------------------------------ unfit models
REFUSED, PROCESSED = zoo_unfit.refused(), zoo_unfit.processed()


@pytest.mark.parametrize("label", REFUSED)
def test_unfit_models(label):
    error, make = REFUSED[label]
    model = make()
    for call in CALLS.values():
        refused(lambda c=call: c(model, IDS, S), getattr(errors, error))


@pytest.mark.parametrize("label", [k for k in PROCESSED if k.endswith("/rms")])
def test_processed_weights(label):
    model = PROCESSED[label][1]()
    for name, call in CALLS.items():
        for scope in (ts.TemperatureScope(), ts.FisherScope(rank=2)):
            refused(lambda c=call, s=scope: c(model, T, s), ProcessedWeightsError, "raw weights")
        if name != "verify":
            with pytest.warns(errors.ProcessedWeightsWarning) as caught:
                call(model, T, S)
            assert all(w.filename == __file__ for w in caught)
