"""Turn one GGUF file into an ordinary Hugging Face folder: float32 weights, config and tokenizer.

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
    """Write `config.json`, `model.safetensors` (float32) and the tokenizer into `folder`.

    Needs the `gguf` package (ImportError otherwise). Nothing is fetched.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        local_files_only=True,
        **dtype_keyword(torch.float32),
    )
    # The weights are plain float32 now; a left-over quantization config would make
    # save_pretrained (and every later load) treat them as packed.
    for owner, attribute in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, attribute):
            delattr(owner, attribute)
    model.is_quantized = False
    model.save_pretrained(folder, max_shard_size="100GB")
    _spell_rope_for_every_version(folder / "config.json")
    _write_tokenizer(gguf_file, folder)


def dtype_keyword(dtype: Any) -> dict[str, Any]:
    """`from_pretrained`'s keyword for the dtype, which was renamed in transformers 4.56."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}


def _spell_rope_for_every_version(path: Path) -> None:
    """Write rotary bases the way transformers 4 does; version 5 reads both spellings.

    Version 4 overlooks `rope_parameters` and falls back on a base of 10000 in silence.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters", None)
    if rope:
        by_layer = "full_attention" in rope
        config["rope_theta"] = (rope["full_attention"] if by_layer else rope)["rope_theta"]
        if by_layer:
            config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _write_tokenizer(gguf_file: Path, folder: Path) -> None:
    from gguf import GGUFReader

    fields = GGUFReader(str(gguf_file)).fields

    def read(key: str, default: Any = None) -> Any:
        field = fields.get(f"tokenizer.{key}")
        return default if field is None else field.contents()

    tokens: list[str] = read("ggml.tokens")
    named = {
        role: tokens[read(f"ggml.{key}_token_id")]
        for role, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        )
        if read(f"ggml.{key}_token_id") is not None
    }
    add_bos = bool(read("ggml.add_bos_token", False))
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
            _added(index, token, special=kind == _CONTROL)
            for index, (token, kind) in enumerate(zip(tokens, read("ggml.token_type"), strict=True))
            if kind in (_CONTROL, _USER_DEFINED)
        ],
        "post_processor": _template(
            named["bos_token"] if add_bos else None, tokens.index(named["bos_token"])
        ),
    }
    (folder / "tokenizer.json").write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    config = {
        # The plain class exists in every transformers version; model-specific ones were reshuffled
        # between 4 and 5, and a folder written by one does not open in the other.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
        **({"add_bos_token": True} if add_bos else {}),
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
    def sequence(label: str, kind: int) -> list[dict[str, Any]]:
        part: list[dict[str, Any]] = [{"Sequence": {"id": label, "type_id": kind}}]
        return part if bos is None else [{"SpecialToken": {"id": bos, "type_id": kind}}, *part]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": sequence("A", 0) + sequence("B", 1),
        "special_tokens": {}
        if bos is None
        else {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }


def _added(index: int, token: str, *, special: bool) -> dict[str, Any]:
    return {
        "id": index,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }
