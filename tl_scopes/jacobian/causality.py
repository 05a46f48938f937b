"""Whether later tokens change what the model computes at earlier ones, tested with other tokens."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from tl_scopes.adapter.middle import tolerance
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import UnsupportedModelError
from tl_scopes.jacobian.culprits import hooks_named
from tl_scopes.jacobian.forward import read_under


def refuse(view: ModelView, worst: tuple[float, int] | None) -> None:
    """Raise `UnsupportedModelError` where `lookahead` found that later tokens change a final state."""
    if worst is not None and not worst[0] <= tolerance(view.dtype):
        share, position = worst
        raise UnsupportedModelError(
            f"the model is not causal: tokens after position {position} change its final state there, by "
            f"{share:.2g} of its size, and only causal models can be explained{hooks_named(view)}. Remove "
            "a hook or mask that looks ahead, or use a decoder-only language model"
        )


def lookahead(
    view: ModelView, tokens: Int[Tensor, "1 pos"], alone: bool = False
) -> tuple[float, int] | None:
    """By how much of its size a final state changes when tokens after it do, at most, and where.

    One pass over three rows: the prompt, with another last token, and with another second half. None
    for a prompt of one token, or where a pass gives NaN. Zero to rounding for a causal model. `alone`: row
    by row, for hooks made for one. Inside `view.locked()`, under the user's hooks.
    """
    ids = tokens[0]
    if len(ids) < 2:
        return None
    starts = sorted({len(ids) - 1, (len(ids) + 1) // 2}, reverse=True)
    other = ids.roll(1)  # tokens of the prompt: those of a vocabulary may be unused, or NaN
    other[other == ids] = (ids[other == ids] + 1) % view.cfg.d_vocab
    rows = torch.stack([ids, *(torch.cat([ids[:k], other[k:]]) for k in starts)])
    with torch.no_grad():
        y = torch.cat([read_under(view, r, {}) for r in rows.split(1 if alone else len(rows))])
    sizes = torch.linalg.vector_norm(y[0].double(), dim=-1)
    changes = []
    for k, row in zip(starts, y[1:]):
        change = torch.linalg.vector_norm((row - y[0])[:k].double(), dim=-1)
        shares = change / sizes[:k].clamp_min(1e-300)
        changes.append((float(shares.max()), int(shares.argmax())))
    worst = max(changes)
    return worst if torch.isfinite(y).all() else None
