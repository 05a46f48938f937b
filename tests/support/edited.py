"""A zoo model's own forward pass with activations edited by plain hooks: nothing of tl_scopes is in it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from support import reference, zoo
from support.reference import POSITION, TOKENS, RefSite

Edit = Callable[[Tensor], Tensor]


def logits(
    name: str,
    edits: dict[RefSite, Edit],
    tokens: Sequence[int] = TOKENS,
    position: int = POSITION,
) -> Tensor:
    """The logits at the read position, [row, d_vocab]: as many rows as an edit returns."""
    ref = reference.of(name)
    with contextlib.ExitStack() as undo, zoo.exact_float64():
        for site, edit in edits.items():
            undo.callback(ref._edit(site, edit))
        return ref.model(torch.tensor([list(tokens)]))[:, position]


def activation(name: str, site: RefSite, tokens: Sequence[int] = TOKENS) -> Tensor:
    """What is at a site, [pos, ...]."""
    seen: list[Tensor] = []
    with torch.no_grad():
        logits(name, {site: lambda a: seen.append(a.clone()) or a}, tokens, -1)
    return seen[0][0]


@functools.cache
def vocabulary(name: str) -> Tensor:
    """The embedding of every token, [d_vocab, d_model], as the first block's stream receives it."""
    ids = range(zoo.shared(name).cfg.d_vocab)
    width = zoo.N_CTX
    rows = [activation(name, "embed", ids[i : i + width]) for i in range(0, len(ids), width)]
    return torch.cat(rows)


def gradient(name: str, site: RefSite, at: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of the scalar `fn(logits at the read position)` where the activation is `at`, [pos, ...]."""
    leaf = at.clone().requires_grad_()
    value = fn(logits(name, {site: lambda a: leaf[None].to(a)})[0])
    return torch.autograd.grad(value, leaf)[0]


def log_prob(token: int) -> Callable[[Tensor], Tensor]:
    return lambda z: z.log_softmax(-1)[..., token]
