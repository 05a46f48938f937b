"""Gradients that hold the scales of norms constant; values stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import NumericalError, UnsupportedModelError
from tl_scopes.jacobian.denominators import HeldScales

# Share of a norm's output that the fitted linear map may miss, in single precision and above, and below.
_FITS, _FITS_HALF = 1e-3, 4e-2


def hold_norms(view: ModelView, undo: ExitStack) -> None:
    """Until `undo`, have gradients of this thread's forward passes take the scales of norms for
    constants: wherever one is worked out, in a wrapped model and outside of modules too.

    A module called a norm in which no scale is seen is held by what it takes and gives; of another
    form, it raises `UnsupportedModelError` in the forward pass.
    """
    scales = HeldScales()
    undo.callback(scales.rest)  # should Ctrl-C strike where the mode is entered but not yet undone
    undo.enter_context(scales)
    for module in view.every_module():
        if "norm" in type(module).__name__.lower():
            _watch(view, undo, module, scales)


def _watch(view: ModelView, undo: ExitStack, norm: nn.Module, scales: HeldScales) -> None:
    entered: list[tuple[Any, int]] = []

    def enter(x: Any) -> Any:
        entered.append((x, scales.held))
        scales.depth += 1
        return x

    def leave(y: Any) -> Any:
        if not entered:  # called by keywords of its own
            return y
        scales.depth -= 1
        x, held = entered.pop()
        unseen = held == scales.held and isinstance(x, Tensor) and isinstance(y, Tensor)
        return _held(norm, x, y) if unseen else y

    view.tap_module(undo, norm, enter, leave)


def _held(norm: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The norm's output `y` with the gradient of the linear map that it is for a given scale."""
    if not torch.isfinite(y).all():
        hint = "; in float16 an overflow is likely" if y.dtype == torch.float16 else ""
        raise NumericalError(
            f"NaN or infinity comes out of a norm ({type(norm).__name__}), whose scale cannot be held: "
            f"check the weights and hooks before it{hint}"
        )
    if x.numel() == y.numel():
        x = x.reshape(y.shape)  # OPT's run over batch and position as one axis
    with torch.no_grad():
        fit = fit_norm(norm, x, y)
    if fit is None or fit.error > (_FITS if x.dtype == working_dtype(x.dtype) else _FITS_HALF):
        raise UnsupportedModelError(
            'frozen="norms" takes a norm for gain * (x - mean) / scale + bias, which '
            f"{type(norm).__name__} of this model is not (or a hook of yours edits what it gives): "
            'use frozen="patterns", or remove the hook'
        )
    base = x - x.mean(-1, keepdim=True) if fit.centred else x
    if fit.gain.any() and not base.any(-1).all():
        raise UnsupportedModelError(
            f'frozen="norms" needs the scale of every norm, which cannot be told where {type(norm).__name__} '
            "is fed zeros (an embedding of zeros, or a hook of yours that clears the stream): use "
            'frozen="patterns", or remove the hook'
        )
    linear = fit.linear(x)
    return y.detach() + (linear - linear.detach()).to(y.dtype)


def find_norms(modules: Iterable[Any]) -> list[nn.Module]:
    """Those of TransformerLens's modules that normalise."""
    return [
        module
        for module in modules
        if "Norm" in type(module).__name__
        and type(module).__module__.startswith("transformer_lens")
    ]


@dataclass(frozen=True, eq=False)
class NormFit:
    """A norm with its scale held: `gain * (x - mean) * inverse_scale + bias`, for the x it was
    fitted on. `centred`: whether the mean is subtracted; `error`: share of the output missed."""

    gain: Tensor
    bias: Tensor
    centred: bool
    inverse_scale: Tensor
    error: float

    def linear(self, x: Tensor) -> Tensor:
        """The part of the output that is linear in x, [..., d]."""
        x = x.to(self.gain.dtype)
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return x * self.gain * self.inverse_scale

    def transposed(self, g: Tensor) -> Tensor:
        """The same map from cotangents of the output to cotangents of x."""
        g = g.to(self.gain.dtype) * self.gain * self.inverse_scale
        return g - g.mean(-1, keepdim=True) if self.centred else g


def fit_norm(norm: nn.Module, x: Tensor, y: Tensor) -> NormFit | None:
    """The norm's scale at each position, from what went in and came out: the best fit, whose `error`
    tells how good it is; None where shapes already rule one out.

    Its parameters tell the gain (which Gemma stores less one), its output whether it centres.
    """
    precise = working_dtype(x.dtype)
    x, y = x.detach().to(precise), y.detach().to(precise)
    own = {name.rsplit(".", 1)[-1]: p.detach().to(x) for name, p in norm.named_parameters()}
    one = torch.ones(x.shape[-1], dtype=precise, device=x.device)
    gain = own.get("w", own.get("weight"))
    bias = own.get("b", own.get("bias", torch.zeros_like(one)))
    if x.shape != y.shape or any(p.shape[-1:] != one.shape for p in (gain, bias) if p is not None):
        return None
    fits = [
        _fit(x, y, g, bias, centred)
        for g in ([one] if gain is None else [gain, 1 + gain])
        for centred in (False, True)
    ]
    return min(fits, key=lambda fit: fit.error)


def _fit(x: Tensor, y: Tensor, gain: Tensor, bias: Tensor, centred: bool) -> NormFit:
    base = (x - x.mean(-1, keepdim=True) if centred else x) * gain
    squares = base.square().sum(-1, keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    # Zero where the norm was fed zeros: its scale does not show there, nor does it matter.
    inverse = ((y - bias) * base).sum(-1, keepdim=True) / squares.clamp_min(tiny)
    missed = (y - bias - inverse * base).norm() / (y - bias).norm().clamp_min(tiny)
    return NormFit(gain, bias, centred, inverse, float(missed.nan_to_num(torch.inf)))
