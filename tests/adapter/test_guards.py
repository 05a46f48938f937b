"""The traps of the model edge: each is refused by name, warned of, or handled, and never a wrong number."""

from __future__ import annotations

import inspect
import re
import warnings

import pytest
import torch

import tl_scopes as ts
from support import zoo, zoo_unfit
from support.calls import ATTRIBUTING, CALLS, T, calls
from support.reference import TOKENS
from support.traces import PLAIN
from support.zoo_tables import UNUSUAL
from tl_scopes.errors import (
    ProcessedWeightsError,
    ProcessedWeightsWarning,
    TrainingModeError,
    UnsupportedModelError,
)

PROCESSED = zoo_unfit.processed()
DESCRIPTION = {
    "folded": "processed: final norm folded into W_U",
    "centred": "processed: W_U mean-centred",
    "raw": "raw",
}


# ------------------------------------------------------------------------------------------- processed weights
NEEDS_RAW = [ts.TemperatureScope(), *(ts.FisherScope(rank=rank) for rank in (None, 4, 0.9))]
UNCHANGED = [
    ts.LogitDifferenceScope(5, 6),
    ts.FisherScope(rank="full", tail=0),
    ts.FunctionScope(lambda z: z.log_softmax(0)[5]),
]


@pytest.mark.parametrize("label", PROCESSED)
def test_processed_weights_are_refused_or_told(label):
    """Folded, nothing but what needs no basis; centred, a warning that points at the caller's own line."""
    effect, make = PROCESSED[label]
    model = make()
    found = ts.attribute(model, T, ts.LogitDifferenceScope(5, 6)).provenance.processing
    assert found.startswith(DESCRIPTION[effect])
    centred = "mean-centred" in found
    basis = r"basis.*raw weights.*from_pretrained_no_processing"
    for name in calls("scope") if label.endswith("/rms") else ATTRIBUTING:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if name == "circuit_tracer_targets" and effect == "folded":
                # What its vectors are for has raw weights, whatever the scope.
                with pytest.raises(ProcessedWeightsError, match="circuit-tracer's are not"):
                    CALLS[name].function(model, **CALLS[name].arguments())
            elif name != "verify":  # which asks as its attribution did
                CALLS[name].function(model, **CALLS[name].arguments())
        mine = [w for w in seen if w.category is ProcessedWeightsWarning]
        if name == "circuit_card":  # of several calls in one Python shows the same warning once
            mine = [*{(str(w.message), w.lineno): w for w in mine}.values()]
        assert len(mine) == (centred and name != "verify")
        for warning in mine:
            assert re.search("mean logit.*raw weights", str(warning.message))
            # Some calls of the table are made by functions of its own.
            assert warning.filename in (__file__, inspect.getfile(calls)), name
        for scope in NEEDS_RAW:
            if effect == "folded":
                with pytest.raises(ProcessedWeightsError, match=basis):
                    CALLS[name](model, scope=scope)
            elif name == "attribute":
                assert ts.attribute(model, T, scope).scores.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProcessedWeightsWarning)
        for scope in (*UNCHANGED[:2], ts.FisherScope(samples=2)):
            ts.attribute(model, T, scope)


@pytest.mark.parametrize("label", PROCESSED)
def test_processed_weights_leave_what_is_invariant(label):
    effect, make = PROCESSED[label]
    if "configured" in label:
        pytest.skip("weights without a raw counterpart")
    sources = {"rms": "llama", "process-weights": "llama", "gemma": "gemma3", "softcap": "gemma2"}
    kind, _, what = label.partition("/")
    raw, model = zoo.shared(f"{kind}/{sources.get(what, 'gpt2')}"), make()
    # Centring what is written moves the embedding itself.
    centred_writing = "LN" in str(raw.cfg.normalization_type)
    site = "blocks.1.attn.hook_z" if centred_writing and effect != "raw" else "all"
    for scope in UNCHANGED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProcessedWeightsWarning)
            found, expected = (ts.attribute(m, T, scope, sites=site).scores for m in (model, raw))
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4 * float(expected.max()))


@pytest.mark.parametrize(
    "name", [n for n in zoo.names() if n.split("/")[1] in ("llama", "gpt2", "gemma", "ln")]
)
def test_raw_models_with_unit_gain_are_raw(name):
    """A gain of one, as freshly initialised models have, is not a folded gain; y has one length all the same."""
    model = zoo.build(name)
    with torch.no_grad():
        for parameter in model.ln_final.parameters():
            parameter.fill_(float(name != "bridge/gemma"))  # it multiplies by 1 + w
    with pytest.raises(UnsupportedModelError, match="no gain"):
        ts.attribute(model, T, ts.TemperatureScope())
    for scope in (ts.FisherScope(rank=1), ts.SemanticScope(3)):
        assert ts.attribute(model, T, scope).provenance.processing == "raw"


# ------------------------------------------------------------------------------------------- models to turn away
@pytest.mark.skipif(zoo.TransformerBridge is None, reason="no bridge")
@pytest.mark.parametrize("name", ["olmo", "nanochat", "llama of one gain"])
def test_confidence_without_a_gain_is_refused(name):
    """What it would be: rounding, a millionth of the final state's own motion."""
    source = zoo.hf_model(name.split()[0])
    if name not in UNUSUAL:
        source.model.norm.weight.data.fill_(1.25)
    model = zoo.boot(source)
    y: list[torch.Tensor] = []
    handle = model.unembed.register_forward_pre_hook(lambda _, args: y.append(args[0][0, -1]))
    with zoo.exact_float64():
        model(torch.tensor([TOKENS]), attention_mask=torch.ones(1, len(TOKENS)), use_cache=False)
        handle.remove()
        v = y[0].detach() / y[0].detach().norm()
        noise, motion = (
            ts.attribute(model, TOKENS, ts.DirectionScope(each)).scores.max()
            for each in (v, v.roll(1))
        )
        assert noise < 1e-3 * motion
        assert ts.attribute(model, TOKENS, ts.FisherScope(rank=2)).scores.any()
        for call in calls("scope"):
            with pytest.raises(UnsupportedModelError, match="no gain"):
                CALLS[call](model, scope=ts.TemperatureScope())


def test_the_package_needs_no_class_that_transformer_lens_may_lack():
    """transformer-lens 4 has no HookedTransformer, 2 no TransformerBridge: classes are told by name."""
    from tl_scopes.adapter import guards, view
    from tl_scopes.jacobian import answers

    for module in (view, answers, guards):
        assert "import transformer_lens" not in inspect.getsource(module)
        assert "from transformer_lens" not in inspect.getsource(module)
    for name in PLAIN:
        kind = {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[name.split("/")[0]]
        assert ts.attribute(zoo.shared(name), T, ts.SemanticScope()).provenance.model_class == kind


@pytest.mark.parametrize(
    "name",
    [n for n in zoo.names() if n.split("/")[1] in ("gpt2", "llama", "pythia", "native", "ln")],
)
def test_training_mode_matters_only_with_dropout(name):
    model = zoo.build(name)
    expected = ts.attribute(model, T, ts.SemanticScope(5)).scores
    model.train()
    if name == "bridge/gpt2":
        with pytest.raises(TrainingModeError, match=r"dropout.*eval"):
            ts.attribute(model, T, ts.SemanticScope(5))
        for module in [*model.modules(), *model.original_model.modules()]:
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        config = model.original_model.config
        config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    torch.testing.assert_close(ts.attribute(model, T, ts.SemanticScope(5)).scores, expected)
    assert model.training


def test_models_built_under_inference_mode_are_refused():
    for name in PLAIN:
        with torch.inference_mode():
            model = zoo.build(name)
        with pytest.raises(UnsupportedModelError, match="inference"):
            ts.attribute(model, T, ts.SemanticScope(5))
