"""Norms in front of attention, MLP and behind them, as functions of what they are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tl_scopes.adapter import guards
from tl_scopes.adapter.middle import tolerance
from tl_scopes.adapter.view import ModelView
from tl_scopes.jacobian.held_norms import find_norms

# What modules call the number that keeps a scale from being infinite.
_EPS = ("eps", "variance_epsilon", "epsilon")
# The norms of a block by the part that they belong to, the likeliest first: few are tried in vain.
_LIKELY = ("ln1", "ln2", "ln1_post", "ln2_post")


@dataclass(frozen=True, eq=False)
class Norm:
    """`gain * (x - mean) / sqrt(mean square + eps) + bias` over the last axis; the mean only if `centred`.

    On the device of `gain`, where the parts of a model lie on several.
    """

    gain: Tensor | float = 1.0
    bias: Tensor | float = 0.0
    centred: bool = False
    eps: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        base = self._base(x)
        return base * _inverse_scale(base, self.eps) * self.gain + self.bias

    def part(self, x: Tensor, whole: Tensor) -> Tensor:
        """The share that a summand `x` of `whole` has in the output, the bias aside."""
        return self._base(x) * self.gain * _inverse_scale(self._base(whole), self.eps)

    def projected(self, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        """`self(x) @ W + b`, [part, row, d_model] by [part, d_model, d_head], without the norm written out."""
        base = self._base(x)
        gain = self.gain.to(W)[:, None] if isinstance(self.gain, Tensor) else self.gain
        found = (base @ (W * gain)).mul_(_inverse_scale(base, self.eps))
        shift = b + self.bias.to(W) @ W if isinstance(self.bias, Tensor) else b
        return found.add_(shift[:, None])

    def pull(self, x: Tensor, g: Tensor, held: bool = False) -> Tensor:
        """From cotangents of the output at `x` to cotangents of x. `held`: with the scale held constant."""
        base = self._base(x)
        inverse = _inverse_scale(base, self.eps)
        g = g.to(base.device) * self.gain * inverse
        if not held:
            unit = base * inverse
            g = g - unit * ((g * unit).sum(-1, keepdim=True) / x.shape[-1])
        return g - g.mean(-1, keepdim=True) if self.centred else g

    def _base(self, x: Tensor) -> Tensor:
        x = x.to(self.gain.device) if isinstance(self.gain, Tensor) else x
        return x - x.mean(-1, keepdim=True) if self.centred else x


class Identity(Norm):
    """No norm at all: x, or `gain` times it."""

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.gain

    def part(self, x: Tensor, whole: Tensor) -> Tensor:
        return x * self.gain

    def projected(self, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return x @ (W * self.gain) + b[:, None]

    def pull(self, x: Tensor, g: Tensor, held: bool = False) -> Tensor:
        return g * self.gain


def _inverse_scale(base: Tensor, eps: float) -> Tensor:
    size = torch.linalg.vector_norm(base, dim=-1, keepdim=True)  # in one go, with no square held
    return (size.square() / base.shape[-1] + eps).rsqrt()


def norms_of(block: Any, x: Tensor) -> Iterator[Norm]:
    """Every function of the stream `x` that may lie before or behind a part of a block: none, and each
    norm's."""
    yield Identity()
    modules = find_norms(guards.every_module(block))
    likely = [getattr(block, name, None) for name in _LIKELY]
    modules.sort(key=lambda m: next((i for i, own in enumerate(likely) if own is m), len(likely)))
    for module in modules:
        yield from _forms(module, x)


def _forms(module: nn.Module, x: Tensor) -> Iterator[Norm]:
    # A bridge's norm wraps the one that knows eps.
    known = (getattr(m, name, None) for m in module.modules() for name in _EPS)
    eps = next((float(e) for e in known if isinstance(e, (int, float))), None)
    own = {n.rsplit(".", 1)[-1]: p.detach().to(x) for n, p in module.named_parameters()}
    gain, bias = own.get("w", own.get("weight")), own.get("b", own.get("bias"))
    shapes = {p.shape for p in (gain, bias) if p is not None}
    if eps is None or shapes - {x.shape[-1:]}:
        return
    for centred in (True, False):
        # Gemma stores the gain less one.
        for factor in [1.0] if gain is None else [gain, 1 + gain]:
            yield Norm(factor, 0.0 if bias is None else bias, centred, eps)


def misses(got: Tensor, wanted: Tensor) -> float:
    """By what share of the largest entry at a position `got` misses `wanted`, at the worst one,
    [..., pos, d]; NaN counts as a miss.

    Position by position: activations of a first token may be a thousand times those of others.
    """
    scale = wanted.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(wanted.dtype).tiny)
    error = float(((got - wanted).abs() / scale).max())
    return error if error == error else torch.inf


def allowed(view: ModelView) -> float:
    return tolerance(view.dtype)
