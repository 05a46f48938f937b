"""The tables behind `zoo`: which tiny models there are, and which trait of an architecture each one covers.

Traits: `layernorm rms no_norm`; `learned rotary alibi shortformer` positions; `gqa`; `tied untied` embeddings;
`unembed_bias`; `softcap` (final logits and attention scores); `embed_scale`; `embed_norm`; `parallel` attention and
MLP; `moe`; `attn_only`; `qk_norm`; `window` (sliding attention); `logit_scale`; `post_norm` (norms after the
sublayers only); `padded_vocab` (more logits than the tokenizer has tokens); `native` (no Hugging Face inside).
"""

from __future__ import annotations

import dataclasses
from typing import Any

D_MODEL, N_LAYERS, N_CTX = (
    16,
    3,
    32,
)  # sqrt(16) is exact: Gemma's embedding scale is one number in every dtype
WINDOW = 4


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A Hugging Face architecture in miniature and, where TransformerLens converts it, its HookedTransformer fields."""

    config: str  # name of the transformers configuration class
    fields: dict[str, Any]
    traits: str
    hooked: dict[str, Any] | None = None  # fields of HookedTransformerConfig beyond the common ones
    converter: str = ""  # name of the function in transformer_lens.pretrained.weight_conversions


_GPT = dict(n_embd=D_MODEL, n_layer=N_LAYERS, n_head=2, n_positions=N_CTX)
_COMMON = dict(
    hidden_size=D_MODEL,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=2,
    max_position_embeddings=N_CTX,
)
_LLAMA = _COMMON | dict(
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)
_GEMMA = _LLAMA | dict(head_dim=4, tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh")
_SLIDING = dict(sliding_window=WINDOW)
_LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]

_H_LN = dict(normalization_type="LN", n_heads=2, d_head=8, d_mlp=32)
_H_ROTARY = dict(positional_embedding_type="rotary", rotary_dim=4)
_H_RMS = _H_ROTARY | dict(
    normalization_type="RMS",
    n_heads=4,
    d_head=4,
    n_key_value_heads=2,
    d_mlp=24,
    act_fn="silu",
    eps=1e-6,
    rotary_base=10000,
    gated_mlp=True,
    final_rms=True,
)
_H_GEMMA = _H_RMS | dict(act_fn="gelu_pytorch_tanh")
_H_WINDOW = dict(use_local_attn=True, window_size=WINDOW, attn_types=["local", "global", "local"])

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture(
        "GPT2Config",
        _GPT,
        "layernorm learned tied",
        _H_LN | dict(act_fn="gelu_new", d_mlp=64),
        "convert_gpt2_weights",
    ),
    "opt": Architecture(
        "OPTConfig",
        _COMMON | dict(word_embed_proj_dim=D_MODEL, ffn_dim=32),
        "layernorm learned tied",
        _H_LN | dict(act_fn="relu"),
        "convert_opt_weights",
    ),
    "pythia": Architecture(
        "GPTNeoXConfig",
        _COMMON
        | dict(
            intermediate_size=32,
            rotary_pct=0.5,
            use_parallel_residual=True,
            tie_word_embeddings=False,
            vocab_size=72,
        ),
        "layernorm rotary untied parallel padded_vocab",
        _H_LN | _H_ROTARY | dict(act_fn="gelu", parallel_attn_mlp=True, d_vocab=72),
        "convert_neox_weights",
    ),
    "gptj": Architecture(
        "GPTJConfig",
        _GPT | dict(rotary_dim=4, tie_word_embeddings=False),
        "layernorm rotary untied parallel unembed_bias",
        _H_LN
        | _H_ROTARY
        | dict(act_fn="gelu_new", d_mlp=64, rotary_adjacent_pairs=True, parallel_attn_mlp=True),
        "convert_gptj_weights",
    ),
    "phi": Architecture(
        "PhiConfig",
        _COMMON | dict(intermediate_size=32, partial_rotary_factor=0.5, tie_word_embeddings=False),
        "layernorm rotary untied parallel unembed_bias",
        _H_LN | _H_ROTARY | dict(act_fn="gelu_new", parallel_attn_mlp=True),
        "convert_phi_weights",
    ),
    "bloom": Architecture(
        "BloomConfig",
        dict(hidden_size=D_MODEL, n_layer=N_LAYERS, n_head=2),
        "layernorm alibi tied embed_norm",
        _H_LN
        | dict(
            act_fn="gelu_fast", d_mlp=64, positional_embedding_type="alibi", post_embedding_ln=True
        ),
        "convert_bloom_weights",
    ),
    "llama": Architecture(
        "LlamaConfig", _LLAMA, "rms rotary gqa untied", _H_RMS, "convert_llama_weights"
    ),
    "llama-tied": Architecture(
        "LlamaConfig",
        _LLAMA | dict(tie_word_embeddings=True),
        "rms rotary gqa tied",
        _H_RMS,
        "convert_llama_weights",
    ),
    "mistral": Architecture(
        "MistralConfig",
        _LLAMA | _SLIDING,
        "rms rotary gqa untied window",
        _H_RMS | _H_WINDOW | dict(attn_types=["local"] * N_LAYERS),
        "convert_mistral_weights",
    ),
    "qwen2": Architecture(
        "Qwen2Config",
        _LLAMA | dict(tie_word_embeddings=True),
        "rms rotary gqa tied",
        _H_RMS,
        "convert_qwen2_weights",
    ),
    "qwen3": Architecture(
        "Qwen3Config",
        _LLAMA | dict(head_dim=4),
        "rms rotary gqa untied qk_norm",
        _H_RMS | dict(use_qk_norm=True),
        "convert_qwen3_weights",
    ),
    # HookedTransformer's mixture of experts casts its router to float32 and cannot run in float64: Bridge only.
    "mixtral": Architecture(
        "MixtralConfig",
        _LLAMA | dict(num_local_experts=4, num_experts_per_tok=2),
        "rms rotary gqa untied moe",
    ),
    "gemma": Architecture(
        "GemmaConfig",
        _GEMMA,
        "rms rotary gqa tied embed_scale",
        _H_GEMMA,
        "convert_gemma_weights",
    ),
    "gemma2": Architecture(
        "Gemma2Config",
        _GEMMA
        | _SLIDING
        | dict(
            query_pre_attn_scalar=4,
            final_logit_softcapping=3.0,
            attn_logit_softcapping=1.5,
            layer_types=_LAYER_TYPES,
        ),
        "rms rotary gqa tied embed_scale softcap window",
        _H_GEMMA
        | _H_WINDOW
        | dict(
            use_normalization_before_and_after=True,
            output_logits_soft_cap=3.0,
            attn_scores_soft_cap=1.5,
        ),
        "convert_gemma_weights",
    ),
    "gemma3": Architecture(
        "Gemma3TextConfig",
        _GEMMA | _SLIDING | dict(query_pre_attn_scalar=4, layer_types=_LAYER_TYPES),
        "rms rotary gqa tied embed_scale qk_norm window",
        _H_GEMMA
        | _H_WINDOW
        | dict(
            use_normalization_before_and_after=True,
            use_qk_norm=True,
            rotary_base=1000000,
            rotary_base_local=10000,
        ),
        "convert_gemma_weights",
    ),
    "cohere": Architecture(
        "CohereConfig",
        {k: v for k, v in _LLAMA.items() if k != "rms_norm_eps"} | dict(logit_scale=0.25),
        "layernorm rotary gqa untied parallel logit_scale",
    ),
    "granite": Architecture(
        "GraniteConfig",
        _LLAMA
        | dict(
            logits_scaling=4.0,
            embedding_multiplier=3.0,
            residual_multiplier=0.5,
            attention_multiplier=0.5,
        ),
        "rms rotary gqa untied embed_scale logit_scale",
    ),
    "olmo2": Architecture("Olmo2Config", _LLAMA, "rms rotary gqa untied qk_norm post_norm"),
}

# Architectures for tests of their own: `hf_model` and `boot` know them, `names` does not list them.
# Multi-head latent attention: values are wider than the d_head of TransformerLens, the part of queries
# and keys that turns.
_LATENT = _LLAMA | dict(
    num_key_value_heads=4,
    q_lora_rank=6,
    kv_lora_rank=10,
    qk_nope_head_dim=4,
    qk_rope_head_dim=4,
    v_head_dim=8,
)
_EXPERTS = dict(
    moe_intermediate_size=12,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    first_k_dense_replace=1,
    n_group=1,
    topk_group=1,
)
UNUSUAL: dict[str, Architecture] = {
    "deepseek2": Architecture("DeepseekV2Config", _LATENT | _EXPERTS, "latent"),
    "deepseek3": Architecture("DeepseekV3Config", _LATENT | _EXPERTS, "latent"),
    "glm4-lite": Architecture(
        "Glm4MoeLiteConfig",
        {k: v for k, v in (_LATENT | _EXPERTS).items() if k != "first_k_dense_replace"}
        | dict(mlp_layer_types=["dense", "sparse", "sparse"]),
        "latent",
    ),
    "glm-dsa": Architecture(
        "GlmMoeDsaConfig",
        _LATENT | _EXPERTS | dict(head_dim=4, index_topk=4, index_head_dim=8, index_n_heads=2),
        "latent",
    ),
    "youtu": Architecture("YoutuConfig", _LATENT, "latent"),
    # The final norm has no weights.
    "olmo": Architecture(
        "OlmoConfig", {k: v for k, v in _LLAMA.items() if k != "rms_norm_eps"}, "no_gain"
    ),
    "nanochat": Architecture("NanoChatConfig", _LLAMA, "no_gain"),
    # Norms that TransformerLens does not wrap.
    "stablelm": Architecture(
        "StableLmConfig",
        {k: v for k, v in _LLAMA.items() if k != "rms_norm_eps"}
        | dict(qk_layernorm=True, partial_rotary_factor=0.5),
        "norms_inside",
    ),
    "llama4": Architecture(
        "Llama4TextConfig",
        _LLAMA | dict(head_dim=4, intermediate_size_mlp=24, num_local_experts=4, use_qk_norm=True),
        "norms_inside",
    ),
    "recurrent-gemma": Architecture(
        "RecurrentGemmaConfig",
        _LLAMA | dict(lru_width=D_MODEL, attention_window_size=WINDOW, tie_word_embeddings=True),
        "norms_inside",
    ),
    "modernbert": Architecture(
        "ModernBertDecoderConfig",
        _COMMON | dict(intermediate_size=24, local_attention=8, norm_bias=True),
        "norms_inside",
    ),
    "opt-post-norm": Architecture(
        "OPTConfig",
        _COMMON | dict(word_embed_proj_dim=8, ffn_dim=32, do_layer_norm_before=False),
        "norms_inside",
    ),
    # One projection makes each head's query and its output's gate, side by side.
    "qwen3-next": Architecture(
        "Qwen3NextConfig",
        _LLAMA
        | dict(head_dim=4, layer_types=["full_attention"] * N_LAYERS, mlp_only_layers=[0, 1, 2]),
        "gate",
    ),
}

# HookedTransformer straight from a configuration: everything untied, with an unembedding bias.
_RAW = dict(n_heads=2, d_head=8, d_mlp=32, act_fn="gelu", normalization_type="LN")
_RAW_RMS = _RAW | dict(
    normalization_type="RMS", act_fn="silu", positional_embedding_type="rotary", rotary_dim=8
)

RAW_HOOKED: dict[str, tuple[dict[str, Any], str]] = {
    "ln": (_RAW, "layernorm learned"),
    "rms": (_RAW_RMS | dict(gated_mlp=True), "rms rotary"),
    "gqa": (
        _RAW_RMS | dict(n_heads=4, d_head=4, rotary_dim=4, n_key_value_heads=2),
        "rms rotary gqa",
    ),
    "softcap": (
        _RAW_RMS | dict(output_logits_soft_cap=2.0, attn_scores_soft_cap=1.0),
        "rms rotary softcap",
    ),
    "alibi": (_RAW | dict(positional_embedding_type="alibi"), "layernorm alibi"),
    "shortformer": (_RAW | dict(positional_embedding_type="shortformer"), "layernorm shortformer"),
    "embed-norm": (_RAW | dict(post_embedding_ln=True), "layernorm learned embed_norm"),
    "parallel": (_RAW | dict(parallel_attn_mlp=True), "layernorm learned parallel"),
    "attn-only": (_RAW | dict(attn_only=True), "layernorm learned attn_only"),
    "attn-only-no-norm": (
        _RAW | dict(attn_only=True, normalization_type=None),
        "no_norm learned attn_only",
    ),
}

# TransformerBridge over TransformerLens's own model, without Hugging Face.
NATIVE_BRIDGE: dict[str, tuple[dict[str, Any], str]] = {
    "native": (_RAW, "layernorm learned native"),
    "native-rms": (_RAW_RMS | dict(gated_mlp=True), "rms rotary native"),
}
