"""What follows a prompt: a text or ids, as the tokens that a model would have written after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tl_scopes.adapter import vocabulary
from tl_scopes.adapter.prompts import resolve_token, texts
from tl_scopes.adapter.refusals import refuse_long, refuse_surrogates
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import PromptTooLongError, TargetError
from tl_scopes.results.characters import together
from tl_scopes.results.escapes import literal

# A text that is tokenised before the continuation, and taken away, where a tokenizer puts a space
# before all that it is given.
_BEFORE = "\n"


def encode_continuation(view: ModelView, given: Any, name: str = "continuation") -> list[int]:
    """Ids of a text or of ids, without special tokens of the tokenizer's own.

    Tokens of the prompt stay as they are: a continuation begins a new token, as it does where a model
    writes it. Raises `TargetError` where it is empty, or where its tokens say another text.
    """
    if isinstance(given, str):
        ids = _of_text(view, given, name)
    else:
        listed = given.tolist() if isinstance(given, Tensor) or hasattr(given, "tolist") else given
        if not isinstance(listed, (list, tuple, range)):
            raise TargetError(
                f"{name} is {given!r} of type {type(given).__name__}; allowed: text, or a list of token ids"
            )
        ids = [resolve_token(view, _id(i, name)).id for i in listed]
    if not ids:
        raise TargetError(
            f"{name} is empty: give the text, or the token ids, that follow the prompt"
        )
    return ids


def check_length(view: ModelView, prompt: Sequence[int], more: Sequence[int]) -> None:
    """Raises `PromptTooLongError` where the context ends inside the continuation."""
    if view.n_ctx is not None and len(prompt) + len(more) > view.n_ctx:
        raise PromptTooLongError(
            f"the prompt has {len(prompt)} tokens and its continuation {len(more)}, the model's context "
            f"is {view.n_ctx}: shorten one of them"
        )


def _of_text(view: ModelView, text: str, name: str) -> list[int]:
    tokenizer = getattr(view.model, "tokenizer", None)
    if tokenizer is None:
        raise TargetError(f"the model has no tokenizer to read the {name}: give token ids instead")
    if not text:
        return []
    refuse_surrogates(text, f"the {name}", TargetError)
    refuse_long(text, tokenizer, view.n_ctx)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if vocabulary.adds_space(tokenizer, text, ids):
        first, both = (
            tokenizer(t, add_special_tokens=False)["input_ids"] for t in (_BEFORE, _BEFORE + text)
        )
        ids = both[len(first) :] if both[: len(first)] == first else ids
    ids = [int(i) for i in ids]
    said = together(texts(view, ids)) if ids else ""
    if said != text.replace(vocabulary.SPACE, " ") and said != text:
        raise TargetError(
            f"the tokenizer makes {literal(said)} of the {name} {literal(text)}: give its token ids"
        )
    return ids


def _id(value: Any, name: str) -> int:
    if isinstance(value, str):
        raise TargetError(
            f"{name} holds the text {value!r} in a list; allowed: one text, or token ids"
        )
    return value
