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
    """Indices of prompts that share a forward pass: one read site, the same gradient rules, all spans or
    none, similar lengths, bounded size.

    Under hooks of the user's, which may count positions from either end, no row is padded.
    """
    read_sites = [(str(run.read_site), str(run.rules), bool(run.span)) for run in runs]
    lengths = [[len(row) for row in run.rows] for run in runs]
    group: list[int] = []
    for i in sorted(range(len(runs)), key=lambda i: (read_sites[i], runs[i].length)):
        sizes = [lengths[j] for j in (*group, i)]
        padded = sum(map(len, sizes)) * max(map(max, sizes))
        needed = sum(map(sum, sizes))
        wasteful = needed > _FEW_TOKENS and padded - needed > _PADDING * padded
        full = padded > batch_tokens or wasteful
        pads = runs[i].hooked and bool(group) and runs[group[0]].length != runs[i].length
        if group and (full or pads or read_sites[group[0]] != read_sites[i]):
            yield group
            group = []
        group.append(i)
    yield group


def padded(runs: Sequence[PromptRun]) -> Int[Tensor, "row pos"]:
    """The ids of prompts that share a forward pass, one a row; of a comparison a second one."""
    rows = [row for run in runs for row in run.rows]
    width = max(map(len, rows))
    # Padded with a token of the row's own: the embedding of another may be unused, or NaN.
    whole = [row + row[:1] * (width - len(row)) for row in rows]
    return torch.tensor(whole, device=runs[0].view.device)


def owners(runs: Sequence[PromptRun]) -> list[int]:
    """Which prompt each of the rows of `padded` is of."""
    return [i for i, run in enumerate(runs) for _ in run.rows]
