"""What the generic builder cannot tell by itself: which architectures are no text decoders, and odd fields."""

from __future__ import annotations

from typing import Any

# Fields of a tiny configuration, by every name that transformers gives them; a class takes what it has.
WIDTH, LAYERS, VOCABULARY, LENGTH = 16, 3, 64, 32
_NAMES: dict[float, str] = {
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
    WIDTH: "hidden_size n_embd d_model word_embed_proj_dim lru_width",
    LAYERS: "num_hidden_layers n_layer n_layers num_layers",
    4: "rotary_dim chunk_size mamba_chunk_size sliding_window window_size "
    "attention_window_size attention_chunk_size "
    "num_attention_heads n_head n_heads num_heads head_dim num_experts num_local_experts "
    "n_routed_experts moe_num_experts mamba_n_heads n_mamba_heads mamba_num_heads linear_num_value_heads "
    "linear_key_head_dim linear_value_head_dim qk_rope_head_dim kv_channels hidden_size_per_layer_input",
    2: "num_key_value_heads num_experts_per_tok moe_k linear_num_key_heads index_n_heads o_groups pad_token_id",
    24: "intermediate_size ffn_dim ffn_hidden_size shared_intermediate_size intermediate_size_mlp",
    12: "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size",
    # Whom a query looks at is no choice here: with few heads scores are tied at zero, in no set order.
    LENGTH: "index_topk mamba_d_ssm max_position_embeddings n_positions max_seq_len",
    8: "q_lora_rank kv_lora_rank qk_nope_head_dim index_head_dim o_lora_rank mamba_d_head mamba_headdim "
    "mamba_head_dim mamba_d_state ssm_state_size state_size",
    6: "v_head_dim",
    1: "n_shared_experts n_group topk_group mamba_n_groups mamba_ngroups first_k_dense_replace "
    "num_dense_layers eos_token_id moe_num_shared_experts",
    0: "bos_token_id",
    0.5: "partial_rotary_factor rotary_pct",
}  # fmt: skip
FIELDS = {field: value for value, fields in _NAMES.items() for field in fields.split()}

_HYBRID = ["linear_attention", "full_attention", "linear_attention"]
_GEMMA = ["sliding_attention", "full_attention", "sliding_attention"]

# Beyond the generic fields: (architecture, variant) and what it takes. The plain variant is "".
SPECIAL: dict[tuple[str, str], dict[str, Any]] = {
    ("BambaForCausalLM", ""): dict(attn_layer_indices=[1]),
    ("CohereForCausalLM", "q/k norms"): dict(use_qk_norm=True),
    ("DeepseekV2ForCausalLM", "plain queries"): dict(q_lora_rank=None),
    ("FalconForCausalLM", "grouped heads"): dict(new_decoder_architecture=True, num_kv_heads=2),
    ("FalconForCausalLM", "ALiBi"): dict(alibi=True, parallel_attn=False, multi_query=False),
    ("GPTNeoForCausalLM", ""): dict(attention_types=[[["global", "local", "global"], 1]]),
    ("GPTNeoXForCausalLM", "sequential"): dict(use_parallel_residual=False),
    ("Gemma2ForCausalLM", ""): dict(layer_types=_GEMMA, query_pre_attn_scalar=4),
    ("Gemma3ForCausalLM", ""): dict(layer_types=_GEMMA, query_pre_attn_scalar=4),
    ("Gemma4ForCausalLM", ""): dict(layer_types=_GEMMA),
    ("GraniteForCausalLM", "multipliers"): dict(
        logits_scaling=4.0, embedding_multiplier=3.0, residual_multiplier=0.5
    ),
    ("GraniteMoeHybridForCausalLM", ""): dict(layer_types=_HYBRID),
    ("GraniteMoeHybridForCausalLM", "attention only"): dict(
        layer_types=["full_attention"] * 3, position_embedding_type="rope"
    ),
    ("JambaForCausalLM", ""): dict(
        attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, use_mamba_kernels=False,
        mamba_dt_rank=4,
    ),
    ("Lfm2ForCausalLM", ""): dict(layer_types=["conv", "full_attention", "conv"]),
    ("Lfm2MoeForCausalLM", ""): dict(layer_types=["conv", "full_attention", "conv"]),
    ("LlamaForCausalLM", "tied"): dict(tie_word_embeddings=True),
    ("LlamaForCausalLM", "biases"): dict(attention_bias=True, mlp_bias=True),
    ("Mamba2ForCausalLM", ""): dict(head_dim=8, n_groups=1),
    ("NemotronHForCausalLM", ""): dict(
        layers_block_type=["linear_attention", "full_attention", "mlp"], n_groups=1
    ),
    ("OPTForCausalLM", "post-norm"): dict(do_layer_norm_before=False),
    ("OlmoForCausalLM", "clipped"): dict(clip_qkv=1.0),
    ("Olmo3ForCausalLM", ""): dict(layer_types=_GEMMA),
    ("Phi3ForCausalLM", "partial rotary"): dict(partial_rotary_factor=0.5),
    ("PhiForCausalLM", "q/k norms"): dict(qk_layernorm=True),
    ("Qwen3NextForCausalLM", ""): dict(layer_types=_HYBRID),
    ("Qwen3_5ForCausalLM", ""): dict(layer_types=_HYBRID),
    ("Qwen3_5MoeForCausalLM", ""): dict(layer_types=_HYBRID),
    ("RecurrentGemmaForCausalLM", ""): dict(block_types=["recurrent", "recurrent", "attention"]),
    ("StableLmForCausalLM", "q/k norms"): dict(qk_layernorm=True),
    ("StableLmForCausalLM", "parallel"): dict(use_parallel_residual=True),
    ("Zamba2ForCausalLM", ""): dict(
        layers_block_type=["linear_attention", "hybrid", "linear_attention"], attention_hidden_size=32,
        attention_head_dim=8, adapter_rank=4,
    ),
}  # fmt: skip

# What transformer-lens itself cannot boot, or could not in 3.9.
UNBOOTED = {
    ("CohereForCausalLM", "q/k norms"),
    ("FalconForCausalLM", "grouped heads"),
    ("PhiForCausalLM", "q/k norms"),
}

# What transformer-lens and transformers spell differently.
SPELT = {"PhiMoEForCausalLM": "PhimoeForCausalLM"}

_OTHERS: dict[str, str] = {
    "encoder": "BertForMaskedLM BertLMHeadModel RobertaForMaskedLM",
    "encoder and decoder": "BartForConditionalGeneration BlenderbotForConditionalGeneration "
    "LEDForConditionalGeneration LongT5ForConditionalGeneration M2M100ForConditionalGeneration "
    "MarianMTModel MBartForConditionalGeneration PegasusForConditionalGeneration T5WithLMHeadModel "
    "SwitchTransformersForConditionalGeneration T5ForConditionalGeneration MT5ForConditionalGeneration "
    "T5GemmaForConditionalGeneration T5Gemma2ForConditionalGeneration",
    "audio": "ASTForAudioClassification AudioFlamingo3ForConditionalGeneration "
    "GlmAsrForConditionalGeneration HubertForCTC HubertModel MusicFlamingoForConditionalGeneration "
    "Qwen2AudioForConditionalGeneration Wav2Vec2ForCTC Wav2Vec2ForPreTraining Wav2Vec2Model",
    "vision": "ViTModel ViTForImageClassification DeiTModel DeiTForImageClassification",
    "images and text": "Emu3ForConditionalGeneration Florence2ForConditionalGeneration "
    "Gemma3ForConditionalGeneration Gemma3nForConditionalGeneration Gemma4ForConditionalGeneration "
    "Gemma4UnifiedForConditionalGeneration Glm4vForConditionalGeneration Idefics3ForConditionalGeneration "
    "Llama4ForConditionalGeneration LlavaForConditionalGeneration LlavaNextForConditionalGeneration "
    "LlavaOnevisionForConditionalGeneration Mistral3ForConditionalGeneration "
    "MuseGlimmerForConditionalGeneration Qwen2_5_VLForConditionalGeneration "
    "Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration "
    "Qwen3_5ForConditionalGeneration Qwen3_5MoeForConditionalGeneration",
    "no head of words": "BloomModel",
    "diffusion": "BD3LM DreamModel GiddForDiffusionLM LLaDA2MoeModelLM LLaDAModelLM",
    "another name of GPTNeoForCausalLM": "NeoForCausalLM",
    "another name of GPTNeoXForCausalLM": "NeoXForCausalLM",
    "another name of GemmaForCausalLM": "Gemma1ForCausalLM",
    "another name of JetMoeForCausalLM": "JetMoEForCausalLM",
    "another name of MptForCausalLM": "MPTForCausalLM",
    "code of its own, not in transformers": "BaiChuanForCausalLM BaichuanForCausalLM ExaoneForCausalLM "
    "GPT2LMHeadCustomModel HyenaDNAForCausalLM InternLM2ForCausalLM MinGPTForCausalLM "
    "NanoGPTForCausalLM NeelSoluOldForCausalLM OpenELMForCausalLM OuroForCausalLM QwenForCausalLM "
    "RWKV7ForCausalLM RavenForCausalLM",
    "no Hugging Face inside": "TransformerLensNative TransformerLensPretrain",
}
OTHERS = {name: reason for reason, names in _OTHERS.items() for name in names.split()}
