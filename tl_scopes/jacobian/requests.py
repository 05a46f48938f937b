"""What a call of `attribute` asks: prompts as ids, read positions, spans; one of each, or one a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tl_scopes.adapter.padding import Ids
from tl_scopes.adapter.prompt_lists import encode_all, list_of_prompts
from tl_scopes.adapter.prompts import Mask, bos_id, resolve_position, texts
from tl_scopes.adapter.refusals import is_conversation
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import PositionError, PromptError, ScopeParameterError
from tl_scopes.results.spans import one_span
from tl_scopes.scopes.base import Scope, check_is_scope


def check_reads_anywhere(scope: Scope, view: ModelView, ids: Ids) -> None:
    """Raises `ScopeParameterError` for a scope that reads where it says itself."""
    check_is_scope(scope)
    position = getattr(scope, "position", None)
    if position is not None:
        raise ScopeParameterError(
            f"the scope has its own position {position}, but this call says where it reads: drop one of "
            "the two"
        )
    if scope.rows(view, ids) is not None:
        raise ScopeParameterError(
            f"{type(scope).__name__} reads several positions by itself: use attribute without span, or "
            "SemanticScope(NEXT_TOKEN) here"
        )


def reads_of_span(view: ModelView, ids: Ids, span: Any, scope: Scope) -> list[int]:
    """The read positions that predict the tokens of `span`. Raises `ScopeParameterError` or
    `PositionError`."""
    check_reads_anywhere(scope, view, ids)
    if span is None:
        raise ScopeParameterError(
            "samples is for a span: give span=, a text in the prompt or (start, end), or drop samples"
        )
    if not isinstance(span, (str, tuple)):
        raise ScopeParameterError(
            f"span is {span!r}; allowed: a text in the prompt, or a range of tokens (start, end)"
        )
    names = texts(view, ids)
    start, end = one_span(names, ids[0] == bos_id(view), span)
    if start == 0:
        raise PositionError(
            "the span begins with the first token, which nothing predicts: begin it later"
        )
    return [resolve_position(position, ids) for position in range(start - 1, end - 1)]


def read_positions(positions: Any, ids: Sequence[int], need_next: bool) -> list[int]:
    """`positions` from 0; "all" leaves out the last one for a scope of the token that follows."""
    if isinstance(positions, str) and positions == "all":
        positions = range(len(ids) - need_next)
    if isinstance(positions, str) or not isinstance(positions, Iterable):
        raise PositionError(
            f'positions is {positions!r} of type {type(positions).__name__}; allowed: "all", or a '
            "list of positions"
        )
    return [resolve_position(p, ids) for p in positions]


def encoded_prompts(
    view: ModelView, prompts: Any, prepend_bos: bool | None, attention_mask: Mask | None
) -> list[Ids]:
    """Ids of every prompt of a list or batch. Raises what `encode_all` raises, and `PromptError` for text
    beside ids."""
    listed = list_of_prompts(prompts, attention_mask)
    others = [p for p in listed if not isinstance(p, str) and not is_conversation(p)]
    ids = [isinstance(p, (list, tuple, range, Mapping)) or hasattr(p, "__array__") for p in others]
    # What is neither text nor ids is for `encode_all` to name.
    if 0 < len(others) < len(listed) and all(ids):
        raise PromptError(
            "the list of prompts mixes text and token ids: give one kind, so that BOS is treated "
            "alike in all of them"
        )
    return encode_all(view, listed, prepend_bos)


def one_each(given: Any, n: int, what: str) -> list[Any]:
    """One of `given` for each of n prompts. Raises `ScopeParameterError`."""
    each = list(given) if isinstance(given, (list, tuple)) else [given] * n
    if len(each) != n:
        raise ScopeParameterError(
            f"got {len(each)} {what} for {n} prompts: give one for all, or one a prompt"
        )
    return each
