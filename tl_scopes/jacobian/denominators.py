"""What norms divide by, held constant where it is worked out: in whatever module, or outside of any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tl_scopes.errors import UnsupportedModelError

# Of something that depends on the prompt, these are scales of a norm in every architecture known.
_SCALES = (torch.rsqrt, Tensor.rsqrt, torch.norm, Tensor.norm, torch.linalg.vector_norm)
# So is this inside a module that is called a norm; elsewhere it may be an activation or a gate.
_ROOTS = (torch.sqrt, Tensor.sqrt)
_POWERS = (torch.pow, Tensor.pow, Tensor.__pow__)
_OTHERS = (F.group_norm, F.instance_norm, F.batch_norm, F.local_response_norm)


class HeldScales(TorchFunctionMode):
    """Inside, scales of norms are constants to gradients and to forward-mode derivatives; values stay
    as they are. `held`: how many there were. `depth`: in how many modules called norms it is.

    Raises `UnsupportedModelError` for a norm over other axes than the last one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.depth = 0
        self.at_rest = False

    def rest(self) -> None:
        """Hold nothing from now on."""
        self.at_rest = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.at_rest:
            return out
        power = func in _POWERS and len(args) > 1 and isinstance(args[1], float) and args[1] == -0.5
        if func in _SCALES or power or (self.depth and func in _ROOTS):
            self.held += 1
            return out.detach()
        if func in _HELD:
            self.held += 1
            linear = _HELD[func](*args, **kwargs)
            return out.detach() + (linear - linear.detach()).to(out.dtype)
        if func in _OTHERS:
            raise UnsupportedModelError(
                f'frozen="norms" cannot hold the scale of {func.__name__}, which this model calls: use '
                'frozen="patterns"'
            )
        return out


def _layer_norm(
    x: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    x = _precise(x)
    return _over_scale(x - x.mean(-1, keepdim=True), shape, weight, eps)


def _rms_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    x = _precise(x)
    return _over_scale(x, shape, weight, torch.finfo(x.dtype).eps if eps is None else eps)


def _normalize(
    x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    return x / x.norm(p, dim, keepdim=True).clamp_min(eps).detach()


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x


def _over_scale(x: Tensor, shape: Any, weight: Tensor | None, eps: float) -> Tensor:
    if len(shape) != 1:
        raise UnsupportedModelError(
            f'frozen="norms" cannot hold the scale of a norm over the last {len(shape)} axes, which this '
            'model has: use frozen="patterns"'
        )
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps).detach()
    return x * scale if weight is None else x * scale * weight


# The part of each that is linear in x, for a given scale.
_HELD: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.normalize: _normalize,
}
