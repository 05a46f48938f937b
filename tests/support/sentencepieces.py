"""Tokenizers of SentencePiece's kind, made here: there is no Llama tokenizer without a network."""

from __future__ import annotations

import functools
from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

PIECES = ["▁The", "▁capital", "▁of", "▁France", "▁is", "▁Paris", "▁in", "in", "is", "▁▁", "pit"]
BYTES = [*"日本🪿".encode(), *b"\nA "]
SPACES = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
TRIMMED = decoders.Sequence([*SPACES, decoders.Strip(" ", 1, 0)])
LEGACY = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])

# What reads the text, and what writes it again: how "▁" gets in front of it, and away.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "legacy": (LEGACY, None, TRIMMED),
    "llama": (None, "first", TRIMMED),
    "mistral": (None, "always", TRIMMED),
    "metaspace": (None, "always", decoders.Metaspace()),
    "gemma": (normalizers.Replace(" ", "▁"), None, decoders.Sequence(SPACES)),
}


@functools.cache
def sentencepiece(kind: str) -> Any:
    normalizer, scheme, decoder = KINDS[kind]
    entries = ["<unk>", "<s>", "</s>", *dict.fromkeys(f"<0x{b:02X}>" for b in BYTES), "▁"]
    entries += sorted({letter for piece in PIECES for letter in piece} - {"▁"})
    merges = []
    for piece in PIECES:
        for end in range(2, len(piece) + 1):
            if piece[:end] not in entries:
                entries.append(piece[:end])
                merges.append((piece[: end - 1], piece[end - 1]))
    core = tokenizers.Tokenizer(
        models.BPE(
            {entry: i for i, entry in enumerate(entries)},
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if normalizer is not None:
        core.normalizer = normalizer
    if scheme is not None:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    core.decoder = decoder
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        clean_up_tokenization_spaces=False,
        add_bos_token=True,
        name_or_path="tiny",
    )
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return fast


BUNDLED = ["gemma-3-270m", "smollm2-135m-instruct"]
