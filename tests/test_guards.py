"""The traps of the model edge: each is refused by name, warned of, or handled, and never a wrong number."""

from __future__ import annotations

import inspect
import warnings

import pytest
import tl_scopes as ts
import torch
import zoo
import zoo_unfit
from tl_scopes import errors
from tl_scopes.errors import (
    DoubleBosError,
    ProcessedWeightsError,
    ProcessedWeightsWarning,
    PromptTooLongError,
    TrainingModeError,
    UnsupportedModelError,
)
from zoo_tables import D_MODEL, N_CTX, N_LAYERS

T = zoo.TEXT
MODELS = [n for n in ("hooked/llama", "bridge/llama") if n in zoo.names()]
each_class = pytest.mark.parametrize("name", MODELS)
PROCESSED, REFUSED = zoo_unfit.processed(), zoo_unfit.refused()
DESCRIPTION = {
    "folded": "processed: final norm folded into W_U",
    "centred": "processed: W_U mean-centred",
    "raw": "raw",
}


def by_hand(model, tokens: torch.Tensor, vector=None, target: int | None = None, embed="hook_embed") -> torch.Tensor:
    """Norms at the embedding of `vector` (or of `W_U[:, target]`) pulled back from the final state, by plain hooks."""
    leaf: list[torch.Tensor] = []
    final: list[torch.Tensor] = []

    def cut(activation, hook):
        leaf.append(activation.detach().requires_grad_())
        return leaf[0]

    handle = model.unembed.register_forward_pre_hook(lambda _, args: final.append(args[0]))
    try:
        with model.hooks([(embed, cut)]):
            model(tokens)
    finally:
        handle.remove()
    y = final[0][0, -1]
    v = model.W_U[:, target].detach() if vector is None else vector(y.detach())
    (grad,) = torch.autograd.grad(y @ v, leaf[0])
    return grad[0].norm(dim=-1).float()


# ------------------------------------------------------------------------------------------- processed weights
NEEDS_RAW = [ts.TemperatureScope(), ts.FisherScope(), ts.FisherScope(rank=4), ts.FisherScope(rank=0.9)]
UNCHANGED = [ts.LogitDifferenceScope(5, 6), ts.FisherScope(rank="full", tail=0), ts.FunctionScope(lambda z: z.log_softmax(0)[5])]


@pytest.mark.parametrize("label", PROCESSED)
def test_processing_is_recognised(label):
    effect, make = PROCESSED[label]
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProcessedWeightsWarning)
        found = ts.attribute(model, T, ts.SemanticScope(5)).provenance.processing
    assert found.startswith(DESCRIPTION[effect])
    for scope in NEEDS_RAW:
        if effect == "folded":
            with pytest.raises(ProcessedWeightsError, match="basis.*raw weights.*from_pretrained_no_processing"):
                ts.attribute(model, T, scope)
        else:
            assert ts.attribute(model, T, scope).scores.any()


@pytest.mark.parametrize("label", PROCESSED)
def test_processed_weights_leave_what_is_invariant(label):
    effect, make = PROCESSED[label]
    if "configured" in label:
        pytest.skip("weights without a raw counterpart")
    sources = {"rms": "llama", "process-weights": "llama", "gemma": "gemma3", "softcap": "gemma2"}
    kind, _, what = label.partition("/")
    raw, model = zoo.shared(f"{kind}/{sources.get(what, 'gpt2')}"), make()
    centred_writing = "LN" in str(raw.cfg.normalization_type)  # centring what is written moves the embedding itself
    site = "blocks.1.attn.hook_z" if centred_writing and effect != "raw" else "all"
    for scope in UNCHANGED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProcessedWeightsWarning)
            found, expected = (ts.attribute(m, T, scope, sites=site).scores for m in (model, raw))
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4 * float(expected.max()))


@pytest.mark.parametrize("label", PROCESSED)
def test_a_centred_unembedding_warns_of_the_centred_logit(label):
    model = PROCESSED[label][1]()
    centred = "mean-centred" in ts.attribute(model, T, ts.LogitDifferenceScope(5, 6)).provenance.processing
    for call in (ts.attribute, ts.attribute_sequence, lambda m, p, s: ts.attribute_batch(m, [p], s)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            call(model, T, ts.SemanticScope(5))
        mine = [w for w in seen if issubclass(w.category, ProcessedWeightsWarning)]
        assert len(mine) == centred
        if centred:
            assert "mean logit" in str(mine[0].message) and "raw weights" in str(mine[0].message)
            assert mine[0].filename == __file__, "the warning must point at the caller's own line"
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProcessedWeightsWarning)
        for scope in (ts.LogitDifferenceScope(5, 6), ts.FisherScope(samples=2), ts.FisherScope(rank="full")):
            ts.attribute(model, T, scope)


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.split("/")[1] in ("llama", "gpt2", "gemma", "ln")])
def test_raw_models_with_unit_gain_are_raw(name):
    """A gain of one, as freshly initialised models have, is not a folded gain."""
    model = zoo.build(name)
    with torch.no_grad():
        for parameter in model.ln_final.parameters():
            parameter.fill_(float(name != "bridge/gemma"))  # it multiplies by 1 + w
    for scope in NEEDS_RAW:
        assert ts.attribute(model, T, scope).provenance.processing == "raw"


# ------------------------------------------------------------------------------------------- models to turn away
@pytest.mark.parametrize("label", REFUSED)
def test_models_to_turn_away(label):
    error, make = REFUSED[label]
    model = make()
    for call in (ts.attribute, ts.attribute_sequence):
        with pytest.raises(getattr(errors, error)) as caught:
            call(model, [0, 5, 6], ts.SemanticScope(5))
        message = str(caught.value)
        wanted = {
            "TrainingModeError": ("dropout", "model.eval()"),
            "UnsupportedModelError": ("dequantised",) if "4bit" in label or "int8" in label else ("model",),
        }
        assert all(word in message for word in wanted[error]), message


@pytest.mark.wrong_types
@pytest.mark.parametrize("other", [None, "gpt2", torch.nn.Linear(2, 2), zoo.HookedTransformer, object()], ids=repr)
def test_things_that_are_not_models(other):
    if other is None and zoo.HookedTransformer is None:
        pytest.skip("the same object twice")
    with pytest.raises(UnsupportedModelError, match="got .*allowed: a HookedTransformer.*TransformerBridge"):
        ts.attribute(other, T, ts.SemanticScope())


def test_the_package_needs_no_class_that_transformer_lens_may_lack():
    """transformer-lens 4 has no HookedTransformer, 2 no TransformerBridge: classes are told by name."""
    from tl_scopes import adapter, engine, guards

    for module in (adapter, engine, guards):
        assert "import transformer_lens" not in inspect.getsource(module)
        assert "from transformer_lens" not in inspect.getsource(module)
    for name in MODELS:
        kind = {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[name.split("/")[0]]
        assert ts.attribute(zoo.shared(name), T, ts.SemanticScope()).provenance.model_class == kind


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.split("/")[1] in ("gpt2", "llama", "pythia", "native", "ln")])
def test_training_mode_matters_only_with_dropout(name):
    model = zoo.build(name)
    expected = ts.attribute(model, T, ts.SemanticScope(5)).scores
    model.train()
    if name == "bridge/gpt2":
        with pytest.raises(TrainingModeError, match="dropout.*eval"):
            ts.attribute(model, T, ts.SemanticScope(5))
        for module in [*model.modules(), *model.original_model.modules()]:
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        config = model.original_model.config
        config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    torch.testing.assert_close(ts.attribute(model, T, ts.SemanticScope(5)).scores, expected)
    assert model.training


def test_models_built_under_inference_mode_are_refused():
    for name in MODELS:
        with torch.inference_mode():
            model = zoo.build(name)
        with pytest.raises(UnsupportedModelError, match="inference"):
            ts.attribute(model, T, ts.SemanticScope(5))


# ------------------------------------------------------------------------------------------- what y is, and where
@pytest.mark.parametrize("name", [n for n in zoo.names() if n.split("/")[1] in ("gpt2", "llama", "bloom", "gemma2")])
def test_temperature_reads_y_and_not_the_normalised_stream(name):
    """||y|| of the vector that W_U multiplies; `ln_final.hook_normalized` comes before the gain."""
    model = zoo.shared(name)
    tokens = model.to_tokens(T)
    embed = "hook_embed" if name.startswith("hooked") else "embed.hook_out"
    if "embed_norm" in zoo.traits(name) and name.startswith("hooked"):
        pytest.skip("no hook before the embedding norm")
    seen = {}
    with torch.no_grad(), model.hooks([("ln_final.hook_normalized", lambda a, hook: seen.update(a=a))]):
        handle = model.unembed.register_forward_pre_hook(lambda _, args: seen.update(y=args[0]))
        model(tokens)
        handle.remove()
    assert (seen["a"] - seen["y"]).abs().max() > 0.1, "the trap is not set"
    expected = by_hand(model, tokens, vector=lambda y: y / y.norm(), embed=embed)
    found = ts.attribute(model, T, ts.TemperatureScope()).scores[0]
    if name != "bridge/bloom":
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", zoo.names("", "softcap"))
def test_soft_cap_is_in_the_distribution_and_not_in_the_semantic_vector(name):
    model = zoo.shared(name)
    tokens = model.to_tokens(T)
    with torch.no_grad():
        p = model(tokens)[0, -1].softmax(-1)
    found = ts.attribute(model, tokens, ts.SemanticScope(5))
    top = found.prediction[0]
    assert top.id == int(p.argmax()) and top.probability == pytest.approx(float(p.max()), abs=1e-5)
    torch.testing.assert_close(found.scores[0], by_hand(model, tokens, target=5), rtol=2e-5, atol=1e-6)
    log_p = ts.attribute(model, tokens, ts.FunctionScope(lambda z: z.log_softmax(0)[5])).scores
    assert not torch.allclose(log_p, found.scores, rtol=1e-2)


@pytest.mark.parametrize("name", zoo.names("", "embed_scale") + zoo.names("", "embed_norm"))
def test_embed_is_what_the_first_block_s_stream_receives(name):
    """After an embedding scale, before an embedding norm: equal to resid(0) only where nothing comes between."""
    model = zoo.build(name)
    embed, stream = ts.attribute(model, T, ts.SemanticScope(5), sites=["embed", 0]).scores
    scaled = "embed_scale" in zoo.traits(name)
    assert torch.allclose(embed, stream, rtol=1e-5) == scaled
    v = torch.ones(D_MODEL)
    if scaled:
        at_embed = ts.attribute(model, T, ts.DirectionScope(v, site="embed")).scores[0]
        assert at_embed[-1].item() == pytest.approx(D_MODEL**0.5) and not at_embed[:-1].any()


@each_class
def test_aliases_give_the_same_row_in_one_call(name):
    names = ["blocks.1.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_in", "blocks.0.hook_out", "resid(1)", 1]
    model = zoo.shared(name)
    sites = [s for s in names if not isinstance(s, str) or s == "resid(1)" or s in model.hook_dict]
    for order in (sites, sites[::-1]):
        found = ts.attribute(model, T, ts.FisherScope(rank=2, samples=2), sites=order)
        expected = ts.attribute(model, T, ts.FisherScope(rank=2, samples=2), sites=1).scores
        assert len(found.sites) == len(set(sites) - {1})
        torch.testing.assert_close(found.scores, expected.expand_as(found.scores))


@pytest.mark.parametrize("dtype, close", [(torch.bfloat16, 0.1), (torch.float16, 0.02)], ids=str)
@each_class
def test_half_precision_is_close_and_says_so(name, dtype, close):
    exact, model = zoo.shared(name, torch.float32), zoo.build(name, dtype)
    short = str(dtype).removeprefix("torch.")
    for scope in (ts.SemanticScope(5), ts.TemperatureScope(), ts.FisherScope(rank="full"), ts.FisherScope(rank=2)):
        found, expected = (ts.attribute(m, T, scope, sites=["embed", N_LAYERS]) for m in (model, exact))
        error = (found.scores - expected.scores).norm(dim=1) / expected.scores.norm(dim=1)
        assert (error < close).all(), f"{scope.name} {error}"
        assert found.scores.dtype == torch.float32
        assert found.provenance.precision == f"differentiated in {short}, norms reduced in float32"
        assert found.provenance.dtype == short


# ------------------------------------------------------------------------------------------- BOS and length
@pytest.mark.parametrize("name", [n for n in zoo.names() if n.split("/")[1] in ("llama", "pythia", "gpt2")])
def test_bos_follows_the_model_unless_told(name):
    model = zoo.shared(name)
    with_bos = zoo.tokenizer()(T).input_ids
    found = ts.attribute(model, T, ts.SemanticScope(5))
    assert found.has_bos == model.cfg.default_prepend_bos
    for bos in (True, False):
        told = ts.attribute(model, T, ts.SemanticScope(5), prepend_bos=bos)
        assert told.tokens.tolist() == (with_bos if bos else with_bos[1:]) and told.has_bos == bos
        torch.testing.assert_close(told.scores, ts.attribute(model, told.tokens, ts.SemanticScope(5)).scores)
    with pytest.raises(DoubleBosError, match="chat template.*prepend_bos=False"):
        ts.attribute(model, "<bos>" + T, ts.SemanticScope(5), prepend_bos=True)
    chat = ts.attribute(model, "<bos>" + T, ts.SemanticScope(5), prepend_bos=False)
    assert chat.tokens.tolist() == with_bos and chat.has_bos and chat.str_tokens[0] == "<bos>"


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.split("/")[1] in ("llama", "gpt2", "native")])
def test_long_prompts_are_refused_and_never_cut(name):
    model = zoo.shared(name)
    assert len(ts.attribute(model, [5] * N_CTX, ts.SemanticScope(5)).tokens) == N_CTX
    for prompt in ([5] * (N_CTX + 1), "The" + " cat" * N_CTX):
        with pytest.raises(PromptTooLongError, match="32.*shorten"):
            ts.attribute(model, prompt, ts.SemanticScope(5), prepend_bos=None)
