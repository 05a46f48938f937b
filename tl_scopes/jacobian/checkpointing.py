"""Long prompts: blocks whose forward pass is run again on the way back, so that little is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tl_scopes.adapter.view import ModelView

# Activations that a forward pass may keep for its backward pass before blocks are run again instead.
BUDGET_BYTES = 2 << 30


def exceeds_budget(view: ModelView, rows: int, width: int) -> bool:
    """Whether the activations of `rows` prompts of `width` tokens are too many to keep.

    On a CPU more than `BUDGET_BYTES`, on another device more than half of its free memory.
    """
    budget = BUDGET_BYTES
    if view.device.type == "cuda":
        budget = torch.cuda.mem_get_info(view.device)[0] // 2
    return kept_bytes(view, rows, width) > budget


def kept_bytes(view: ModelView, rows: int, width: int) -> int:
    """About what autograd keeps of a forward pass: attention patterns, what is linear in length, and
    the copies of its weights that a HookedTransformer makes on the way.

    Fitted to what is kept of 60 tiny models, of the bundled ones and at Llama-3.2-1B's shape.
    """
    cfg, size = view.cfg, view.dtype.itemsize
    heads = int(cfg.n_heads)
    # Softmax is taken in float32, and its output kept beside the copy in the model's dtype.
    an_entry = size if size >= 4 else 4 + size
    if getattr(cfg, "attn_scores_soft_cap", 0) and cfg.attn_scores_soft_cap > 0:
        an_entry += size
    d_mlp = int(getattr(cfg, "d_mlp", None) or 4 * view.d_model)
    d_mlp *= int(getattr(cfg, "experts_per_token", None) or 1)
    streams = (10 if view.is_bridge else 24) * (view.d_model + heads * int(cfg.d_head))
    a_token = an_entry * heads * width + 4 * size * d_mlp + streams
    copies = 0 if view.is_bridge else sum(p.nbytes for p in view.model.blocks.parameters())
    return view.n_layers * rows * width * a_token + copies


def recompute_blocks(
    view: ModelView,
    undo: ExitStack,
    spared: int | None,
    again: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Until `undo`, have forward passes keep the input of each block only. `again`: what each second run
    is inside of, which must keep the same tensors as the first.

    Blocks with hooks inside are run as ever, so that each hook fires once; so is the `spared` one,
    whose run may be cut short. Taps set later on do not count: nothing of theirs is kept.
    """
    for layer, block in enumerate(view.model.blocks):
        if layer != spared and not view.is_hooked_inside(block):
            _replace_forward(undo, block, _recomputed(block.forward, again))


def _recomputed(
    forward: Callable[..., Any], again: Callable[[], AbstractContextManager[Any]]
) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(x, Tensor) and x.requires_grad for x in (*args, *kwargs.values())):
            # The graph starts at a site inside, if it does: a second run would not know of that.
            return forward(*args, **kwargs)
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            early_stop=False,
            context_fn=lambda: (nullcontext(), again()),
            **kwargs,
        )

    return run


def _replace_forward(undo: ExitStack, block: Any, forward: Callable[..., Any]) -> None:
    # Not by setattr: a bridge's components pass attributes on to what they wrap.
    own = vars(block)
    known = {key: own[key] for key in ("forward",) if key in own}

    def put_back() -> None:
        own.pop("forward", None)
        own.update(known)

    undo.callback(put_back)
    own["forward"] = forward
