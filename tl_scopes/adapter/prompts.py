"""Prompts, positions and targets: from what a user writes to ids, checked."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Union

import torch
from torch import Tensor

from tl_scopes.adapter import chat, vocabulary
from tl_scopes.adapter.padding import REMEDY, Ids, chat_of, masked, parts, refuse_read, unmasked
from tl_scopes.adapter.refusals import (
    ALL_TOGETHER,
    LONGEST_TOKEN,
    is_conversation,
    refuse_long,
    refuse_surrogates,
)
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import (
    DoubleBosError,
    EmptyPromptError,
    PositionError,
    PromptError,
    PromptTooLongError,
    TargetError,
    check_choice,
)
from tl_scopes.results.escapes import literal
from tl_scopes.results.records import Chat, Token
from tl_scopes.rules import Rules

# Tokens listed with a prediction; longer lists of ids are prompts.
N_CANDIDATES = 10
# Tokens of a target that an error lists.
_LISTED = 12

Prompt = Union[str, Sequence[int], Tensor, Mapping[str, Any], Sequence[chat.Message]]
Prompts = Union[Sequence[Prompt], Tensor, Mapping[str, Any]]
Mask = Union[Sequence[Any], Tensor]


def encode(
    view: ModelView, prompt: Prompt, prepend_bos: bool | None, attention_mask: Mask | None = None
) -> Ids:
    """Token ids of one prompt. Text gets a BOS by the model's own default, or by `prepend_bos`; so
    do messages of a chat, unless the template writes one.

    What `attention_mask` (or that of a tokenizer's output) masks is taken away. What this returned
    may be given again: padding in it was looked for.

    Raises `EmptyPromptError`, `PromptError`, `PaddingError`, `PromptTooLongError` or `DoubleBosError`.
    """
    check_choice(
        "prepend_bos", prepend_bos, (True, False, None), hint=" (the default)", error=PromptError
    )
    if isinstance(prompt, Mapping) and not is_conversation(prompt):
        prompt, attention_mask = parts(prompt, attention_mask)
    is_chat = is_conversation(prompt)
    is_text = is_chat or isinstance(prompt, str)
    if is_text and attention_mask is not None:
        raise PromptError(
            f"attention_mask is for token ids, but the prompt is {'messages' if is_chat else 'text'}, "
            "which has no padding: drop it"
        )
    if is_chat:
        ids = _encode_chat(view, prompt, prepend_bos)
    elif isinstance(prompt, str):
        ids = Ids(_encode_text(view, prompt, prepend_bos))
    else:
        if prepend_bos is not None:
            raise PromptError(
                f"prepend_bos={prepend_bos} is for text, but the prompt is given as token ids, "
                "which are fed as they are: put the BOS into the ids, or drop prepend_bos"
            )
        ids = _check_ids(view, prompt, attention_mask)
    if not ids:
        raise EmptyPromptError("the prompt has no tokens: give text or at least one token id")
    _check_length(view, len(ids))
    bos = bos_id(view)
    if bos is not None and ids[:2] == [bos, bos]:
        ways = "take one out of the text" if is_text else "drop one id"
        if is_text and not is_chat and prepend_bos is not False:
            ways = "a chat template brings its own: pass prepend_bos=False for such text"
        pads = getattr(view.model.tokenizer, "pad_token_id", None) == bos
        if pads and not is_text and attention_mask is None:
            ways += f". BOS is also the pad token; if these are padding, {REMEDY}"
        raise DoubleBosError(f"the prompt begins with two BOS tokens (id {bos}) in a row: {ways}")
    return ids


def _check_length(view: ModelView, n: int) -> None:
    if view.n_ctx is not None and n > view.n_ctx:
        raise PromptTooLongError(
            f"the prompt has {n} tokens, the model's context is {view.n_ctx}: shorten it"
        )


def _encode_text(view: ModelView, text: str, prepend_bos: bool | None) -> list[int]:
    if not text:
        raise EmptyPromptError("the prompt is an empty string: give some text")
    refuse_surrogates(text, "the prompt", PromptError)
    tokenizer = getattr(view.model, "tokenizer", None)
    if tokenizer is None:
        raise PromptError("the model has no tokenizer: give token ids instead of text")
    _check_has_bos(view, prepend_bos)
    refuse_long(text, tokenizer, view.n_ctx)
    return _by_model(view, text, prepend_bos)


def _by_model(view: ModelView, text: str, prepend_bos: bool | None) -> list[int]:
    with torch.device("cpu"):  # the user's own default may be one that holds no numbers
        ids = view.model.to_tokens(text, prepend_bos=prepend_bos, truncate=False)
    return [int(i) for i in ids[0]]


def _check_has_bos(view: ModelView, prepend_bos: bool | None) -> None:
    if prepend_bos and bos_id(view) is None:
        raise PromptError(
            "prepend_bos=True, but the model's tokenizer has no BOS token: drop prepend_bos"
        )


def _encode_chat(view: ModelView, prompt: Any, prepend_bos: bool | None) -> Ids:
    """With one BOS where the model wants one: that of the template, else one in front."""
    tokenizer = getattr(view.model, "tokenizer", None)
    written = chat.written(prompt, tokenizer)
    refuse_surrogates(written.text, "the conversation", PromptError)
    _check_has_bos(view, prepend_bos)
    refuse_long(written.text, tokenizer, view.n_ctx)
    ids, owners, is_content = written.tokens(tokenizer)
    bos = bos_id(view)
    if bos is not None and ids[:1] != [bos] and _by_model(view, "a", prepend_bos)[:1] == [bos]:
        ids, owners, is_content = [bos, *ids], [-1, *owners], [False, *is_content]
    elif ids and ids[0] == bos:
        owners[0], is_content[0] = -1, False
    return Ids(ids, chat=Chat(written.roles, tuple(owners), tuple(is_content)))


def _check_ids(view: ModelView, prompt: Any, attention_mask: Mask | None) -> Ids:
    if _is_row(prompt):
        prompt = prompt[0]
    if isinstance(prompt, Tensor):
        integral = not (prompt.dtype.is_floating_point or prompt.dtype.is_complex)
        if prompt.ndim != 1 or not integral or prompt.dtype == torch.bool:
            raise PromptError(
                f"the prompt is a tensor of shape {tuple(prompt.shape)} and dtype {prompt.dtype}; "
                f"allowed: integer ids of shape [pos] or [1, pos]. {_SEVERAL}"
            )
    if attention_mask is None and isinstance(prompt, (list, tuple, range, Tensor)):
        _check_length(view, len(prompt))
    try:
        if isinstance(prompt, Tensor):
            prompt = prompt.tolist()
        if not isinstance(prompt, (list, tuple, range)) and not hasattr(prompt, "__array__"):
            raise TypeError
        ids = [_index(i) for i in prompt]
    except TypeError:
        raise PromptError(
            f"the prompt is a {type(prompt).__name__} that does not hold token ids; allowed: text, "
            f"a list of int ids, or a tensor [pos] or [1, pos]. {_SEVERAL}"
        ) from None
    if attention_mask is not None:
        ids = masked(ids, attention_mask)
    elif isinstance(prompt, Ids):
        ids = prompt
    else:
        ids = unmasked(ids, getattr(view.model, "tokenizer", None))
    d_vocab = int(view.cfg.d_vocab)
    wrong = next((i for i in ids if not 0 <= i < d_vocab), None)
    if wrong is not None:
        raise PromptError(f"token id {wrong} is outside the vocabulary, 0 to {d_vocab - 1}")
    return ids


def _is_row(prompt: Any) -> bool:
    """Whether it is one prompt of ids as a batch of one, [1, pos]."""
    if not isinstance(prompt, (list, tuple)):
        return getattr(prompt, "ndim", 0) == 2 and len(prompt) == 1
    inner = prompt[0] if len(prompt) == 1 else None
    return isinstance(inner, (list, tuple, range)) or getattr(inner, "ndim", 0) == 1


_SEVERAL = (
    "Several prompts: attribute_batch, with the texts themselves, or with what a tokenizer returned for "
    "them (ids and attention_mask)"
)


def _index(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def bos_id(view: ModelView) -> int | None:
    return getattr(getattr(view.model, "tokenizer", None), "bos_token_id", None)


def resolve_position(position: Any, ids: Sequence[int]) -> int:
    """A read position of a prompt as an index from 0. Raises `PositionError` or `PaddingError`."""
    length = len(ids)
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
    refuse_read(ids, index % length)
    return index % length


def described(view: ModelView, ids: list[int], rules: Rules | None = None) -> dict[str, Any]:
    """The fields of a result that say which prompt of which model it is of, and by which gradient rules."""
    return {
        "tokens": torch.tensor(ids, device="cpu"),
        "str_tokens": texts(view, ids),
        "has_bos": ids[0] == bos_id(view),
        "provenance": replace(view.provenance(), rules=rules),
        "chat": chat_of(ids, len(ids)),
    }


def texts(view: ModelView, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token's own text, as `vocabulary.texts` gives it; without a tokenizer, its id in angle
    brackets."""
    tokenizer = getattr(view.model, "tokenizer", None)
    if tokenizer is None:
        return tuple(f"<{i}>" for i in ids)
    # Remembered: every read position of a sequence asks for the whole prompt's.
    key = (id(tokenizer), *ids)
    last = view.last_texts
    if last is not None and last[0] == key:
        return last[1]
    each = tuple(vocabulary.texts(tokenizer, ids))
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
    refuse_surrogates(target, "the target", TargetError)
    if len(target) > LONGEST_TOKEN:
        raise TargetError(
            f"the target {target[:20]!r}... has {len(target)} characters, and no token is so long: "
            "give text that is one token, or a token id"
        )
    tokenizer = getattr(view.model, "tokenizer", None)
    if tokenizer is None or not target:
        got = "the model has no tokenizer to read it" if target else "it has no token"
        raise TargetError(f"target {target!r} cannot be used: {got}; give a token id instead")
    found = vocabulary.find(tokenizer, target)
    if found is None:
        raise TargetError(_several(view, tokenizer, target))
    return Token(found, texts(view, [found])[0])


def _several(view: ModelView, tokenizer: Any, target: str) -> str:
    """What to say of a target that is not exactly one token: what it is, and every way out."""
    ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    pieces = list(texts(view, ids))
    if vocabulary.adds_space(tokenizer, target, ids):
        pieces = [piece for piece in [pieces[0].removeprefix(" "), *pieces[1:]] if piece]
    spaced = target.startswith(" ")
    other = target[1:] if spaced else " " + target
    known = bool(other) and vocabulary.find(tokenizer, other) is not None
    hint = f"; {literal(other)}, with{'out' if spaced else ''} a leading space, is one token"
    if len(pieces) == 1 and known:
        return f"target {literal(target)} is not one known token{hint}: give that, or an id"
    more = ", ..." if len(pieces) > _LISTED else ""
    listed = f"[{', '.join(map(literal, pieces[:_LISTED]))}{more}]"
    said = (
        f"target {literal(target)} is {len(pieces)} tokens {listed}, not one known token: give one of its "
        f"tokens, or an id{hint if known else ''}"
    )
    if len(pieces) < 2:
        return said
    return f"{said}. To explain all of them, {ALL_TOGETHER}"
