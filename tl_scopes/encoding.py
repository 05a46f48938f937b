"""Prompts, positions and targets: from what a user writes to ids, checked."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Union

import torch
from torch import Tensor

from tl_scopes.adapter import ModelView
from tl_scopes.errors import (
    DoubleBosError,
    EmptyPromptError,
    PositionError,
    PromptError,
    PromptTooLongError,
    TargetError,
)
from tl_scopes.result import Token

# Tokens listed with a prediction; longer lists of ids are prompts.
N_CANDIDATES = 10

Prompt = Union[str, Sequence[int], Tensor]


def encode(view: ModelView, prompt: Prompt, prepend_bos: bool | None) -> list[int]:
    """Token ids of one prompt. Text gets a BOS by the model's own default, or by `prepend_bos`.

    Raises `EmptyPromptError`, `PromptError`, `PromptTooLongError` or `DoubleBosError`.
    """
    if prepend_bos is not None and not isinstance(prepend_bos, bool):
        raise PromptError(
            f"prepend_bos is {prepend_bos!r}; allowed: True, False, None (the default)"
        )
    if isinstance(prompt, str):
        ids = _encode_text(view, prompt, prepend_bos)
    else:
        if prepend_bos is not None:
            raise PromptError(
                f"prepend_bos={prepend_bos} is for text, but the prompt is given as token ids, "
                "which are fed as they are: put the BOS into the ids, or drop prepend_bos"
            )
        ids = _check_ids(view, prompt)
    if not ids:
        raise EmptyPromptError("the prompt has no tokens: give text or at least one token id")
    if view.n_ctx is not None and len(ids) > view.n_ctx:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens, the model's context is {view.n_ctx}: shorten it"
        )
    bos = bos_id(view)
    if bos is not None and ids[:2] == [bos, bos]:
        raise DoubleBosError(
            f"the prompt begins with two BOS tokens (id {bos}) in a row. A chat template brings "
            "its own: pass prepend_bos=False for such text, or drop one id"
        )
    return ids


def _encode_text(view: ModelView, text: str, prepend_bos: bool | None) -> list[int]:
    if not text:
        raise EmptyPromptError("the prompt is an empty string: give some text")
    if getattr(view.model, "tokenizer", None) is None:
        raise PromptError("the model has no tokenizer: give token ids instead of text")
    if prepend_bos and bos_id(view) is None:
        raise PromptError(
            "prepend_bos=True, but the model's tokenizer has no BOS token: drop prepend_bos"
        )
    with torch.device("cpu"):  # the user's own default may be one that holds no numbers
        ids = view.model.to_tokens(text, prepend_bos=prepend_bos, truncate=False)
    return [int(i) for i in ids[0]]


def _check_ids(view: ModelView, prompt: Any) -> list[int]:
    if isinstance(prompt, Tensor):
        if prompt.ndim == 2 and prompt.shape[0] == 1:
            prompt = prompt[0]
        integral = not (prompt.dtype.is_floating_point or prompt.dtype.is_complex)
        if prompt.ndim != 1 or not integral or prompt.dtype == torch.bool:
            raise PromptError(
                f"the prompt is a tensor of shape {tuple(prompt.shape)} and dtype {prompt.dtype}; "
                "allowed: integer ids of shape [pos] or [1, pos] (several prompts: attribute_batch)"
            )
        prompt = prompt.tolist()
    try:
        if not isinstance(prompt, (list, tuple, range)) and not hasattr(prompt, "__array__"):
            raise TypeError
        ids = [_index(i) for i in prompt]
    except TypeError:
        raise PromptError(
            f"the prompt is a {type(prompt).__name__} that does not hold token ids; allowed: text, "
            "a list of int ids, or a tensor [pos] or [1, pos] (several prompts: attribute_batch)"
        ) from None
    d_vocab = int(view.cfg.d_vocab)
    wrong = [i for i in ids if not 0 <= i < d_vocab]
    if wrong:
        raise PromptError(f"token id {wrong[0]} is outside the vocabulary, 0 to {d_vocab - 1}")
    return ids


def _index(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def bos_id(view: ModelView) -> int | None:
    return getattr(getattr(view.model, "tokenizer", None), "bos_token_id", None)


def resolve_position(position: Any, length: int) -> int:
    """A read position as an index from 0. Raises `PositionError`."""
    try:
        index = _index(position)
    except TypeError:
        raise PositionError(
            f"a position is an int, not {position!r} of type {type(position).__name__}"
        ) from None
    if not -length <= index < length:
        raise PositionError(
            f"position {index} is out of range: the prompt has {length} tokens (BOS included), so "
            f"{-length} to {length - 1} are allowed; -1 is the last"
        )
    return index % length


def described(view: ModelView, ids: list[int]) -> dict[str, Any]:
    """The fields of a result that say which prompt of which model it is of."""
    return {
        "tokens": torch.tensor(ids, device="cpu"),
        "str_tokens": texts(view, ids),
        "has_bos": ids[0] == bos_id(view),
        "provenance": view.provenance(),
    }


def texts(view: ModelView, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token's own text; without a tokenizer, its id in angle brackets."""
    tokenizer = getattr(view.model, "tokenizer", None)
    if tokenizer is None:
        return tuple(f"<{i}>" for i in ids)
    # Remembered: every read position of a sequence asks for the whole prompt's.
    key = (id(tokenizer), *ids)
    last = view.last_texts
    if last is not None and last[0] == key:
        return last[1]
    each = tuple(tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False))
    if len(ids) > N_CANDIDATES:
        view.last_texts = (key, each)
    return each


def resolve_token(view: ModelView, target: str | int) -> Token:
    """The vocabulary entry a target means. Raises `TargetError` unless it is exactly one token."""
    d_vocab = view.unembedding().d_vocab
    if not isinstance(target, str):
        try:
            index = _index(target)
        except TypeError:
            raise TargetError(
                f"a target is a string that is one token, a token id, NEXT_TOKEN or None, not "
                f"{target!r} of type {type(target).__name__}"
            ) from None
        if not 0 <= index < d_vocab:
            raise TargetError(f"target id {index} is outside the vocabulary, 0 to {d_vocab - 1}")
        return Token(index, texts(view, [index])[0])
    tokenizer = getattr(view.model, "tokenizer", None)
    if tokenizer is None or not target:
        got = "the model has no tokenizer to read it" if target else "it has no token"
        raise TargetError(f"target {target!r} cannot be used: {got}; give a token id instead")
    ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if target == getattr(tokenizer, "unk_token", None):
        unknown = None  # it may be a real token too: GPT-2's is its end of text
    if len(ids) != 1 or ids[0] == unknown:
        pieces = list(texts(view, ids))
        spaced = tokenizer(" " + target, add_special_tokens=False)["input_ids"]
        hint = (
            f"; {' ' + target!r}, with a leading space, is one token"
            if len(spaced) == 1 and spaced[0] != unknown
            else ""
        )
        raise TargetError(
            f"target {target!r} is {len(ids)} tokens {pieces}, not one known token: give one of "
            f"its tokens, or an id{hint}"
        )
    return Token(int(ids[0]), texts(view, ids)[0])
