"""Attention heads as the model has them: which numbers of its queries and of z are whose."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tl_scopes.errors import UnsupportedModelError

# Where each head's query and its output, z, pass: a bridge knows both by two names.
_HOOK = re.compile(r"blocks\.(\d+)\.attn\.(?:(hook_q|q\.hook_out)|hook_z|o\.hook_in)")
# What attentions of Hugging Face models call the number of their heads.
_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_q_heads")


def by_own_heads(
    model: Any, name: str, point: Any, edit: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """`edit` of a hook point, which at z gets [batch, pos, head_index, d_head] with the attention's own
    heads. TransformerLens splits by the width of queries and keys, which is not always that of values
    (multi-head latent attention)."""
    found = _HOOK.fullmatch(name)
    if found is None:
        return edit
    attn = model.blocks[int(found[1])].attn
    own = getattr(attn, "original_component", None)
    counts = (getattr(own, key, None) for key in _COUNTS)
    n_heads = next((n for n in counts if isinstance(n, int)), int(model.cfg.n_heads))
    if found[2] is not None:
        splits = getattr(point, "hook_conversion", None) is not None
        return lambda q: edit(_checked(q, n_heads, name) if splits else q)
    return lambda z: edit(_regrouped(z, own, n_heads, name)).reshape(z.shape)


def _regrouped(z: Tensor, own: Any, n_heads: int, name: str) -> Tensor:
    width = getattr(own, "v_head_dim", None)
    if width and z.ndim in (3, 4) and z.shape[2:].numel() == n_heads * width:
        return z.reshape(*z.shape[:2], n_heads, width)
    is_own_width = z.ndim == 4 and z.shape[3] == getattr(own, "head_dim", None)
    return z if is_own_width else _checked(z, n_heads, name)


def _checked(x: Tensor, n_heads: int, name: str) -> Tensor:
    """Raises `UnsupportedModelError` where `x` is split into other heads than there are."""
    if x.ndim == 4 and x.shape[2] != n_heads:
        raise UnsupportedModelError(
            f"{name} shows {x.shape[2]} heads of width {x.shape[3]}, but the attention of that block has "
            f"{n_heads} heads: what is there is not one head's each (gates beside the queries, or another "
            'width). Without it: head_paths(split=False), frozen="norms", the residual stream'
        )
    return x
