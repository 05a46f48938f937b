"""What tests of directions made elsewhere share: scores, and the same numbers from outside the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import tl_scopes as ts
from support import reference, zoo
from support.reference import POSITION, TOKENS, norms
from tl_scopes.circuits import components

D_MODEL = 16
STREAM = "blocks.2.hook_resid_pre"


def scores(model: Any, scope: ts.DirectionScope, **options: Any) -> Tensor:
    """[pos] at the embedding, in float64."""
    with zoo.exact_float64():
        return ts.attribute(model, TOKENS, scope, **{"position": POSITION} | options).scores[0]


def pulled(name: str, readout: Callable[[Tensor], Tensor], deltas: dict[Any, Tensor], hook: Any):
    """Gradients, with respect to each of the deltas, of `readout(activation at the read position)`."""
    seen = reference.of(name).forward(deltas, watch=[hook])
    leaves = [delta for delta in deltas.values() if delta.requires_grad]
    return torch.autograd.grad(readout(seen[hook][0, POSITION]), leaves)


def zeros(name: str, site: reference.RefSite) -> Tensor:
    return torch.zeros(1, *reference.of(name).shape(site), dtype=torch.float64, requires_grad=True)


def by_autograd(name: str, hook: Any, readout: Callable[[Tensor], Tensor]) -> Tensor:
    """[pos] at the embedding: gradient norms of `readout(activation at the read position)`."""
    (gradient,) = pulled(name, readout, {"embed": zeros(name, "embed")}, hook)
    return norms(gradient[0])


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    wanted = wanted.detach()
    scale = float(wanted.abs().max())
    assert scale > 1e-3, "nothing to compare"
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)


def check_heads(name: str, v: Tensor, value: Tensor, constant: Any = 0.0) -> None:
    """Effects of heads on `<v, h>` at the stream entering block 2.

    What everything adds up to, with the `constant`, is the `value` that the direction's own tool gives; a head's total
    effect is the reference's gradient at its z times z, its direct one what it writes at the read position.
    """
    model, ref = zoo.shared(name), reference.of(name)
    v = v.detach().double()
    with zoo.exact_float64():
        found = components(model, TOKENS, ts.DirectionScope(v, site=2), position=POSITION)
    close(found.direct.sum() + constant, value)
    for layer in (0, 1):
        z = f"blocks.{layer}.attn.hook_z"
        (g,) = pulled(name, lambda h: h @ v, {z: zeros(name, z)}, 2)
        with torch.no_grad():
            written = ref.forward({}, [z])[z][0]
            direct = torch.einsum("he,hem,m->h", written[POSITION], model.blocks[layer].attn.W_O, v)
        close(found.heads("total")[layer], (g[0] * written).sum(-1).T)
        close(found.heads("direct")[layer, :, POSITION], direct)
        close(found.heads("sensitivity")[layer], norms(g[0]).T)
