"""Seconds and memory of each scope, and how long a prompt may be."""

from __future__ import annotations

from typing import Any

import torch

from tl_scopes.attribution import attribute
from tl_scopes.checking.finding import Cost
from tl_scopes.checking.spent import free_mib, seconds, spent
from tl_scopes.checking.subject import Subject
from tl_scopes.errors import ScopesError
from tl_scopes.jacobian.checkpointing import kept_bytes
from tl_scopes.scopes.prediction import (
    FisherScope,
    LogitDifferenceScope,
    SemanticScope,
    TemperatureScope,
)

# On Gemma-3-270M's measured peaks from 1,024 to 8,192 tokens: what a longer prompt takes, over the
# estimate for one block and the inputs of all. Allocators and gradients take the rest.
_OVER_ESTIMATE = 2.5
_LONGEST = 1 << 20


def scopes() -> dict[str, Any]:
    return {
        "semantic": SemanticScope(),
        "logit difference": LogitDifferenceScope(0, 1),
        "temperature": TemperatureScope(),
        "Fisher, rank 1": FisherScope(rank=1),
        "Fisher, rank 4": FisherScope(rank=4),
    }


def bare_seconds(at: Subject) -> float:
    """Of a forward pass without gradients, the faster of two."""
    tokens = torch.tensor([at.ids], device=at.view.device)

    def run() -> None:
        with torch.no_grad():
            at.view.forward(tokens)

    return min(seconds(run) for _ in range(2))


def cost(at: Subject, name: str, scope: Any, bare: float) -> Cost:
    """What `scope` takes on the whole prompt, or why it is refused."""
    try:
        taken, mib = spent(lambda: attribute(at.model, at.ids, scope), at.devices)
    except ScopesError as error:
        return Cost(name, len(at.ids), None, None, None, str(error))
    return Cost(name, len(at.ids), taken, taken / bare, mib)


def longest(at: Subject, mib: float | None) -> tuple[int | None, float | None]:
    """About how many tokens a prompt may have in the memory that is free, and that memory in MiB.

    `mib`: what a call on the whole prompt of `at` was seen to take.
    """
    free, context = free_mib(at.devices), at.view.n_ctx or _LONGEST
    if free is None:
        return None, None

    def needed(tokens: int) -> float:
        view = at.view
        inputs = view.n_layers * tokens * view.d_model * view.dtype.itemsize
        return (kept_bytes(view, 1, tokens) / max(1, view.n_layers) + inputs) / 2**20

    length = len(at.ids)
    low, high = 1, context
    while low < high:
        tokens = (low + high + 1) // 2
        more = max(0.0, needed(tokens) - needed(length))
        fits = (mib or 0.0) + _OVER_ESTIMATE * more <= free
        low, high = (tokens, high) if fits else (low, tokens - 1)
    return low, free
