"""What a hurried user gets wrong with sites, layers, scopes, choices and numbers: one named error in every call."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.calls import ATTRIBUTING, CALLS, EXPLAINING, INSIDE, ONES, S, T, ask, calls, each_call
from support.refusals import refused
from support.traces import each_class
from tl_scopes.baselines import (
    AttentionRollout,
    GradientNorm,
    InputXGradient,
    IntegratedGradients,
    LeaveOneOut,
    Random,
    SemanticPath,
    SmoothGrad,
)
from tl_scopes.circuits import components
from tl_scopes.errors import PositionError, ScopeParameterError, SiteError, UnsupportedModelError

pytestmark = pytest.mark.wrong_types
NAN, INF = float("nan"), float("inf")


# ---------------------------------------------------------------------------------------------- choices and numbers
COUNTS = [0, -1, True, 1.5, "2"]
FROZEN = ["pattern", "", ["norms", "mlp"], [["norms"]], ["both", "norms"], True, 3, {1}]
# For every call that takes the argument.
SHARED: dict[str, tuple[list[Any], list[str]]] = {
    "chunk_size": (COUNTS, ["chunk_size is {!r}", "allowed", "from 1", "None"]),
    "batch_tokens": (COUNTS, ["batch_tokens is {!r}", "allowed"]),
    "frozen": (FROZEN, ["frozen is", 'None, "patterns", "norms", "both"']),
    "rules": (["GIM", 2, True, {}, ts.rules.GIM], ["rules is", r"Rules\(...\), GIM\(\)", "None"]),
}


@each_class
@pytest.mark.parametrize("argument", SHARED)
def test_arguments_of_several_calls(name, argument):
    wrong, words = SHARED[argument]
    for call, value in itertools.product(calls(argument), wrong):
        told = [word.format(value) for word in words]
        refused(ask(name, call, **{argument: value}), ScopeParameterError, *told)


OPTIONS: dict[str, list[tuple[Any, ...]]] = {
    "components": [
        (dict(by="heads"), "by is 'heads'", "'head', 'mlp', 'layer', 'neuron'"),
        (dict(by=None), "by is None", "'neuron'"),
        (dict(by=["head"]), r"\['head'\]", "'neuron'"),
        (dict(baseline="average"), "'average'", "'zero', 'mean', 'corrupted'"),
        (dict(baseline=0), "baseline is 0", "'mean'"),
        (dict(baseline="corrupted"), "needs corrupted="),
        (dict(baseline="mean", corrupted=T), "corrupted is given", "'mean'", "drop"),
        (dict(baseline="zero", corrupted=T), "corrupted is given", "drop"),
        (dict(baseline="zero", reference=[T]), "reference is given", "drop"),
        (dict(corrupted=T, reference=[T]), "reference is given", "'corrupted'", "drop"),
    ],
    "verify": [
        (dict(by="mlp"), "by is 'mlp'", "'token', 'head'"),
        (dict(by=None), "by is None", "'token', 'head'"),
        (dict(by=["head"]), "head", "'token', 'head'"),
        (dict(intervention="noise"), "'noise'", "'zero', 'mean', 'pad', 'corrupt'"),
        (dict(intervention=None), "None", "'corrupt'"),
        (dict(intervention=["zero"]), "zero", "'corrupt'"),
        (dict(intervention="corrupt"), "corrupted=", "both or none"),
        (dict(corrupted="The cat sat on the"), "corrupted=", "both or none"),
        (dict(by="head", intervention="pad"), "embed", 'by="token"', '"zero"'),
        *(
            ({name: n}, f"{name} is {n!r}", f"whole number from {least}")
            for name, n, least in (("top", -1, 0), ("top", True, 0), ("random", 1.5, 0), ("k", 0, 1), ("k", None, 1))
        ),
        (dict(top=0, random=0), "only 0 of 6", "at least three", "raise top"),
        (dict(top=1, random=1), "only 2 of 6", "at least three"),
        (dict(steps=[]), r"steps is \[\]", "above 0"),
        (dict(steps=None), "None", "list of shares"),
        (dict(steps=0.5), "0.5", "list of shares"),
        (dict(steps=[0.0, 1.0]), r"\[0.0, 1.0\]", "above 0"),
        (dict(steps=[2]), r"\[2\]", "up to 1"),
        (dict(steps=[NAN]), "nan", "up to 1"),
        (dict(steps="abc"), "'abc'", "list of shares"),
        *((dict(seed=seed), f"seed is {seed!r}", "whole number from 0") for seed in ("a", -1, None, 1.5)),
    ],
}  # fmt: skip


@each_class
@pytest.mark.parametrize("call", OPTIONS)
def test_options(name, call):
    for options, *words in OPTIONS[call]:
        refused(ask(name, call, **options), ScopeParameterError, *words)


@each_class
@each_call("frozen")
def test_what_is_frozen_in_any_container(name, call):
    for frozen in (["both"], ("norms", "patterns"), {"patterns", "norms"}, iter(["patterns", "norms"])):  # fmt: skip
        assert ask(name, call, frozen=frozen)().frozen == ("patterns", "norms")
    assert ask(name, call, frozen=[])().frozen == ()


OF = ["of is", "allowed: 'log_prob', 'logit'"]
STEPS = ["steps is", "whole number from 1"]
SEED = ["seed is", "whole number from 0"]
BASELINE = ["baseline is", "'zero', 'pad', 'bos', 'mean', or a tensor"]
REPLACED = ["replacement is", "'zero', 'pad', 'bos', 'mean', 'hide'"]
SHARE, RANK = r"\(0, 1\]", "1 to d_model"
# What is refused when a scope or a method is made.
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
    *((ts.FisherScope, dict(rank=r), [f"rank is {r}", RANK]) for r in (0, -1)),
    *((ts.FisherScope, dict(rank=r), [str(r), SHARE]) for r in (1.5, 0.0, NAN)),
    *((ts.FisherScope, dict(rank=r), [repr(r).strip("[]"), "'full'"]) for r in (True, [1])),
    (ts.FisherScope, dict(rank="ful"), ["'ful'", "'full'", RANK]),
    *((ts.FisherScope, dict(samples=n), [f"samples is {n}", "from 1"]) for n in (0, -1)),
    *((ts.FisherScope, dict(samples=n), [f"samples is {n!r}", "whole number"]) for n in (1.5, True, "3")),
    (ts.FisherScope, dict(rank="full", samples=2), ["nothing to sample", "drop"]),
    *((ts.FisherScope, dict(tail=t), [f"tail is {t!r}", "0 to below 1"]) for t in (1, -1e-9, NAN, "x", None)),
    *((ts.FisherScope, dict(samples=2, seed=s), [f"seed is {s!r}", "int|whole"]) for s in ("a", None, 1.5, 2**64)),
    (ts.FisherScope, dict(distribution="gauss"), ["'gauss'", "'rademacher', 'normal'"]),
    *((ts.FunctionScope, dict(fn=fn), ["fn", "logits|call"]) for fn in (None, "entropy", 3)),
    (ts.DirectionScope, dict(v="abc"), ["'abc'|str", "vector"]),
    (ts.DirectionScope, dict(v=None), ["None", "vector"]),
    (ts.DirectionScope, dict(v={}), ["dict|{}", "vector"]),
    (ts.DirectionScope, dict(v=torch.tensor(1.0)), [r"shape \(\)", "vector"]),
    (ts.DirectionScope, dict(v=[NAN] * 16), ["16 entries", "finite", "width"]),
    (ts.DirectionScope, dict(v=ONES * INF), ["16 entries", "finite"]),
    (ts.DirectionScope, dict(v=ONES.to(torch.cfloat)), ["complex", "real|vector"]),
]  # fmt: skip


def said(value: Any) -> str | None:
    return str(value)[:40] if isinstance(value, dict) else None


@pytest.mark.parametrize(("make", "wrong", "words"), PARAMETERS, ids=said)
def test_parameters(make, wrong, words):
    refused(lambda: make(**wrong), ScopeParameterError, *words)


def test_numpy_integers_are_integers():
    assert ts.FisherScope(rank=np.int64(2)).parameters()["rank"] == 2
    assert ts.FisherScope(samples=np.int64(2)).parameters()["samples"] == 2


# --------------------------------------------------------------------------------------------------------- scopes
OF_PREDICTIONS = ["verify", "scope_metric", "circuit_tracer_targets"]


@each_class
@pytest.mark.parametrize(
    "scope", [ts.FisherScope, ts.SemanticScope, None, 3, "fisher", {}, [S, S], [S], [], [None]], ids=repr
)  # fmt: skip
def test_what_is_no_scope(name, scope):
    for call in calls("scope"):
        if (call, scope) not in (
            ("verify", None),
            *((one, [S]) for one in ("attribute_batch", "edges", "faithfulness")),
            ("circuit_card", [S, S]),
        ):  # which mean something
            refused(ask(name, call, scope=scope), ScopeParameterError, "Scope|scopes", "give")


W = torch.nn.Parameter(torch.ones(3))
FUNCTIONS = {
    "vector": (lambda z: z, r"shape \(65,\)", "one number"),
    "python float": (lambda z: z.max().item(), "returned", "tensor", "one number"),
    "None": (lambda z: None, "None", "tensor"),
    "detached": (lambda z: z.detach().max(), "differentiably", ".detach"),
    "argmax": (lambda z: z.argmax(), "differentiably", "argmax"),
    "constant": (lambda z: torch.tensor(2.0), "differentiably", "logits"),
    "parameter": (lambda z: W.sum(), "gradient|differentiably", "logits"),
    "NaN gradient": (lambda z: (z - z).norm().sqrt(), "gradient", "not finite", "check"),
    "NaN value": (lambda z: z.sum() * NAN, "not finite", "check"),
    "infinite": (lambda z: (z * 0).log().sum(), "not finite", "check"),
    "complex": (lambda z: z.sum() * 1j, "complex.*return a real number"),
    "complex entry": (lambda z: torch.fft.fft(z)[1], "complex.*return a real number"),
    "complex vector": (lambda z: z.to(torch.cdouble)[:1], "complex.*return a real number"),
}


@each_class
@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions(name, case):
    fn, *words = FUNCTIONS[case]
    for call in ("attribute", *calls("scope", but=[*ATTRIBUTING, "verify"])):
        refused(ask(name, call, scope=ts.FunctionScope(fn)), ScopeParameterError, "fn", *words)
    if "complex" in case:
        real = ts.FunctionScope(lambda z: fn(z).abs().sum())
        assert ask(name, "attribute", scope=real)().scores.any()


@each_class
def test_scopes_that_do_not_fit_the_model(name):
    z = "blocks.2.attn.hook_z"
    for call in calls("scope"):
        over = ask(name, call, scope=ts.FisherScope(rank=17))
        refused(over, ScopeParameterError, "rank 17", "d_model", "16")
    inside = [*OF_PREDICTIONS, "faithfulness"]  # whose nodes would be others
    for v, site, shape in (
        (ONES[:15], None, r"\(16,\)"), (ONES[:15], 2, r"\(16,\)"), (ONES[None], None, r"\(16,\)"),
        (ONES, z, r"\(4, 4\)"), (torch.ones(4), z, r"\(4, 4\)"), (torch.ones(4, 4), f"{z}[2]", r"\(4,\)"),
    ):  # fmt: skip
        scope = ts.DirectionScope(v, site=site)
        for call in calls("scope", but=["verify"] if site is None else inside):
            words = "direction has shape", rf"\({str(list(v.shape))[1:-1]}", shape, "give a vector"
            refused(ask(name, call, scope=scope), ScopeParameterError, *words)
    words = "'direction'", r"of semantic\(target=5\)"
    refused(ask(name, "verify", scope=INSIDE), ScopeParameterError, *words)
    assert ask(name, "attribute", scope=ts.FisherScope(rank=16))().scores.any()
    beyond = ts.DirectionScope(torch.full((16,), 1e300, dtype=torch.float64))
    single = functools.partial(ts.attribute, zoo.build(name, torch.float32), T, beyond)
    assert "float16" not in refused(single, ScopeParameterError, "direction")


@each_class
@pytest.mark.parametrize(
    "site", [99, "resid(4)", "all", True, 3.0, ["embed"], "nowhere", "blocks.0.attn.hook_z[99]",
             "blocks.0.hook_resid_pre[0]", "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_result",
             "blocks.1.hook_resid"], ids=repr,
)  # fmt: skip
def test_directions_at_sites_that_do_not_exist(name, site):
    words = ["'nowhere'", "Allowed"] if site == "nowhere" else []
    for call in calls("scope", but=OF_PREDICTIONS):
        message = refused(ask(name, call, scope=ts.DirectionScope(ONES, site=site)), SiteError, *words)  # fmt: skip
        assert "nearest names are 'all'" not in message


@each_class
def test_heads_are_not_read_for_positions(name):
    """Where others have positions: position 2 must not be read as head 2."""
    pattern = ts.DirectionScope(torch.ones(3, 3), site="blocks.2.attn.hook_pattern")
    for call in calls("scope", "position", but=["scope_metric", "attribute_batch"]):
        words = r"hook_pattern", r"\[batch, pos", "hook_z"
        refused(ask(name, call, scope=pattern, position=2), SiteError, *words)


@each_class
def test_a_direction_with_a_position_is_not_silently_read_elsewhere(name):
    """`attribute_sequence` reads at its own positions, so a scope that names one contradicts it."""
    scope = ts.DirectionScope(ONES, position=2)
    with pytest.raises((PositionError, ScopeParameterError), match="position"):
        ask(name, "attribute_sequence", scope=scope, positions=[1, 3])()


# ---------------------------------------------------------------------------------------------- sites and layers
SITES = {
    "nothing": ([], "no site", "allowed"),
    "None": (None, "None", "allowed|string"),
    "float": (3.0, "3.0", "float"),
    "bool": (True, "True", "bool"),
    "nested": ([["embed"]], "list"),
    "misspelt": ("ebmed", "'ebmed'", "nearest names are 'embed'", "layer from 0 to 3"),
    "misspelt hook": ("blocks.1.hook_resid_pr", "nearest names are 'blocks.1.hook_resid_pre'"),
    "beyond the layers": ("blocks.9.hook_resid_pre", "nearest", "hook_resid_pre", "hook_dict"),
    "layer 4": (4, "layer 4", "3 blocks", r"resid\(0\) to resid\(3\)"),
    "layer -5": (-5, "layer -5", r"resid\(0\) to resid\(3\)"),
    "resid(9)": ("resid(9)", "layer 9", r"resid\(0\) to resid\(3\)"),
    "pattern": ("blocks.0.attn.hook_pattern", "hook_pattern", r"\[batch, pos", "hook_z"),
    "head 99": ("blocks.0.attn.hook_z[99]", r"hook_z\[99\]", "does not exist", r"\[4\]"),
    "head of the stream": ("blocks.0.hook_resid_pre[0]", "no head axis", "allowed"),
    "two heads": ("blocks.0.attn.hook_z[0][1]", "does not exist", r"\[4\]"),
    "never fires": ("blocks.0.attn.hook_result", "does not reach", "set_use_attn_result"),
}


@each_class
@pytest.mark.parametrize("case", SITES)
def test_sites(name, case):
    sites, *words = SITES[case]
    for call in calls("sites"):
        # Methods say in other words what they find out in a pass.
        told = words if call in ATTRIBUTING or "blocks.0" not in str(sites) else []
        refused(ask(name, call, sites=sites), SiteError, *told)


@each_class
def test_sites_of_any_integer_type_in_any_container_work(name):
    for sites in (np.int64(2), torch.tensor(2), {"resid(2)"}, ("resid(2)",), iter([2])):
        assert ask(name, "attribute", sites=sites)().sites == ("resid(2)",)


@each_class
def test_a_hook_that_fires_three_times(name):
    site = "blocks.0.ln1.hook_normalized"  # once each for queries, keys and values on HookedTransformer
    if name.startswith("hooked"):
        again = ask(name, "attribute", sites=site)
        refused(again, SiteError, "more than once", "residual stream")
        refused(ask(name, "InputXGradient", sites=site), SiteError, "more than once")
    else:
        assert ask(name, "attribute", sites=site)().scores.any()


@each_class
def test_activations_without_a_place_in_a_row_of_tokens(name):
    # A prompt as long as there are heads hides which axis is which.
    for hook, prompt in itertools.product(("hook_pattern", "hook_attn_scores"), (T, [0, 5, 6, 7])):
        for call in EXPLAINING:
            asked = ask(name, call, prompt=prompt, sites=f"blocks.0.attn.{hook}")
            words = () if call == "AttentionRollout" else ("has shape", r"\[batch, pos")
            refused(asked, SiteError, *words)


@each_class
def test_activations_without_a_path(name):
    model = zoo.build(name)
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: torch.ones_like(a))]):
        for call in ("attribute", *EXPLAINING):
            if call not in ("LeaveOneOut", "AttentionRollout", "Random", "GradientNorm"):
                asked = functools.partial(CALLS[call], model)
                refused(asked, SiteError, "no path", "hook of yours")
        assert not LeaveOneOut().attribute(model, T).scores.any()


def test_one_layer():
    models = [zoo.raw_hooked("rms", torch.float64, n_layers=1)] if zoo.HookedTransformer else []
    if zoo.TransformerBridge:
        config = zoo.hf_model("llama").config
        config.num_hidden_layers, config.layer_types = 1, ["full_attention"]
        models.append(zoo.boot(type(zoo.hf_model("llama"))(config).double().eval()))
    for model in models:
        assert ts.attribute(model, T, S, sites="all").sites == ("embed", "resid(0)", "resid(1)")
        deep = functools.partial(ts.attribute, model, T, S, sites=2)
        refused(deep, SiteError, "1 block", r"resid\(1\)")


@each_class
@pytest.mark.parametrize(
    ("layer", "words"),
    [("nowhere", ["'nowhere'"]), (4, ["layer 4", r"resid\(3\)"]), (None, ["None"]), (1.0, ["1.0"]),
     (True, ["True"]), ("all", ["every layer|order"]), ("embed", ["order"]), ([], ["no site|list"]),
     ("blocks.1.attn.hook_z", ["is a hook", "layer from 0 to 3"]),
     ("blocks.1.hook_resid_pre", ["is a hook", "layer from 0 to 3"])],
)  # fmt: skip
def test_layers(name, layer, words):
    refused(ask(name, "flow", layer=layer), SiteError, *words)
    for call in calls("site") if layer not in ("embed", []) else ():
        refused(ask(name, call, site=layer), SiteError)
    for layers in ([layer], layer, [1, layer]):
        refused(ask(name, "flow_path", layers=layers), SiteError)


@each_class
def test_layers_out_of_order(name):
    for call, given in (
        ("flow_path", dict(layers=[2, 1])), ("flow_path", dict(layers=[1, 2], site=2)),
        ("flow", dict(layer=2, site=2)), ("flow", dict(layer=1, site=2)),
    ):  # fmt: skip
        refused(
            ask(name, call, **given), SiteError, r"\['", "ascending order", "source comes first"
        )
    late = ask(name, "flow", scope=INSIDE, layer=3)
    refused(late, SiteError, r"resid\(3\)", "before", "give a site")
    late = ask(name, "flow_path", scope=INSIDE, layers=[1, 3])
    refused(late, SiteError, r"resid\(3\)", "before")
    late = ask(name, "head_paths", scope=INSIDE, site=2)
    refused(late, SiteError, "no head lies", "earlier")
    for source in (6, "a", True):
        refused(ask(name, "flow_path", layers=[1], source=source), PositionError, "position")
    assert ask(name, "flow_path", layers=1)().sites == ("embed", "resid(1)")


@each_class
def test_heads_and_neurons_where_there_are_none(name):
    model = zoo.shared(name)
    outside = ts.DirectionScope(ONES, site="embed")
    for call in ("components", "head_paths"):
        refused(ask(name, call, scope=outside), ScopeParameterError, "'embed'", "give a site")
    scored = ts.attribute(model, T, outside)
    asked = ask(name, "verify", attribution=scored, by="head", scope=outside)
    refused(asked, ScopeParameterError, "outside the")
    first = components(model, T, ts.DirectionScope(ONES, site=0))
    assert first.labels == ("embed",)
    refused(first.heads, ScopeParameterError, "no heads", "by=")
    refused(lambda: first.top(kind="neuron"), ScopeParameterError, "'neuron'", "'embed'")
    refused(lambda: first.summed("totals"), ScopeParameterError, "'totals'", "'direct'")
    for attn_only in zoo.names("hooked", "attn_only"):
        asked = ask(attn_only, "components", by="neuron")
        refused(asked, UnsupportedModelError, "neuron", "MLP", "use by=")
