"""The tensors of a model, as values to compare: what they hold, and which ones they are."""

from __future__ import annotations

import torch


def tensors(model) -> dict[str, torch.Tensor]:
    """Parameters, buffers, and the plain tensors that a processed bridge computes with."""
    found = {}
    for path, module in (("", model), ("hf.", getattr(model, "original_model", None))):
        for name, inner in module.named_modules() if module is not None else ():
            plain = {k: v for k, v in vars(inner).items() if isinstance(v, torch.Tensor)}
            for key, tensor in (inner._parameters | inner._buffers | plain).items():
                if tensor is not None:
                    found[f"{path}{name}.{key}"] = tensor
    return found


def places(model) -> dict[str, tuple]:
    """Which tensors they are, where in memory, and how often they were written to."""
    return {
        k: (id(t), t.data_ptr(), t._version, t.requires_grad, t.dtype, t.stride())
        for k, t in tensors(model).items()
    }


def values(model) -> dict[str, torch.Tensor]:
    return {k: t.detach().clone().nan_to_num() for k, t in tensors(model).items()}


def changed(model, before: dict[str, torch.Tensor]) -> set[int]:
    """Ids of the tensors that no longer hold what `values` gave."""
    now = tensors(model)
    return {id(now[k]) for k, v in before.items() if not torch.equal(now[k].nan_to_num(), v)}


def written(model) -> dict[str, object]:
    """`places` and what stands there, as values that compare fast."""
    held = {k: v.numpy().tobytes() for k, v in values(model).items()}
    return {k: (place, held[k]) for k, place in places(model).items()}
