"""First-order effects of edges: gradients at readers' own inputs, times what writers' runs differ by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.circuits.wiring.blocks import Attention, Kept, Reading, Wiring, hook

# Memory that the writes of all writers in both runs, and their differences, may take at a time.
_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Gradients:
    """What one backward pass gives: the values of the pass, and the gradients there,
    [vector, row, pos, ...] by label.

    `frozen`: what they hold constant.
    """

    wiring: Wiring
    values: Kept
    at: Mapping[str, Float[Tensor, "vector row pos ..."]]
    frozen: tuple[str, ...] = ()

    @staticmethod
    def labels(wiring: Wiring, frozen: tuple[str, ...]) -> list[str]:
        """Where gradients are needed: at each reader that they reach."""
        names = "v" if "patterns" in frozen else "qkv"
        labels = [hook(a.layer, f"attn.hook_{x}") for a in wiring.attentions for x in names]
        labels += [mlp.site.label for mlp in wiring.mlps.values()]
        return [*labels, wiring.stream.site.label]

    def into(
        self, reading: Reading, positions: slice
    ) -> Float[Tensor, "vector row reader pos d_model"]:
        """The gradient at each reader's own input: what reaches the read by way of that reader alone."""
        held, mlp, attention = "norms" in self.frozen, reading.mlp, reading.attention
        if attention is not None:
            return self._into_heads(attention, positions, held)
        if mlp is None:
            return self.at[self.wiring.stream.site.label][:, :, None, positions]
        g = self.at[mlp.site.label]
        x = self.wiring.before(mlp, self.values)
        g = g.reshape(len(g), *x.shape)
        x, g = x[:, positions].to(working_dtype(x.dtype)), g[:, :, positions]
        return mlp.norm.pull(x, g.to(x), held)[:, :, None]

    def _into_heads(self, attention: Attention, positions: slice, held: bool) -> Tensor:
        parts = []
        for name, W in attention.weights.items():
            g = self.at.get(hook(attention.layer, f"attn.hook_{name}"))
            if g is None:  # constant
                of_any = self.at[self.wiring.stream.site.label]
                shape = (*of_any.shape[:2], len(W), of_any[0, 0, positions].shape[0], W.shape[1])
                parts.append(W.new_zeros(shape))
            else:
                g = g[:, :, positions].to(W)
                parts.append(torch.einsum("vrphe,hme->vrhpm", g, W))
        each = torch.cat(parts, dim=2)
        if self.wiring.by == "mlp":
            each = each.sum(2, keepdim=True)
        x = self.values[attention.before][:, None, positions].to(each)
        return attention.norm.pull(x, each, held)


def edge_effects(
    gradients: Gradients, clean: Kept, corrupted: Kept, roles: Bool[Tensor, "role row pos"]
) -> Float[Tensor, "row vector edge role"]:
    """Gradient at the reader's own input times (clean - corrupted write), summed over a role's positions.

    Edges lie reader by reader as in `Wiring.readings`, the writers of each in a row. For vectors of
    norm 1, in double precision on the CPU.
    """
    wiring = gradients.wiring
    end = gradients.at[wiring.stream.site.label]
    device, dtype = end.device, working_dtype(end.dtype)
    vectors, rows, length, width = end.shape
    a_position = 3 * rows * width * len(wiring.writers) * dtype.itemsize
    chunk = max(1, _BYTES // a_position)
    roles = roles.to(device)
    out = torch.zeros(rows, vectors, wiring.n_edges, len(roles), dtype=torch.float64, device="cpu")
    for start in range(0, length, chunk):
        positions = slice(start, start + chunk)
        runs = ({k: x[:, positions] for k, x in kept.items()} for kept in (clean, corrupted))
        difference, subtracted = (wiring.writes(kept, device, dtype) for kept in runs)
        difference -= subtracted
        first = 0
        for reading in wiring.readings:
            g = gradients.into(reading, positions).to(device, dtype)
            writers = difference[:, : reading.n_writers].flatten(2).mT
            edges = slice(first, first := first + g.shape[2] * reading.n_writers)
            for i, role in enumerate(roles[:, :, positions]):
                own = g if role.all() else g * role[:, None, :, None]
                # [row, vector * reader, pos * d_model]: one product, whatever the number of edges.
                flat = own.transpose(0, 1).flatten(1, 2).flatten(2)
                found = torch.bmm(flat, writers).reshape(rows, vectors, -1)
                out[:, :, edges, i] += found.double().cpu()
    return out
