"""Which heads a call of `head_paths` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from tl_scopes.adapter.view import ModelView
from tl_scopes.circuits.passes.trace import Trace
from tl_scopes.errors import ScopeParameterError, check_number


@dataclass(frozen=True)
class Choice:
    """`layers`, `heads`: None for all."""

    layers: frozenset[int] | None
    heads: frozenset[tuple[int, int]] | None
    least_effect: float

    @classmethod
    def checked(cls, view: ModelView, layers: Any, heads: Any, least_effect: Any) -> Choice:
        """Raises `ScopeParameterError`."""
        n, width = view.n_layers, int(view.cfg.n_heads)
        try:
            some = None if layers is None else frozenset(map(index, layers))
            each = None if heads is None else frozenset((index(i), index(h)) for i, h in heads)
        except (TypeError, ValueError):
            raise ScopeParameterError(
                f"layers is {layers!r}, heads is {heads!r}; allowed: lists of layers, and of pairs "
                "(layer, head), or None"
            ) from None
        wrong = [i for i in some or () if not 0 <= i < n]
        wrong += [pair for pair in each or () if not (0 <= pair[0] < n and 0 <= pair[1] < width)]
        if wrong or some == frozenset() or each == frozenset():
            raise ScopeParameterError(
                f"layers and heads name {wrong[0] if wrong else 'nothing'}; allowed: layers 0 to "
                f"{n - 1}, and pairs (layer, head) with heads 0 to {width - 1}"
            )
        check_number("least_effect", least_effect, lambda x: 0 <= x <= 1, "0 to 1")
        return cls(some, each, float(least_effect))

    def of(self, trace: Trace, at_heads: dict[int, Tensor]) -> dict[int, list[int]]:
        """The heads asked for in each layer. `at_heads`: gradients at their outputs."""
        asked = {
            layer: [
                head
                for head in range(g.shape[2])
                if (self.layers is None or layer in self.layers)
                and (self.heads is None or (layer, head) in self.heads)
            ]
            for layer, g in at_heads.items()
        }
        if not self.least_effect:
            return asked
        scale = (trace.weights * trace.norms**2).sqrt()
        effects = {}
        for layer, g in at_heads.items():
            z = trace.kept[f"blocks.{layer}.attn.hook_z"][0].detach()
            each = (
                torch.einsum("vphd,phd->vh", g.double(), z.double()) * scale.to(g.device)[:, None]
            )
            effects[layer] = torch.linalg.vector_norm(each, dim=0).tolist()
        every = [effects[layer][head] for layer in asked for head in asked[layer]]
        least = self.least_effect * max(every, default=0.0)
        return {i: [h for h in heads if effects[i][h] >= least] for i, heads in asked.items()}


def refuse_over_pairs(split: Any, least_effect: Any) -> None:
    """What is not told over pairs. Raises `ScopeParameterError`."""
    if split:
        raise ScopeParameterError(
            f"split is {split!r} beside pairs, of which only whole heads are told: drop it, or call once "
            "a prompt"
        )
    if least_effect != 0:
        raise ScopeParameterError(
            f"least_effect is {least_effect!r} beside pairs, in each of which it would keep other heads: "
            "drop it, and give layers or heads"
        )
