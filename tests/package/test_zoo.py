"""The zoo itself: every model is what its name and traits say, or the tests that lean on it prove nothing."""

from __future__ import annotations

import pytest
import torch

from support import zoo, zoo_unfit
from support.marks import each_of
from support.zoo_tables import D_MODEL, N_LAYERS

POSITIONS = ("rotary", "alibi", "shortformer")


def tokens(text: str = zoo.LONG_TEXT) -> torch.Tensor:
    return torch.tensor([zoo.tokenizer()(text).input_ids])


def logits(model, ids: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens() if ids is None else ids)


def stream_and_final_state(model) -> dict[str, torch.Tensor]:
    """What enters block 0, the final norm and the unembedding in one forward pass, by hooks on the modules."""
    seen: dict[str, torch.Tensor] = {}

    def see(label: str, module: torch.nn.Module):
        def hook(_, args, kwargs):
            seen[label] = (args[0] if args else kwargs["hidden_states"]).detach().clone()

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    with see("block", model.blocks[0]), see("final", model.unembed):
        seen["logits"] = logits(model)
    return seen


def test_tokenizer_has_single_and_split_words():
    tokenizer = zoo.tokenizer()
    plain = zoo.tokenizer(prepends_bos=False)
    assert len(tokenizer) == zoo.D_VOCAB < 100
    assert len(plain(zoo.ONE_TOKEN).input_ids) == 1 < len(plain(zoo.SPLIT_WORD).input_ids)
    assert tokenizer(zoo.TEXT).input_ids == [tokenizer.bos_token_id, *plain(zoo.TEXT).input_ids]
    for text in (zoo.TEXT, zoo.LONG_TEXT, "a\nb <b> 'c'!", " Paris"):
        assert plain.decode(plain(text).input_ids) == text
        assert "<unk>" not in plain.decode(plain(text).input_ids)


@pytest.mark.parametrize("name", zoo.names())
def test_model_is_raw_float64_and_ready(name):
    model = zoo.shared(name)
    output = logits(model)
    d_vocab = 72 if "padded_vocab" in zoo.traits(name) else zoo.D_VOCAB
    assert output.shape == (*tokens().shape, d_vocab)
    assert output.dtype == torch.float64 and output.isfinite().all()
    assert 0.1 < output.std() < 10
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model.cfg.n_layers == N_LAYERS and model.cfg.d_model == D_MODEL
    # Weights, not logits: BLOOM keeps its longest table of biases, and the last bit of a logit follows its strides.
    again = dict(zoo.build(name).named_parameters())
    assert again.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(p, again[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", zoo.names())
def test_text_prompts_work(name):
    model = zoo.shared(name)
    assert model.to_tokens(zoo.TEXT, prepend_bos=True).tolist() == tokens(zoo.TEXT).tolist()
    texts = ["<bos>", "The", " capital", " of", " France", " is"]
    assert model.to_str_tokens(zoo.TEXT, prepend_bos=True) == texts
    plain = zoo.tokenizer(prepends_bos=False)
    assert model.to_single_token(zoo.ONE_TOKEN) == plain(zoo.ONE_TOKEN).input_ids[0]


@pytest.mark.parametrize("name", zoo.names())
def test_traits_are_really_there(name):
    model, traits = zoo.shared(name), zoo.traits(name)
    seen = stream_and_final_state(model)
    final, output = seen["final"], seen["logits"]
    linear = (final @ model.W_U + model.b_U).detach()
    norms = {"layernorm": "LN", "rms": "RMS", "no_norm": None}
    assert [norms[trait] for trait in norms if trait in traits] == [model.cfg.normalization_type]
    position = {"learned": "standard", **{kind: kind for kind in POSITIONS}}
    kinds = [position[trait] for trait in position if trait in traits]
    assert kinds == [model.cfg.positional_embedding_type]
    assert ("gqa" in traits) == (model.cfg.n_key_value_heads not in (None, model.cfg.n_heads))
    assert ("unembed_bias" in traits) == bool((model.b_U != 0).any())
    ratio = (model.W_U.T / model.W_E)[model.W_E.abs() > 0.1]
    assert ("tied" in traits) == bool((ratio.std() < 1e-9).item()) != ("untied" in traits)
    if "no_norm" not in traits:
        # A gain unlike one: the length of the final state varies with the position.
        lengths = final.norm(dim=-1)
        assert lengths.std() / lengths.mean() > 1e-3
    if "softcap" in traits:
        cap = model.cfg.output_logits_soft_cap
        assert cap > 0 and output.abs().max() < cap < linear.abs().max()
        torch.testing.assert_close(output, cap * torch.tanh(linear / cap))
    elif "logit_scale" in traits:
        torch.testing.assert_close(output, linear / 4)
    else:
        torch.testing.assert_close(output, linear)
    rows = model.W_E[tokens()].detach()
    if name.startswith("bridge") and "embed_scale" in traits:
        scale = 3.0 if "granite" in name else D_MODEL**0.5
        torch.testing.assert_close(seen["block"], rows * scale)
    elif traits & {"learned", "embed_norm"}:
        assert not torch.allclose(seen["block"], rows)
    else:
        torch.testing.assert_close(seen["block"], rows)


@pytest.mark.parametrize("name", [n for n in zoo.names() if not zoo.traits(n) & {"attn_only"}])
def test_parallel_models_have_no_middle_of_the_block(name):
    assert ("parallel" in zoo.traits(name)) == (
        "blocks.1.hook_resid_mid" not in zoo.shared(name).hook_dict
    )


@pytest.mark.parametrize("name", zoo.names("", "window"))
def test_sliding_window_hides_the_distant_past(name):
    model, kept = zoo.shared(name), []
    keep = ("blocks.0.attn.hook_pattern", lambda pattern, hook: kept.append(pattern.detach()))
    with model.hooks([keep]):
        logits(model)
    last = kept[0][0, :, -1]
    assert (last[:, :-4] == 0).all() and (last[:, -4:] > 0).all()


@pytest.mark.parametrize("name", zoo.pairs())
def test_both_classes_agree_on_the_same_weights(name):
    hooked, bridge = zoo.shared(f"hooked/{name}"), zoo.shared(f"bridge/{name}")
    torch.testing.assert_close(logits(hooked), logits(bridge), atol=2e-5, rtol=0)
    with zoo.exact_float64():
        # GPT-J's and BLOOM's position tables and activation constants are rounded in the libraries themselves
        tolerance = 1e-8 if name in ("gptj", "bloom") else 1e-12
        torch.testing.assert_close(logits(hooked), logits(bridge), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "name", [n.removeprefix("bridge/") for n in zoo.names("bridge") if "native" not in n]
)
def test_bridge_agrees_with_hugging_face(name):
    with torch.no_grad(), zoo.exact_float64():
        expected = zoo.hf_model(name)(tokens(), use_cache=False).logits
        difference = (logits(zoo.shared(f"bridge/{name}")) - expected).abs().max()
    assert difference < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_of("gpt2", "llama", "gemma2", "ln")
def test_other_dtypes_build(name, dtype):
    model = zoo.build(name, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    output = logits(model)
    assert output.dtype == dtype and output.isfinite().all()
    tolerance = 1e-4 if dtype == torch.float32 else 0.4
    torch.testing.assert_close(output.double(), logits(zoo.shared(name)), atol=tolerance, rtol=0)


def test_building_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    for name in [*zoo.names("hooked")[:1], *zoo.names("bridge")[:1], *zoo.names("", "native")]:
        zoo.build(name)
    for _, make in zoo_unfit.refused().values():
        make()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("label", zoo_unfit.processed())
def test_processed_models_are_what_they_say(label):
    effect, make = zoo_unfit.processed()[label]
    model = make()
    seen = stream_and_final_state(model)
    assert seen["logits"].dtype == torch.float64 and seen["logits"].isfinite().all()
    lengths = seen["final"].norm(dim=-1)
    assert (lengths.std() / lengths.mean() < 1e-5) == (effect == "folded")
    is_centred = model.W_U.mean(-1).abs().max() < 1e-6
    assert is_centred == (effect != "raw" and label not in ("bridge/softcap", "hooked/configured"))


@pytest.mark.parametrize("label", zoo_unfit.refused())
def test_refused_models_build(label):
    error, make = zoo_unfit.refused()[label]
    model = make()
    assert isinstance(model, torch.nn.Module)
    if error == "TrainingModeError":
        assert any(module.training for module in model.modules())
        assert not torch.equal(logits(model), logits(model))
    else:
        assert not model.training
