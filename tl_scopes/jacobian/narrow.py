"""The last block's MLP, run for the read positions alone: what it gives the others reaches no read."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import ModelView

# Where more of the positions are read, picking them out saves nothing.
_MOST_READ = 0.5
# Share of the largest output by which two positions' sums may differ in any precision.
_MOST_ROUNDING = 0.03


def narrow_last_mlp(
    view: ModelView,
    undo: ExitStack,
    sites: Sequence[Site],
    reads: tuple[list[int], list[int]],
    shape: torch.Size,
) -> None:
    """Until `undo`, have it see [1, read, d_model] of its [batch, pos, d_model], zeros for the rest.

    `reads`: rows and positions. Only where `learn` found that positions do not mix, and neither a
    hook nor a site would notice.
    """
    watched = any(site.is_named and site.block == view.n_layers - 1 for site in sites)
    # Each once: what is put at a place twice would pull twice its gradient back.
    places = list(dict.fromkeys(zip(*reads)))
    few = len(places) <= _MOST_READ * shape.numel()
    mlp = last_mlp(view)
    known = view.positionwise_mlp
    if mlp is None or known is None or known() is not mlp or watched or not few:
        return
    rows, columns = (torch.tensor(index, device=view.device) for index in zip(*places))

    def take(x: Tensor) -> Tensor:
        return x[rows.to(x.device), columns.to(x.device)][None]

    def put(y: Tensor) -> Tensor:
        whole = y.new_zeros(*shape, y.shape[-1])
        return whole.index_put((rows.to(y.device), columns.to(y.device)), y[0])

    view.tap_module(undo, mlp, take, put)


def learn(view: ModelView, mlp: nn.Module, x: Tensor | None) -> None:
    """Find out, from an input [1, pos, d_model] of the last MLP, whether its positions mix."""
    view.positionwise_mlp = None
    if x is None or x.ndim != 3:
        return
    x = torch.cat([x, x[:, -1:].flip(-1)], dim=1)  # a prompt may be one token
    try:
        whole, alone = _first(mlp(x)), _first(mlp(x[:, -1:]))
    except Exception:  # BLOOM's also wants the stream that it adds to, DeepSeek V4's the tokens
        return
    if isinstance(whole, Tensor) and isinstance(alone, Tensor) and alone.shape == x[:, -1:].shape:
        error = (whole[:, -1:] - alone).abs().max()
        rounding = min(_MOST_ROUNDING, 256 * torch.finfo(x.dtype).eps)
        # What gives zeros may mix positions once its weights are others.
        if error <= rounding * whole.abs().max() and whole.any():
            view.positionwise_mlp = weakref.ref(mlp)


def last_mlp(view: ModelView) -> nn.Module | None:
    """The last block's MLP, where it is one module that no hook watches."""
    if not view.n_layers:
        return None
    block: Any = view.model.blocks[view.n_layers - 1]
    mlp = getattr(block, "mlp", None)
    return mlp if isinstance(mlp, nn.Module) and not view.is_hooked_inside(block) else None


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out
