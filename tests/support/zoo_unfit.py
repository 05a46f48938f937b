"""Tiny models that need care: weights that TransformerLens has processed, and models that must be turned away."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers

from support import zoo
from support.zoo_tables import D_MODEL, N_CTX, N_LAYERS


def _after(name: str, method: str, **arguments: Any) -> Callable[[], Any]:
    def make() -> Any:
        model = zoo.build(name)
        getattr(model, method)(**arguments)
        return model

    return make


def processed(kind: str = "") -> dict[str, tuple[str, Callable[[], Any]]]:
    """Models after TransformerLens's weight processing: {label: (effect, maker)}.

    Effects: "folded" (the final norm's gain went into W_U, so the final state is in another basis), "centred" (W_U
    lost its mean over the vocabulary, the final state is untouched) and "raw" (nothing changed: a control).
    """
    makers: dict[str, tuple[str, Callable[[], Any]]] = {}
    if zoo.HookedTransformer is not None:
        makers["hooked/layernorm"] = "folded", _after("hooked/gpt2", "process_weights_")
        makers["hooked/rms"] = "folded", _after("hooked/llama", "process_weights_")
        makers["hooked/configured"] = (
            "folded",
            lambda: zoo.raw_hooked("ln", torch.float64, normalization_type="LNPre"),
        )
        makers["hooked/unfolded"] = (
            "centred",
            _after("hooked/gpt2", "process_weights_", fold_ln=False),
        )
    if zoo.TransformerBridge is not None:
        compatible = functools.partial(
            _after, method="enable_compatibility_mode", disable_warnings=True
        )
        makers["bridge/layernorm"] = "folded", compatible("bridge/gpt2")
        makers["bridge/rms"] = "folded", compatible("bridge/llama")
        makers["bridge/gemma"] = "folded", compatible("bridge/gemma3")
        makers["bridge/softcap"] = (
            "folded",
            compatible("bridge/gemma2"),
        )  # W_U stays uncentred under a soft-cap
        makers["bridge/process-weights"] = "folded", _after("bridge/llama", "process_weights")
        makers["bridge/unfolded"] = "centred", compatible("bridge/gpt2", fold_ln=False)
        makers["bridge/no-processing"] = "raw", compatible("bridge/gpt2", no_processing=True)
    return {label: entry for label, entry in makers.items() if label.startswith(kind)}


class _Int8Linear(torch.nn.Module):
    """A linear layer stored as int8 rows with a scale each, as quantising back-ends keep them.

    `activations`: whether inputs are rounded to int8 too, which no gradient survives.
    """

    def __init__(self, linear: torch.nn.Linear, activations: bool) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.activations = activations
        self.weight = torch.nn.Parameter(
            (linear.weight / scale).round().to(torch.int8), requires_grad=False
        )

    @property
    def plain(self) -> torch.Tensor:
        return self.weight.to(self.scale.dtype) * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.activations:
            step = x.detach().abs().amax(-1, keepdim=True) / 127
            x = (x / step).round().to(torch.int8).to(x.dtype) * step
        return torch.nn.functional.linear(x, self.plain.to(x.dtype))


def int8_bridge(activations: bool = False) -> Any:
    """A bridge whose MLPs are quantised; flagged, as transformers flags a quantised model."""
    model = zoo.hf_model("llama")
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, _Int8Linear(getattr(layer.mlp, name), activations))
    model.is_quantized = True
    return zoo.boot(model)


def dequantised_bridge() -> Any:
    """What `int8_bridge()` computes, with plain weights."""
    model = zoo.hf_model("llama")
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear = getattr(layer.mlp, name)
            linear.weight = torch.nn.Parameter(_Int8Linear(linear, False).plain)
    return zoo.boot(model)


def _inner_training() -> Any:
    model = zoo.build("bridge/gpt2")
    model.original_model.train()
    return model


def _foreign_bridge(config: str, model: str, **fields: Any) -> Any:
    with zoo.building():
        source = (
            getattr(transformers, model)(getattr(transformers, config)(**fields)).double().eval()
        )
    source.config.architectures = [model]
    return zoo.boot(source)


def _hooked_encoder(class_name: str, **fields: Any) -> Any:
    import transformer_lens

    common = zoo.HOOKED_COMMON | dict(
        n_heads=2, d_head=8, d_mlp=32, act_fn="gelu", attention_dir="bidirectional"
    )
    with zoo.building():
        return getattr(transformer_lens, class_name)(
            zoo.HookedTransformerConfig(**common | fields)
        ).eval()


def refused(kind: str = "") -> dict[str, tuple[str, Callable[[], Any]]]:
    """Models that must be turned away: {label: (name of the error in tl_scopes.errors, maker)}."""
    unsupported = "UnsupportedModelError"
    makers: dict[str, tuple[str, Callable[[], Any]]] = {}
    makers["other/hugging-face"] = unsupported, lambda: zoo.hf_model("llama")
    if zoo.HookedTransformer is not None:
        t5 = dict(
            normalization_type="RMS",
            positional_embedding_type="relative_positional_bias",
            use_attn_scale=False,
            relative_attention_max_distance=16,
            relative_attention_num_buckets=8,
            tie_word_embeddings=True,
            decoder_start_token_id=2,
        )
        makers["hooked/encoder"] = unsupported, lambda: _hooked_encoder("HookedEncoder")
        makers["hooked/encoder-decoder"] = (
            unsupported,
            lambda: _hooked_encoder("HookedEncoderDecoder", **t5),
        )
        makers["hooked/bidirectional"] = unsupported, lambda: _hooked_encoder("HookedTransformer")
    if zoo.TransformerBridge is not None:
        small = dict(
            hidden_size=D_MODEL, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        text = small | dict(vocab_size=zoo.D_VOCAB, max_position_embeddings=N_CTX)
        image = small | dict(image_size=8, patch_size=4)
        pair_of_stacks = dict(
            vocab_size=zoo.D_VOCAB,
            d_model=D_MODEL,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=2,
        )
        makers["bridge/bert"] = (
            unsupported,
            lambda: _foreign_bridge("BertConfig", "BertForMaskedLM", **text),
        )
        makers["bridge/t5"] = (
            unsupported,
            lambda: _foreign_bridge("T5Config", "T5ForConditionalGeneration", **pair_of_stacks),
        )
        makers["bridge/vit"] = (
            unsupported,
            lambda: _foreign_bridge("ViTConfig", "ViTModel", **image),
        )
        makers["bridge/dropout"] = "TrainingModeError", _after("bridge/gpt2", "train")
        makers["bridge/functional-dropout"] = (
            "TrainingModeError",
            _after("bridge/opt", "train"),
        )  # no Dropout module
        makers["bridge/inner-dropout"] = (
            "TrainingModeError",
            _inner_training,
        )  # only the wrapped model was switched
    return {label: entry for label, entry in makers.items() if label.startswith(kind)}


def gpt1() -> torch.nn.Module:
    config = transformers.OpenAIGPTConfig(
        n_embd=D_MODEL, n_layer=N_LAYERS, n_head=2, n_positions=N_CTX, vocab_size=zoo.D_VOCAB
    )
    with zoo.building():
        source = transformers.OpenAIGPTLMHeadModel(config).double().eval()
    source.config.architectures = [type(source).__name__]
    zoo.randomise(source, "gpt1")
    return source
