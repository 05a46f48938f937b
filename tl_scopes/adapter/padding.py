"""Padding in token ids: taken away by an attention mask, or told from text as far as it can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tl_scopes.adapter.refusals import is_conversation
from tl_scopes.errors import PaddingError, PromptError
from tl_scopes.results.records import Chat

REMEDY = (
    "give attention_mask= (1 at tokens that are meant, 0 at padding; in a data file a column of that "
    "name), or the ids without padding"
)


class Ids(list[int]):
    """Token ids of one prompt, checked.

    `end`: where pad tokens begin that end the prompt and that no mask has spoken of; the prompt's
    length where there are none. `padding`: which token that is, in words. `chat`: whose each token
    is, where the prompt is a conversation.
    """

    def __init__(
        self,
        ids: Iterable[int],
        end: int | None = None,
        padding: str = "",
        chat: Chat | None = None,
    ) -> None:
        super().__init__(ids)
        self.end = len(self) if end is None else end
        self.padding = padding
        self.chat = chat


def chat_of(ids: Sequence[int], n: int) -> Chat | None:
    """Whose each of the first `n` tokens is, in a conversation; those after the prompt are its answer."""
    chat = ids.chat if isinstance(ids, Ids) else None
    if chat is None:
        return None
    more, last = max(0, n - len(chat.messages)), len(chat.roles) - 1
    return replace(
        chat,
        messages=(*chat.messages[:n], *[last] * more),
        is_content=(*chat.is_content[:n], *[True] * more),
    )


def padded_end(ids: Sequence[int]) -> int:
    """Where padding at the end of a prompt begins, as far as it is known."""
    return ids.end if isinstance(ids, Ids) else len(ids)


def following(ids: Sequence[int], position: int) -> int | None:
    """The token after `position` in the prompt; None at its end, or before what may be padding."""
    return ids[position + 1] if position + 1 < padded_end(ids) else None


def refuse_read(ids: Sequence[int], position: int) -> None:
    """Raises `PaddingError` where a read would be at what may be padding."""
    if isinstance(ids, Ids) and position >= ids.end:
        raise PaddingError(
            f"position {position} is a pad token {ids.padding} at the end of the prompt, where nothing is "
            f"predicted if it is padding: {REMEDY}, or read at {ids.end - 1} or before"
        )


def parts(prompt: Mapping[str, Any], attention_mask: Any) -> tuple[Any, Any]:
    """Ids and mask of what a tokenizer returned. Raises `PromptError`."""
    if "input_ids" not in prompt:
        raise PromptError(
            f"the prompt is a {type(prompt).__name__} with the keys {', '.join(map(repr, prompt))}; "
            "allowed: text, token ids, or what a tokenizer returns, with 'input_ids' and "
            "'attention_mask'"
        )
    own = prompt.get("attention_mask")
    if own is not None and attention_mask is not None:
        raise PaddingError(
            "attention_mask is given twice, by itself and with the prompt: drop one of the two"
        )
    return prompt["input_ids"], attention_mask if own is None else own


def masked(ids: Sequence[int], attention_mask: Any) -> Ids:
    """The ids that the mask keeps. Raises `PaddingError` unless it fits and they are in a row."""
    try:
        mask = torch.as_tensor(attention_mask, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        mask = None
    if mask is None or mask.dtype.is_complex:
        raise PaddingError(
            f"attention_mask is a {type(attention_mask).__name__} that does not hold numbers; "
            "allowed: 1 or 0 for each token"
        )
    if mask.ndim == 2 and len(mask) == 1:
        mask = mask[0]
    if mask.shape != (len(ids),):
        raise PaddingError(
            f"attention_mask has the shape {tuple(mask.shape)}, but the prompt has {len(ids)} tokens: "
            "give one number for each token, 1 where it is meant and 0 where it is padding"
        )
    wrong = mask[(mask != 0) & (mask != 1)]
    if len(wrong):
        raise PaddingError(
            f"attention_mask holds {wrong[0].item()}; allowed: 1 where a token is meant, 0 where it is "
            "padding"
        )
    kept = mask.nonzero()[:, 0].tolist()
    if not kept:
        raise PaddingError(
            "attention_mask is 0 everywhere, so that no token is left: give 1 where a token is meant"
        )
    if kept[-1] - kept[0] + 1 != len(kept):
        raise PaddingError(
            f"attention_mask has a hole: it is 0 between positions {kept[0]} and {kept[-1]}, where it is "
            "1. Only padding before or after the prompt can be taken away: give 1 in between, or ids "
            "without these tokens"
        )
    return Ids(ids[kept[0] : kept[-1] + 1])


def unmasked(ids: Sequence[int], tokenizer: Any) -> Ids:
    """Ids without a mask. Raises `PaddingError` where pad tokens come first."""
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or pad not in ids:
        return Ids(ids)
    # A BOS that is the pad token too, as in GPT-2, is no padding; two of them are refused elsewhere.
    start = int(ids[0] == tokenizer.bos_token_id)
    text = next((i for i in range(start, len(ids)) if ids[i] != pad), len(ids))
    if text > start and pad != tokenizer.bos_token_id:
        raise PaddingError(
            f"the prompt begins with {text - start} pad token{'s' * (text - start > 1)} "
            f"{_named(tokenizer)}, which the model would read as text: {REMEDY}"
        )
    end = len(ids)
    while end > start and ids[end - 1] == pad:
        end -= 1
    return Ids(ids, end, _named(tokenizer))


def _named(tokenizer: Any) -> str:
    pad = tokenizer.pad_token_id
    roles = ("bos", "eos", "unk", "sep")
    too = [r.upper() for r in roles if getattr(tokenizer, f"{r}_token_id", None) == pad]
    also = f", also its {' and '.join(too)} token, which may be meant" if too else ""
    return f"({tokenizer.pad_token!r}, id {pad}{also})"


def rows(prompts: Any, attention_mask: Any = None) -> Any:
    """A padded batch as a list of prompts, each with its mask; any other value as it is.

    Raises `PaddingError` for masks that are not one a prompt.
    """
    if isinstance(prompts, Mapping):
        ids, attention_mask = parts(prompts, attention_mask)
        if _sized(ids) and len(ids) and not _sized(ids[0]):
            return [{"input_ids": ids, "attention_mask": attention_mask}]
        prompts = ids
    if hasattr(prompts, "__array__") and getattr(prompts, "ndim", 0) == 2:
        prompts = list(prompts)
    if attention_mask is None or isinstance(prompts, (str, Tensor)) or not _sized(prompts):
        return prompts
    if not _sized(attention_mask) or len(attention_mask) != len(prompts):
        got = f"{len(attention_mask)} rows" if _sized(attention_mask) else repr(attention_mask)
        raise PaddingError(
            f"attention_mask has {got} for {len(prompts)} prompts: give one row a prompt"
        )
    return [p if m is None else _pair(p, m) for p, m in zip(prompts, attention_mask)]


def _pair(prompt: Any, attention_mask: Any) -> dict[str, Any]:
    if isinstance(prompt, Mapping) and not is_conversation(prompt):
        prompt, attention_mask = parts(prompt, attention_mask)
    return {"input_ids": prompt, "attention_mask": attention_mask}


def _sized(value: Any) -> bool:
    return isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0
