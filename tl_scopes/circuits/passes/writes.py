"""Everything that is written into the residual stream, component by component, and its effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_scopes.adapter.sites import Site, resid_site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import ModelView
from tl_scopes.circuits.passes.stream import (
    Output,
    Stream,
    check_sum,
    output_map,
    part_weights,
    shows_heads,
)
from tl_scopes.circuits.passes.trace import Batch
from tl_scopes.errors import UnsupportedModelError
from tl_scopes.jacobian.forward import needed_sites

# What `by` splits attention or an MLP into: hook, letter in labels, the bias beside them, axes. With
# "mlp" and "layer" nothing is split.
_PARTS = {
    "head": ("attn.hook_z", "H", "b_O", "[pos, head_index, d_head]"),
    "neuron": ("mlp.hook_post", "N", "b_out", "[pos, d_mlp]"),
}


def sites_of_writes(view: ModelView, stream: Stream, by: str) -> tuple[list[Site], list[Site]]:
    """Where they are seen: those that must be reached, and those that may be.

    Raises `UnsupportedModelError`, or `NonAdditiveError`.
    """
    sites = _sites(view, stream, by)
    # HookedTransformer lists hook_mlp_out where a block has no MLP; a write that is missed shows in
    # the sum.
    optional = [site for site in sites if site.hook.endswith("hook_mlp_out")]
    return [site for site in sites if site not in optional], optional


def _sites(view: ModelView, stream: Stream, by: str) -> list[Site]:
    n, known = view.n_layers, view.hooks
    if by == "layer":
        between = range(stream.blocks + stream.attn_too)
        return [resid_site(0, n), *(resid_site(layer, n) for layer in between), stream.site]
    hooks = []
    for layer in stream.attn_layers:
        names = ["hook_attn_out", *(["attn.hook_z"] if by == "head" else [])]
        if layer < stream.blocks and f"blocks.{layer}.hook_mlp_out" in known:
            names += ["hook_mlp_out", *(["mlp.hook_post"] if by == "neuron" else [])]
        elif by == "neuron" and layer < stream.blocks:
            instead = "head" if shows_heads(view, stream.attn_layers) else "layer"
            raise UnsupportedModelError(
                f'block {layer} has no MLP: use by="{instead}" on this model'
            )
        hooks += [f"blocks.{layer}.{name}" for name in names]
    instead = ' (its attention has no heads there, or a block no MLP): use by="layer"'
    return [resid_site(0, n), *needed_sites(view, hooks, f"by={by!r}", instead), stream.site]


@dataclass(eq=False)
class Writes:
    """Rows as they are worked out: [vector, row, place] of effects for vectors of norm 1.

    The places are the positions of all prompts of a batch, one prompt after the other: nothing here
    looks beyond one position. `base`: what writes are compared with, by label, [place, ...] or [...].
    `zero`: whether that is nothing. `roles`: where given, effects are summed over the places of each
    role of each prompt, and total effects alone are worked out.
    """

    batch: Batch
    stream: Stream
    base: Mapping[str, Tensor]
    zero: bool = False
    roles: Bool[Tensor, "role prompt pos"] | None = None
    labels: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    total: list[Tensor] = field(default_factory=list)
    direct: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)

    def fill(self, by: str) -> None:
        """Work out all rows of what `by` names."""
        kept = self.batch.kept
        labels = [label for label in kept if label != "embed"]
        gradients = zip(labels, self.batch.gradients(labels))
        # Blocks may lie on several devices: all that is written meets where the stream ends.
        end = kept[self.stream.site.label].device
        there: dict[str, Any] = dict(device=end, dtype=working_dtype(self.batch.read.dtype))
        self.gradient = {label: g.flatten(1, 2).to(**there) for label, g in gradients}
        self.write = {label: kept[label].detach().flatten(0, 1).to(**there) for label in labels}
        self.base = {label: x.to(**there) for label, x in self.base.items()}
        self.at_stream = self.gradient[self.stream.site.label]
        if by == "layer":
            self._whole_blocks()
            return
        site = self.stream.site.label
        # First: where it fails, no other way of telling parts apart is worth naming.
        check_sum(self.batch.view, self.write[site], self._written(), site)
        self._row("embed", "embed", -1, "resid(0)")
        for layer in self.stream.attn_layers:
            attn, mlp = (f"blocks.{layer}.hook_{part}_out" for part in ("attn", "mlp"))
            if by == "head":
                self._parts(by, layer, attn)
            else:
                self._row(f"{layer}_attn_out", "attn", layer, attn)
            if mlp in self.write and layer < self.stream.blocks:
                if by == "neuron":
                    self._parts(by, layer, mlp)
                else:
                    self._row(f"{layer}_mlp_out", "mlp", layer, mlp)

    def _base(self, label: str) -> Tensor | float:
        return self.base.get(label, 0.0)

    def _written(self) -> list[Tensor]:
        """What the embedding, each attention and each MLP writes before what is read."""
        stream = self.stream
        names = ["resid(0)", *(f"blocks.{i}.hook_attn_out" for i in stream.attn_layers)]
        names += [f"blocks.{i}.hook_mlp_out" for i in range(stream.blocks)]
        return [self.write[name] for name in names if name in self.write]

    def _whole_blocks(self) -> None:
        self._row("embed", "embed", -1, "resid(0)")
        n = self.stream.blocks
        ends = [f"resid({layer})" for layer in range(n + self.stream.attn_too)]
        ends.append(self.stream.site.label)
        for layer, (before, after) in enumerate(pairwise(ends)):
            write = self.write[after] - self.write[before]
            base = self._base(after) - self._base(before)
            whole = layer < n
            label, kind = (f"{layer}_block", "layer") if whole else (f"{layer}_attn_out", "attn")
            g = self.gradient[after]
            self._extend([label], kind, layer, [-1], *self._products(g, write, base))

    def _row(self, label: str, kind: str, layer: int, site: str) -> None:
        """One component whose write is the activation at `site` itself."""
        g, write = self.gradient[site], self.write[site]
        products = self._products(g, write, self._base(site))
        self._extend([label], kind, layer, [-1], *products)

    def _products(self, g: Tensor, write: Tensor, base: Tensor | float) -> list[Tensor]:
        """Of one component, with the axis of rows: what is summed for its three columns."""
        return [x[:, None] for x in (g * (write - base), self.at_stream * write, g)]

    def _parts(self, by: str, layer: int, site: str) -> None:
        """The heads of an attention or the neurons of an MLP, and the bias beside them."""
        hook, letter, bias_name, axes = _PARTS[by]
        label = f"blocks.{layer}.{hook}"
        write, g = self.write[label], self.gradient[label]
        moved = g * (write - self._base(label))
        if by == "neuron":  # the only number of each
            write, g, moved = write[..., None], g[..., None], moved[..., None]
        W, b = part_weights(self.batch.view, layer, by)
        if write.ndim != 3 or W.shape[:2] != write.shape[1:]:
            raise UnsupportedModelError(
                f"{label} has shape {list(self.write[label].shape)}, not {axes}: this model has no "
                f'{by}s there that can be told apart; use by="mlp"'
            )
        W = W.to(write)
        o = torch.einsum("phe,hem->pm", write, W)
        bias = torch.zeros_like(o[0]) if b is None else b.to(o)
        output = output_map(self.batch.view, layer, o + bias, self.write[site], f"{by}s")
        direct = moved
        if self.roles is None:
            direct = torch.einsum("vpm,hem->vphe", output.pull(self.at_stream), W) * write
        n = write.shape[1]
        self._extend(
            [f"L{layer}{letter}{i}" for i in range(n)],
            by,
            layer,
            range(n),
            *(x.transpose(1, 2) for x in (moved, direct, g)),
        )
        self._bias(f"{layer}_{bias_name}", layer, site, bias, output)

    def _bias(self, label: str, layer: int, site: str, bias: Tensor, output: Output) -> None:
        if not bias.any() and (output.norm is None or not output.norm.bias.any()):
            return
        g = self.gradient[site]
        effects = [output.pull(each) @ bias + output.constant(each) for each in (g, self.at_stream)]
        total = effects[0] if self.zero else torch.zeros_like(effects[0])
        products = total[..., None], effects[1][..., None], g
        self._extend([label], "bias", layer, [-1], *(x[:, None] for x in products))

    def _extend(
        self,
        labels: Sequence[str],
        kind: str,
        layer: int,
        indices: Sequence[int],
        *products: Float[Tensor, "vector row pos _"],
    ) -> None:
        """Add rows. `products`, to be summed over their last axis: total effect, direct effect, and the
        gradient whose squares count."""
        total, direct, gradient = products
        self.labels += labels
        self.kinds += [kind] * len(labels)
        self.layers += [layer] * len(labels)
        self.indices += indices
        if self.roles is not None:
            each = total.sum(-1).unflatten(2, self.roles.shape[1:]).double()
            places = self.roles.to(each)
            self.total.append(torch.einsum("vcip,rip->vcir", each, places).cpu())
            return
        columns = (self.total, total), (self.direct, direct), (self.squares, gradient.square())
        for column, values in columns:
            column.append(values.sum(-1).double().cpu())
