"""In which order the tokens of a prompt are replaced: by its own scores, and by those of other prompts.

The others know where tokens stand and nothing of what they say.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tl_scopes.errors import PositionError, TargetError
from tl_scopes.evaluation.methods import ranked
from tl_scopes.evaluation.settings import Settings
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.scopes.continuation import ContinuationScope


@dataclass(frozen=True)
class Ordered:
    """A prompt with the positions that may be replaced, and their order by each method.

    `after`: the tokens of a continuation, if it is measured. `n`: the number of tokens of which shares
    are taken.
    """

    prompt_run: PromptRun
    after: list[int] | None
    scores: dict[str, Tensor]
    n: int
    places: range
    orders: dict[str, list[int]]


def ordered(
    prompt_run: PromptRun,
    after: list[int] | None,
    scores: dict[str, Tensor],
    settings: Settings,
) -> Ordered:
    """Raises `TargetError` or `PositionError` where there is nothing to measure, or to replace."""
    view, ids, at = prompt_run.view, prompt_run.ids, prompt_run.position
    if after is not None:
        scope = ContinuationScope(after)
        prompt_run = PromptRun.explaining(view, ids, scope, -1, prompt_run.hooked)
    if settings.target == "gold" and after is None and prompt_run.next_id is None:
        raise TargetError(
            "the gold target is the token after the read position, but the prompt ends there: use "
            'position=-2, or target="predicted"'
        )
    # What follows the read position cannot matter, but would stand before negative scores.
    places = range(prompt_run.first, at + 1 - settings.spare_last)
    if not places:
        raise PositionError(
            f"position {at} is BOS, before which nothing can be replaced: read later"
            if at < prompt_run.first
            else f"spare_last={settings.spare_last} spares all {at + 1 - prompt_run.first} tokens up to "
            f"position {at} that could be replaced: spare fewer, or give longer prompts"
        )
    orders = {name: ranked(own[: places.stop], places.start) for name, own in scores.items()}
    n = len(ids) - prompt_run.first - settings.spare_last
    return Ordered(prompt_run, after, scores, n, places, orders)


def elsewhere(
    every: Mapping[int, Ordered], index: int, settings: Settings
) -> list[dict[str, list[int]]]:
    """The places that each method ranks highest in as many as `settings.matched` other prompts.

    Places are counted back from the last one. Prompts as long as prompt `index` come first, drawn by the
    seed, then the longest; what a shorter one has no token for follows in a random order.
    """
    own = every[index]
    draws = random.Random(f"{settings.seed}:{index}")
    others = [i for i in every if i != index]
    draws.shuffle(others)
    others.sort(key=lambda i: -min(len(every[i].places), len(own.places)))
    return [
        {
            name: _moved(order, every[i].places, own.places, draws)
            for name, order in every[i].orders.items()
        }
        for i in others[: settings.matched]
    ]


def _moved(order: list[int], there: range, here: range, draws: random.Random) -> list[int]:
    places = [here.stop - (there.stop - t) for t in order]
    known = [t for t in places if t in here]
    rest = sorted(set(here).difference(known))
    draws.shuffle(rest)
    return known + rest
