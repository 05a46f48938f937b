"""Gemma as a HookedTransformer, whatever its size: transformer-lens knows those of Google's by name alone."""

from __future__ import annotations

from typing import Any

# Of each text model a published one, whose configuration is right but for its sizes.
PUBLISHED = {
    "gemma": "google/gemma-7b",
    "gemma2": "google/gemma-2-2b",
    "gemma3_text": "google/gemma-3-270m",
}


def resized(cfg: Any, config: Any) -> Any:
    """`cfg`, a published model's, with what the Hugging Face text configuration `config` says."""
    width = config.head_dim
    windows = getattr(config, "sliding_window", None) is not None
    rope = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rope:
        base, near = (rope[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention"))
    else:
        base = getattr(config, "rope_theta", None) or rope["rope_theta"]
        near = getattr(config, "rope_local_base_freq", None)
    fields = dict(
        d_model=config.hidden_size,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_head=width,
        rotary_dim=width,
        rotary_base=base,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        d_vocab_out=config.vocab_size,
        eps=config.rms_norm_eps,
        # Gemma 1 computes by this name, older files of which have no entry for it.
        act_fn=getattr(config, "hidden_activation", None) or "gelu_pytorch_tanh",
        attn_scale=(getattr(config, "query_pre_attn_scalar", None) or width) ** 0.5,
        attn_scores_soft_cap=getattr(config, "attn_logit_softcapping", None) or -1.0,
        output_logits_soft_cap=getattr(config, "final_logit_softcapping", None) or -1.0,
    )
    if near is not None:
        fields["rotary_base_local"] = near
    if windows:
        kinds = {"sliding_attention": "local", "full_attention": "global"}
        fields["attn_types"] = [kinds[kind] for kind in config.layer_types]
        fields["window_size"] = config.sliding_window
    return type(cfg).from_dict({**cfg.to_dict(), **fields})
