"""Where roles stand in a prompt: positions by number, or by the text that stands there."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Union

from tl_scopes.adapter.prompts import texts
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import PositionError
from tl_scopes.results.characters import wholes
from tl_scopes.results.escapes import literal

# Where a role stands in one prompt.
Where = Union[int, str, Sequence[int]]
# Runs of tokens that hold whole characters, and where in the text each begins and ends.
Pieces = list[tuple[range, int, int]]


def located(view: ModelView, ids: Sequence[int], role: str, where: Any) -> list[int]:
    """The positions of a role in the prompt `ids`, from 0. Raises `PositionError`."""
    if isinstance(where, str):
        whole, pieces = spelled(view, ids)
        starts = [i for i in range(len(whole)) if whole.startswith(where, i)] if where else []
        if len(starts) != 1:
            times = "no times" if not starts else f"{len(starts)} times"
            raise PositionError(
                f"the text {literal(where)} of the role {role!r} stands {times} in the clean prompt; it must "
                "once: give more of the text, or positions as numbers"
            )
        return covering(pieces, starts[0], starts[0] + len(where))
    n = len(ids)
    try:
        given = [where] if hasattr(where, "__index__") else [*where]
        if any(isinstance(position, bool) for position in given):
            raise TypeError
        positions = [operator.index(position) for position in given]
    except TypeError:
        raise PositionError(
            f"the role {role!r} is at {where!r}; allowed: a position, a list of positions, or a text that "
            "stands in the clean prompt once"
        ) from None
    for position in positions:
        if not -n <= position < n:
            raise PositionError(
                f"the role {role!r} is at {position}; the prompt has {n} tokens (BOS included), so {-n} to "
                f"{n - 1} are allowed"
            )
    return [position % n for position in positions]


def spelled(view: ModelView, ids: Sequence[int]) -> tuple[str, Pieces]:
    """The text of all tokens; and of each run of them that holds whole characters where it stands."""
    whole, runs, starts = wholes(texts(view, ids))
    ends = pairwise([*starts, len(whole)])
    return whole, [(range(*run), start, end) for run, (start, end) in zip(runs, ends)]


def covering(pieces: Pieces, low: int, high: int) -> list[int]:
    """The tokens that hold some of the characters from `low` to `high`."""
    return [t for tokens, start, end in pieces if start < high and low < end for t in tokens]
