"""The weight of a model's unembedding, `W_U`, however the model keeps it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tl_scopes.errors import UnsupportedModelError

_SPARE_THE_HEAD = "leave the head (lm_head) out when you quantise a model"


def dtype(model: Any) -> torch.dtype:
    """The dtype that the model computes its logits in. Raises `UnsupportedModelError`."""
    return stored(model)[0].dtype


def weight(model: Any) -> torch.Tensor:
    """`W_U` as plain numbers: weights that are quantised themselves give what they stand for.

    `last_step.verify` holds the model's own logits against it. Raises `UnsupportedModelError`.
    """
    W, transposed = stored(model)
    if type(W) not in (torch.Tensor, nn.Parameter):
        try:
            W = W.dequantize()
        except (RuntimeError, AttributeError, TypeError) as error:
            raise UnsupportedModelError(
                f"the unembedding's weight is a {type(W).__name__}, which gives no plain numbers "
                f"({error}): {_SPARE_THE_HEAD}"
            ) from error
    return (W.T if transposed else W).detach()


def stored(model: Any) -> tuple[torch.Tensor, bool]:
    """The unembedding's weight as the model keeps it, and whether it is `W_U` transposed.

    Raises `UnsupportedModelError` where it holds no floats.
    """
    inner = getattr(model.unembed, "original_component", None)
    own = getattr(inner, "weight", None)
    if isinstance(own, torch.Tensor) and type(own) not in (torch.Tensor, nn.Parameter):
        W, transposed = own, True
    else:
        try:
            W, transposed = model.W_U, False
        except (AssertionError, AttributeError, TypeError):
            W, transposed = None, False
    if not isinstance(W, torch.Tensor) or not W.dtype.is_floating_point or W.ndim != 2:
        kind = type(model.unembed if inner is None else inner)
        raise UnsupportedModelError(
            "the model's unembedding has no weight W_U of floats to read (it is a "
            f"{kind.__module__}.{kind.__name__}): {_SPARE_THE_HEAD}"
        )
    return W, transposed
