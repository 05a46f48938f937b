"""Altered copies of a prompt: what stands before the first altered token is run once, for all of them.

In a causal model nothing before a token depends on it. So its keys and values are kept, and a copy goes on
from there. Copies are put in groups that share a start, such that the fewest tokens are run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Union

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.middle import tolerance
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import Edit
from tl_scopes.errors import SiteError, UnsupportedModelError
from tl_scopes.jacobian import prompt_run as runs
from tl_scopes.jacobian.forward import read_under
from tl_scopes.jacobian.key_values import KeyValues

# What a pass costs beside its tokens, as so many tokens: where they are many at once on an accelerator,
# the number of passes is what counts.
PASS_ON_CPU, PASS_ELSEWHERE = 64, 2048
# Places where a group may start.
_STARTS = 32
# By how much of its size the final state of the intact prompt may differ.
_APART = {torch.float64: 1e-6, torch.float32: 1e-4}

# Which rows, None for the intact prompt, and the position that their edits begin with.
Edits = Callable[[Sequence[Union[int, None]], int], Mapping[Site, Edit]]
_Group = tuple[int, list[int]]


def states_after_prefix(
    prompt_run: runs.PromptRun, firsts: Sequence[int | None], edits: Edits
) -> Float[Tensor, "row *read d_model"] | None:
    """The final state of copies of the prompt, each with the first position that its edits alter (None: it
    is intact); of a span one for each read.

    None where that does not pay, or where it is not what whole passes give: under hooks of the user's,
    without a cache of keys and values, or with one that makes another model of it. That is told by
    the intact prompt's final state. Inside `prompt_run.locked()`, without gradients.
    """
    if prompt_run.hooked or prompt_run.others or prompt_run.read_site is not None:
        return None
    groups = _groups(prompt_run, firsts)
    if not groups:
        return None
    if ("final state",) not in prompt_run.remembered:
        prompt_run.look()
    intact = prompt_run.remembered["final state",]
    whole = intact if prompt_run.span else intact[None]
    try:
        states = _states(prompt_run, whole, len(firsts), groups, edits)
    except (
        UnsupportedModelError,
        SiteError,
    ):  # a whole pass will say what it is, if it is there too
        return None
    return states if states is None or prompt_run.span else states[:, 0]


def _states(
    prompt_run: runs.PromptRun,
    intact: Float[Tensor, "read d_model"],
    rows: int,
    groups: Sequence[_Group],
    edits: Edits,
) -> Float[Tensor, "row read d_model"] | None:
    view, ids = prompt_run.view, prompt_run.run
    places = [p for _, p in prompt_run.span] or [prompt_run.position]
    past, states = KeyValues(view), intact.repeat(rows, 1, 1)
    shared = [start for start, _ in groups if start]
    for start, members in groups:
        if start:
            past.grow(ids[past.held : start])
            if past.held != start:
                return None
        # Where copies go on longest, and where most is held.
        checked = [None] if start in (shared[0], shared[-1]) else []
        late = [i for i, place in enumerate(places) if place >= start]
        most = max(1, runs.BATCH_TOKENS // (len(ids) - start))
        queue = [*members, *checked]
        for begin in range(0, len(queue), most):
            chunk = queue[begin : begin + most]
            tokens = torch.tensor([ids[start:]] * len(chunk), device=view.device)
            given = past.copies(len(chunk)) if start else {}
            y = read_under(view, tokens, edits(chunk, start), past=given)
            y = y[:, [places[i] - start for i in late]]
            if chunk[-1] is None and not _same(y[-1], intact[late]):
                return None
            own = torch.tensor([i for i in chunk if i is not None], dtype=torch.long, device="cpu")
            states[own.to(states.device)[:, None], late] = y[: len(own)]
    return states


def _same(y: Float[Tensor, "read d_model"], intact: Float[Tensor, "read d_model"]) -> bool:
    apart, size = (torch.linalg.vector_norm(x.double(), dim=-1) for x in (y - intact, intact))
    return bool((apart <= _APART.get(y.dtype, tolerance(y.dtype)) * size).all())


def _groups(prompt_run: runs.PromptRun, firsts: Sequence[int | None]) -> list[_Group]:
    """Starts and their rows, such that passes cost least; none where whole passes do not cost more."""
    width = prompt_run.length
    one = PASS_ON_CPU if prompt_run.view.device.type == "cpu" else PASS_ELSEWHERE
    step = max(1, width // _STARTS)
    by_start: dict[int, list[int]] = {}
    for row, first in enumerate(firsts):
        if first is not None:
            by_start.setdefault(first // step * step, []).append(row)
    starts = sorted(by_start)

    def cost(start: int, rows: int) -> int:
        tokens = rows * (width - start)
        return tokens + one * math.ceil(tokens / runs.BATCH_TOKENS)

    # The cheapest way to run the rows of the first so many starts: its cost, and its groups.
    best: list[tuple[int, list[_Group]]] = [(0, [])]
    for end in range(1, len(starts) + 1):
        ways = []
        for begin in range(end):
            start, before = starts[begin], best[begin]
            rows = [row for s in starts[begin:end] for row in by_start[s]]
            grown = one if start else 0
            price = before[0] + cost(start, len(rows)) + grown
            ways.append((price, [*before[1], (start, rows)]))
        best.append(min(ways, key=lambda way: way[0]))
    price, groups = best[-1]
    shared = [start for start, _ in groups if start]
    if not shared:
        return []
    price += shared[-1] + sum(width - start for start in {shared[0], shared[-1]})
    return groups if price < cost(0, len(firsts)) else []
