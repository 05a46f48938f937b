"""Which prompts share a forward pass, and how they are padded for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from tl_scopes.jacobian.prompt_run import PromptRun

# Tokens, padding included, that share a forward pass of attribute_batch by default.
BATCH_TOKENS = 4096
# A batch may be padded if it has at most so many tokens of prompts, or if padding is at most this
# share of all.
_FEW_TOKENS = 256
_PADDING = 0.2


def grouped(runs: Sequence[PromptRun], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of prompts that share a forward pass: one read site, similar lengths, bounded size.

    Under hooks of the user's, which may count positions from either end, no row is padded.
    """
    read_sites = [str(run.read_site) for run in runs]
    group: list[int] = []
    for i in sorted(range(len(runs)), key=lambda i: (read_sites[i], runs[i].length)):
        padded = (len(group) + 1) * runs[i].length
        needed = sum(runs[j].length for j in (*group, i))
        wasteful = needed > _FEW_TOKENS and padded - needed > _PADDING * padded
        full = padded > batch_tokens or wasteful
        pads = runs[i].hooked and bool(group) and runs[group[0]].length != runs[i].length
        if group and (full or pads or read_sites[group[0]] != read_sites[i]):
            yield group
            group = []
        group.append(i)
    yield group


def padded(runs: Sequence[PromptRun]) -> Int[Tensor, "row pos"]:
    """The ids of prompts that share a forward pass, one a row."""
    width = max(run.length for run in runs)
    # Padded with a token of the row's own: the embedding of another may be unused, or NaN.
    rows = [run.run + run.ids[:1] * (width - run.length) for run in runs]
    return torch.tensor(rows, device=runs[0].view.device)
