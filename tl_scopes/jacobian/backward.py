"""Vector-Jacobian products in chunks of directions, reduced to scores as the backward pass goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.view import ModelView

# Memory that the gradients of one batched backward pass may take, as far as can be estimated.
BUDGET_BYTES = 1 << 30


def default_chunk(view: ModelView, rows: int, width: int, sparing: bool = False) -> int:
    """Directions per backward pass, so that the live gradients stay near `BUDGET_BYTES`, or near
    half of it if `sparing`, where blocks are run again to keep little."""
    cfg, size = view.cfg, view.dtype.itemsize
    d_mlp = int(getattr(cfg, "d_mlp", 0) or 0)
    # Four tensors as large as the patterns live while softmax, taken in float32, is gone through.
    a_token = 4 * max(size, 4) * int(cfg.n_heads) * width + 4 * size * max(view.d_model, d_mlp)
    return max(1, min(64, BUDGET_BYTES // (2 if sparing else 1) // (rows * width * a_token)))


def norms_at(
    view: ModelView,
    read: Float[Tensor, "read *d"],
    slots: list[Tensor],
    cotangents: Callable[[range], Float[Tensor, "direction read *d"]],
    total: int,
    chunk: int,
) -> Iterator[tuple[range, list[Tensor | None]]]:
    """Pull `total` cotangents, made chunk by chunk, back from `read` to the slots.

    Yields, chunk by chunk, the directions done and the norms at each slot,
    [direction, batch, pos, ...] (None for a slot with no path to what is read). Directions of one chunk
    share a batched backward pass where every operation of the model allows it, else they loop.
    """
    for start in range(0, total, chunk):
        done = range(start, min(start + chunk, total))
        yield done, pull(view, [read], slots, [cotangents(done)], retain=done.stop < total)


def pull(
    view: ModelView,
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Float[Tensor, "direction ..."]],
    retain: bool = True,
) -> list[Tensor | None]:
    """`v^T d outputs / d inputs` for each direction v: [direction, ...] an input, None off the graph.

    In one batched backward pass where every operation of the model allows it, else one by one.
    """
    if not any(output.requires_grad for output in outputs):
        return [None] * len(inputs)
    live = [(o, v) for o, v in zip(outputs, cotangents) if o.requires_grad]
    read, vs = [o for o, _ in live], [v for _, v in live]
    n = len(vs[0])
    failed = False
    if n > 1 and not _must_loop(view):
        try:
            return list(
                torch.autograd.grad(
                    read, inputs, vs, retain_graph=True, is_grads_batched=True, allow_unused=True
                )
            )
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError, ValueError) as error:
            # An operation without a batching rule. A real fault shows again in the loop below.
            failed = "allocate memory" not in str(error)
    each = [
        torch.autograd.grad(
            read, inputs, [v[i] for v in vs], retain_graph=retain or i + 1 < n, allow_unused=True
        )
        for i in range(n)
    ]
    if failed:
        # Under the same hooks it would fail again, and after them it may not.
        view.loops_backward = _conditions(view)
    return [None if column[0] is None else torch.stack(column) for column in zip(*each)]


def _must_loop(view: ModelView) -> bool:
    """Whether a batched pass failed under what is so now."""
    return view.loops_backward is not None and view.loops_backward == _conditions(view)


def _conditions(view: ModelView) -> tuple[Any, ...]:
    return torch.is_anomaly_enabled(), view.circumstances()
