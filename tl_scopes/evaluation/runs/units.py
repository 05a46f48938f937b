"""Which prompts are measured together: a function of the prompts' ids and two numbers alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tl_scopes.adapter.padding import refuse_read
from tl_scopes.adapter.prompts import encode
from tl_scopes.adapter.refusals import is_conversation
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import PromptError

# Padded tokens of a unit, beyond which it takes no further prompt.
UNIT_TOKENS = 4096


@dataclass(frozen=True)
class Encoded:
    """The prompts as ids: `ids[i]`, or the error in `errors[i]` where ids are None."""

    ids: list[list[int] | None]
    errors: dict[int, Exception]


def encoded(model: Any, prompts: Sequence[Any], prepend_bos: bool | None) -> Encoded:
    """Every prompt as ids, or its error."""
    view = view_of(model)
    ids: list[list[int] | None] = []
    errors: dict[int, Exception] = {}
    for i, prompt in enumerate(prompts):
        try:
            if prompt is None:
                raise PromptError("the prompt is missing (null in the data): fill it in")
            bos = prepend_bos if isinstance(prompt, str) or is_conversation(prompt) else None
            tokens = encode(view, prompt, bos)
            # Shares are of all tokens, those after the read too.
            refuse_read(tokens, len(tokens) - 1)
            ids.append(tokens)
        except Exception as error:  # tokenizers raise errors of their own
            ids.append(None)
            errors[i] = error
    return Encoded(ids, errors)


def units(ids: Sequence[Sequence[int] | None], size: int) -> list[list[int]]:
    """Indices of prompts to measure together: of similar length, at most `size` of them.

    In an order of their own, shuffled, so that any part of the list takes its share of the time.
    """
    order = sorted(
        (i for i, row in enumerate(ids) if row is not None), key=lambda i: (len(ids[i] or ()), i)
    )
    plan: list[list[int]] = []
    for i in order:
        width = len(ids[i] or ())
        if not plan or len(plan[-1]) >= size or (len(plan[-1]) + 1) * width > UNIT_TOKENS:
            plan.append([])
        plan[-1].append(i)
    random.Random(0).shuffle(plan)
    return plan
