"""Tiny random models of any architecture, as Hugging Face makes them and as transformer-lens boots them."""

from __future__ import annotations

import warnings
import zlib
from typing import Any

import tokenizers
import torch
import transformers

from benchmarks.architectures.tables import FIELDS, LENGTH, OTHERS, SPECIAL, SPELT, VOCABULARY

Model = tuple[str, str]  # an architecture and its variant


def known() -> list[str]:
    """The architectures that the installed transformer-lens has adapters for."""
    from transformer_lens.factories import architecture_adapter_factory

    return sorted(architecture_adapter_factory.SUPPORTED_ARCHITECTURES)


def listed() -> list[Model]:
    """All that is to be checked: every known architecture that no table excuses, with its variants."""
    wanted = [name for name in known() if name not in OTHERS]
    variants = [(name, variant) for name, variant in SPECIAL if name in wanted and variant]
    return sorted([*((name, "") for name in wanted), *variants])


def exists(name: str) -> bool:
    return hasattr(transformers, SPELT.get(name, name))


def hf_model(model: Model, dtype: torch.dtype) -> Any:
    """The Hugging Face model: eager attention, evaluation mode, weights that bfloat16 can hold.

    Made in its dtype, as `from_pretrained` does: rotary tables stay in float32, masks do not.
    """
    name = model[0]
    kind = getattr(transformers, SPELT.get(name, name))
    fields = kind.config_class().to_dict()
    chosen: dict[str, Any] = {field: value for field, value in FIELDS.items() if field in fields}
    if "kv_lora_rank" in fields:
        chosen["num_key_value_heads"] = chosen[
            "num_attention_heads"
        ]  # latent attention shares none
    rope = fields.get("rope_parameters") or {}
    if "partial_rotary_factor" in rope:  # a quarter of 4 would be one number, and pairs turn
        chosen["rope_parameters"] = rope | {"partial_rotary_factor": 0.5}
    chosen |= SPECIAL.get((name, ""), {}) | SPECIAL.get(model, {})
    config = kind.config_class(**chosen)
    config._experts_implementation = "eager"
    config.architectures = [name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32("/".join(model).encode()))
        made = kind._from_config(config, attn_implementation="eager", dtype=dtype)
    made.config.architectures = [name]
    _randomise(made)
    return made.eval().requires_grad_(False)


@torch.no_grad()
def _randomise(model: torch.nn.Module) -> None:
    """Matrices, gains and biases from generators seeded by their names; gains about what they were
    made with (Gemma's about zero). What is neither, such as the decay of a state, stays as made."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = 0.3 * torch.randn(parameter.shape, generator=generator).clamp(-2.5, 2.5)
        last = name.rpartition(".")[2]
        if parameter.ndim < 2 and last not in ("weight", "bias"):
            noise = parameter
        elif parameter.ndim < 2:
            noise = noise + parameter.mean().round()
        parameter.copy_(noise.bfloat16())


def tokenizer() -> Any:
    """One token a number: prompts are ids here."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{f"{kind}_token": f"w{i}" for i, kind in enumerate(("bos", "eos", "pad", "unk"))},
        model_max_length=LENGTH,
        add_bos_token=True,  # with a name, what keeps transformer-lens from asking the hub for another
        name_or_path="tiny",
    )


def booted(model: Any, dtype: torch.dtype) -> Any:
    """The bridge over a Hugging Face model, which it takes for its own."""
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            "tiny/model", hf_model=model, tokenizer=tokenizer(), dtype=dtype, device="cpu"
        )
