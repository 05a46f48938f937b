"""Finite differences by edits of the value that a hook shows, made where the value first comes to be: whatever reads
it sees the edit. It uses no code of tl_scopes.

A first pass notes what every operation gives, and what the hooks show; a second one runs many copies of the prompt, one
nudged in each, by adding to the result of the operation that gave the value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

STEP = 1e-5


class _Operations(TorchDispatchMode):
    """Hands the first result of every operation to `see`, and uses what that gives back in its place."""

    def __init__(self, see: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.see = see

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, (tuple, list)) and out else out
        if not isinstance(first, Tensor) or not first.is_floating_point() or not first.numel():
            return out
        seen = self.see(first)
        if seen is first:
            return out
        if func._schema.is_mutable:
            first.copy_(seen)
            return out
        return (seen, *out[1:]) if isinstance(out, (tuple, list)) else seen


@contextlib.contextmanager
def hooked(model: Any, hooks: dict[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Let functions edit what hook points show, TransformerLens's way."""
    try:
        for name, edit in hooks.items():
            model.hook_dict[name].add_hook(lambda a, hook, edit=edit: edit(a))
        yield
    finally:
        for name in hooks:
            model.hook_dict[name].remove_hooks("fwd")


def final_states(model: Any, rows: Tensor) -> Tensor:
    """What the unembedding multiplies, [row, pos, d_model]."""
    found: list[Tensor] = []
    handle = model.unembed.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    try:
        with torch.no_grad():
            model(rows, attention_mask=torch.ones_like(rows))
    finally:
        handle.remove()
    return found[0]


def _ways(out: Tensor, n: int, rows: int) -> list[Tensor]:
    """`out` as rows of `n` numbers: as it lies, and with heads before positions exchanged."""
    if out.numel() != n * rows:
        return []
    ways = [out.reshape(rows, n)]
    if out.ndim == 4 and out.shape[0] == rows:
        ways.append(out.transpose(1, 2).reshape(rows, n))
    return ways


def _first(x: Tensor) -> float:
    return float(x[(0,) * x.ndim])


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-11 + 1e-9 * abs(b)


def _way(out: Tensor, value: Tensor, rows: int) -> int | None:
    """Which of the ways shows `value` in the first row."""
    if out.numel() != rows * value.numel() or not _close(_first(out), _first(value)):
        return None
    for i, way in enumerate(_ways(out, value.numel(), rows)):
        if torch.allclose(way[0].double(), value.flatten(), rtol=1e-9, atol=1e-11):
            return i
    return None


def shown(model: Any, tokens: Tensor, names: list[str]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """What each of `names` shows, once in a pass, and how many operations before gave the same
    value without being its source."""
    given: list[tuple[Tensor, Tensor]] = []
    seen: dict[str, list[tuple[Tensor, int]]] = {}

    def note(out: Tensor) -> Tensor:
        given.append((out, out.clone()))  # `out` is kept so that its memory is not used again
        return out

    def look(name: str) -> Callable[[Tensor], Tensor]:
        return lambda a: (seen.setdefault(name, []).append((a, len(given))), a)[1]

    with hooked(model, {name: look(name) for name in names}), _Operations(note):
        final_states(model, tokens)
    values, ranks = {}, {}
    for name, fired in seen.items():
        if len(fired) != 1:
            continue
        a, before = fired[0]
        values[name] = a.detach().double().clone()
        same = [out for out, copy in given[:before] if _way(copy, values[name], 1) is not None]
        own = [i for i, out in enumerate(same) if out.data_ptr() == a.data_ptr()]
        ranks[name] = own[0] if own else 0
    return values, ranks


def _central(y: Tensor, vector: Tensor, row: int) -> float:
    return float((y[row, -1] - y[row + 1, -1]) @ vector) / (2 * STEP)


def at_source(
    model: Any,
    tokens: Tensor,
    values: dict[str, Tensor],
    ranks: dict[str, int],
    directions: dict[str, Tensor],
    vector: Tensor,
) -> dict[str, float]:
    """The derivative of `vector @ y` at the last position along each direction, for each value where
    it comes to be; absent where no operation of a batched pass gives it."""
    rows = 1 + 2 * len(values)
    start = {name: 1 + 2 * i for i, name in enumerate(values)}
    met = dict.fromkeys(values, 0)
    done: set[str] = set()

    def nudge(out: Tensor) -> Tensor:
        for name, value in values.items():
            way = None if name in done else _way(out, value, rows)
            if way is None:
                continue
            met[name] += 1
            if met[name] <= ranks[name]:
                continue
            done.add(name)
            delta = out.new_zeros(rows, value.numel())
            delta[start[name]] = STEP * directions[name].flatten()
            delta[start[name] + 1] = -STEP * directions[name].flatten()
            if way:
                delta = delta.reshape(out.transpose(1, 2).shape).transpose(1, 2)
            out = out + delta.reshape(out.shape)
        return out

    with _Operations(nudge):
        y = final_states(model, tokens.repeat(rows, 1))
    return {name: _central(y, vector, start[name]) for name in done}


def at_hook(
    model: Any, tokens: Tensor, directions: dict[str, Tensor], vector: Tensor
) -> dict[str, float]:
    """The same for an edit that the hook's own readers see."""
    rows = 1 + 2 * len(directions)
    start = {name: 1 + 2 * i for i, name in enumerate(directions)}
    shared: list[str] = []

    def nudge(name: str, a: Tensor) -> Tensor:
        if a.shape[0] != rows:  # a table for all rows
            shared.append(name)
            return a
        a = a.clone()
        a[start[name]] += STEP * directions[name][0].to(a)
        a[start[name] + 1] -= STEP * directions[name][0].to(a)
        return a

    with hooked(model, {n: lambda a, n=n: nudge(n, a) for n in directions}):
        y = final_states(model, tokens.repeat(rows, 1))
    found = {name: _central(y, vector, start[name]) for name in directions}
    for name in shared:
        y = []
        for step in (STEP, -STEP):
            edit = {name: lambda a, step=step, u=directions[name]: a + step * u.to(a)}
            with hooked(model, edit):
                y.append(final_states(model, tokens))
        found[name] = _central(torch.cat(y), vector, 0)
    return found
