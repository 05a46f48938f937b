"""Lists of prompts: each as ids, or an error that says which one it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tl_scopes.adapter.padding import Ids, rows
from tl_scopes.adapter.prompts import Mask, encode
from tl_scopes.adapter.refusals import is_conversation
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import EmptyPromptError, PositionError, PromptError


def encode_all(
    view: ModelView,
    prompts: Any,
    prepend_bos: bool | None,
    attention_mask: Mask | None = None,
    name: str = "prompts",
) -> list[Ids]:
    """Token ids of every prompt of a list, or of every row of a padded batch.

    Raises what `encode` raises, naming the entry where there are several.
    """
    listed = list_of_prompts(prompts, attention_mask, name)
    found = []
    for i, prompt in enumerate(listed):
        with entry(i, len(listed), name):
            found.append(encode(view, prompt, prepend_bos))
    return found


@contextmanager
def entry(i: int, count: int, name: str = "prompts") -> Iterator[None]:
    """Errors about a prompt say which of several it is."""
    try:
        yield
    except (PromptError, EmptyPromptError, PositionError) as error:
        if count == 1:
            raise
        raise type(error)(f"{name}[{i}]: {error}") from None


def list_of_prompts(
    prompts: Any, attention_mask: Mask | None = None, name: str = "prompts"
) -> list[Any]:
    """Raises `PromptError` or `EmptyPromptError` unless it is a list with prompts, or a batch."""
    if isinstance(prompts, Sequence) and prompts and all(map(_is_id, prompts)):
        raise PromptError(
            f"{name} is one prompt of token ids; allowed: a list of prompts, each a text, a list of ids "
            "or a tensor [pos]. Put it into a list, [ids] (or call attribute)"
        )
    if is_conversation(prompts) and not _holds_conversations(prompts):
        raise PromptError(
            f"{name} is one conversation; allowed: a list of prompts. Put it into a list, [messages] (or "
            "call attribute)"
        )
    listed = rows(prompts, attention_mask)
    if isinstance(listed, (str, Tensor)) or not isinstance(listed, Sequence):
        raise PromptError(
            f"{name} is a {type(listed).__name__}; allowed: a list of texts, or of token ids, or a "
            "batch of token ids [batch, pos]. Put one prompt into a list (or call attribute)"
        )
    if not listed:
        raise EmptyPromptError(f"the list of {name} is empty: give at least one prompt")
    return list(listed)


def _holds_conversations(prompts: Any) -> bool:
    # Of one entry it may be a lone message, which `encode` names.
    return not isinstance(prompts, Mapping) and ("messages" in prompts[0] or len(prompts) == 1)


def _is_id(value: Any) -> bool:
    return hasattr(value, "__index__") and getattr(value, "ndim", 0) == 0
