"""Turn one GGUF file into what a Hugging Face folder holds: float32 weights and a tokenizer.

transformers dequantises the weights (checked bit for bit the same on 4.57 and 5.23). The tokenizer
is rebuilt here from the file's own metadata, because transformers 4.x reads a SentencePiece-BPE
vocabulary without merges as a unigram model: it splits "hi there" into four pieces instead of two,
in silence. Built here, the ids do not depend on the version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# llama.cpp's token types
_CONTROL, _USER_DEFINED = 3, 4


def convert(gguf_file: Path, folder: Path) -> None:
    """Write `model.safetensors` (float32) and the tokenizer into `folder`, which lacks its config then.

    Needs the `gguf` package (ImportError otherwise). Nothing is fetched.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        local_files_only=True,
        **dtype_keyword(torch.float32),
    )
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]  # the embedding, under a second name
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(gguf_file, folder)


def dtype_keyword(dtype: Any) -> dict[str, Any]:
    """`from_pretrained`'s keyword for the dtype, which was renamed in transformers 4.56."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}


def _write_tokenizer(gguf_file: Path, folder: Path) -> None:
    from gguf import GGUFReader

    fields = GGUFReader(str(gguf_file)).fields

    def read(key: str, default: Any = None) -> Any:
        field = fields.get(f"tokenizer.{key}")
        return default if field is None else field.contents()

    tokens: list[str] = read("ggml.tokens")
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {role: read(f"ggml.{key}_token_id") for role, key in roles.items()}
    named = {role: tokens[index] for role, index in ids.items() if index is not None}
    bos = named["bos_token"] if read("ggml.add_bos_token", False) else None
    flavour = read("ggml.model")
    if flavour == "llama":
        body = _sentencepiece_bpe(tokens, read("ggml.scores"), named["unk_token"])
    elif flavour == "gpt2":
        body = _byte_level_bpe(tokens, read("ggml.merges"), read("ggml.pre", "default"))
    else:
        raise ValueError(f"unknown tokenizer {flavour!r} in {gguf_file.name}: llama or gpt2 wanted")
    body |= {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, "single_word": False, "lstrip": False}
            | {"rstrip": False, "normalized": False, "special": kind == _CONTROL}
            for index, (token, kind) in enumerate(zip(tokens, read("ggml.token_type"), strict=True))
            if kind in (_CONTROL, _USER_DEFINED)
        ],
        "post_processor": _template(bos, ids["bos_token"]),
    }
    (folder / "tokenizer.json").write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    config = {
        # The plain class exists in every transformers version; model-specific ones were reshuffled
        # between 4 and 5, and a folder written by one does not open in the other.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
        **({"add_bos_token": True} if bos else {}),
        **named,
    }
    if template := read("chat_template"):
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _sentencepiece_bpe(tokens: list[str], scores: list[float], unk: str) -> dict[str, Any]:
    """Gemma's kind: merges are implied by the pieces' scores, spaces are written as U+2581."""
    ids = {token: index for index, token in enumerate(tokens)}
    ranked = []
    for token, score in zip(tokens, scores, strict=True):
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(left, right) for left, right in splits if left in ids and right in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        ranked += [(score, len(left), len(right), left, right) for left, right in pairs]
    ranked.sort(key=lambda row: row[:3], reverse=True)
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": unk,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [[row[3], row[4]] for row in ranked],
        },
    }


def _byte_level_bpe(tokens: list[str], merges: list[str], pre: str) -> dict[str, Any]:
    """GPT-2's kind; SmolLM's pre-tokenizer also cuts numbers into single digits."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [digits, byte_level] if pre == "smollm" else [byte_level],
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def _template(bos: str | None, bos_id: int) -> dict[str, Any]:
    """What is put before a text: `bos`, or nothing."""

    def sequence(label: str, kind: int) -> list[dict[str, Any]]:
        part: list[dict[str, Any]] = [{"Sequence": {"id": label, "type_id": kind}}]
        return part if bos is None else [{"SpecialToken": {"id": bos, "type_id": kind}}, *part]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": sequence("A", 0) + sequence("B", 1),
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}} if bos else {},
    }
