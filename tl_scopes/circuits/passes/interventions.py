"""Real interventions: parts of activations moved in a forward pass, many copies of a prompt at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.circuits.passes.trace import CircuitRun, Trace
from tl_scopes.errors import NumericalError
from tl_scopes.jacobian.prompt_run import BATCH_TOKENS
from tl_scopes.scopes.base import Read


@dataclass(frozen=True, eq=False)
class Move:
    """One intervention: what is added to the activation at `site`, [pos, ...]."""

    site: Site
    delta: Tensor


def scalars(trace: Trace, moves: Sequence[Move], step: float = 1.0) -> Float[Tensor, "row"]:
    """The change of the scope's scalar under each move, scaled by `step`, from real forward passes.

    For a scope with several vectors, the quadratic form of the change of what is read. Inside
    `view.locked()`. Raises `NumericalError` where an intervention overflows.
    """
    prompt_run = trace.prompt_run
    size = max(1, BATCH_TOKENS // prompt_run.length - 1)
    chunks = (moves[start : start + size] for start in range(0, len(moves), size))
    out = torch.cat([_changes(trace, chunk, step) for chunk in chunks])
    if not torch.isfinite(out).all():
        raise NumericalError(
            "an intervention gives NaN or infinity: check the model's weights and hooks, or use "
            "another intervention"
        )
    return out


def _changes(trace: Trace, moves: Sequence[Move], step: float) -> Float[Tensor, "row"]:
    prompt_run, answer = trace.prompt_run, trace.answer
    # Unmoved once more in the same batch, whose rounding may differ from that of one row.
    rows = [None, *moves]
    if prompt_run.hooked:  # by hooks that may be made for one row
        values = torch.cat([_reads(prompt_run, [row], step) for row in rows])
    else:
        values = _reads(prompt_run, rows, step)
    # Small changes would be lost in the rounding of half precision.
    values = values.to(working_dtype(values.dtype))
    head = answer.read.head
    # Of a span the scope itself takes up logits, a few reads at a time.
    alone = prompt_run.read_site is None and not prompt_run.span
    raw = head.raw_logits(values) if alone else [None] * len(values)
    before, *after = (replace(answer.read, value=v, raw=z) for v, z in zip(values, raw))
    start = _scalar(trace, before, before)
    return torch.stack([_scalar(trace, read, before) - start for read in after]).double().cpu()


def _scalar(trace: Trace, read: Read, before: Read) -> Tensor:
    answer = trace.answer
    at = before if trace.squared else answer.read
    return answer.scope.scalar(read, answer.explained, at)


@torch.no_grad()
def _reads(
    prompt_run: CircuitRun, moves: Sequence[Move | None], step: float
) -> Float[Tensor, "row *d"]:
    """What is read with each move in a row of its own (None: with nothing moved)."""
    at: dict[Site, list[int]] = {}
    deltas = {row: move.delta for row, move in enumerate(moves) if move is not None}
    for row, move in enumerate(moves):
        if move is not None:
            at.setdefault(move.site, []).append(row)

    def edit(rows: list[int], activation: Tensor) -> Tensor:
        out = activation.clone()
        for row in rows:
            out[row] += (step * deltas[row]).to(out)
        return out

    edits = {site: lambda a, rows=rows: edit(rows, a) for site, rows in at.items()}
    return prompt_run.states(len(moves), edits)
