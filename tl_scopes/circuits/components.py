"""First-order effects of heads, MLPs and neurons on what a scope explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt, Prompts
from tl_scopes.adapter.sites import Site, embed_site, resid_site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import ModelView
from tl_scopes.circuits.freezing import Frozen
from tl_scopes.circuits.references import Baseline
from tl_scopes.circuits.stream import (
    Output,
    Stream,
    check_sum,
    last_stream,
    output_map,
    part_weights,
    shows_heads,
)
from tl_scopes.circuits.trace import Trace, ask, traced
from tl_scopes.errors import UnsupportedModelError, check_choice
from tl_scopes.jacobian.forward import needed_sites
from tl_scopes.results.circuits import Components
from tl_scopes.scopes.base import Scope

By = Literal["head", "mlp", "layer", "neuron"]
# What `by` splits attention or an MLP into: hook, letter in labels, the bias beside them, axes. With
# "mlp" and "layer" nothing is split.
_PARTS = {
    "head": ("attn.hook_z", "H", "b_O", "[pos, head_index, d_head]"),
    "neuron": ("mlp.hook_post", "N", "b_out", "[pos, d_mlp]"),
}


def components(
    model: Any,
    prompt: Prompt,
    scope: Scope,
    by: By = "head",
    *,
    baseline: Literal["zero", "mean", "corrupted"] | None = None,
    corrupted: Prompt | None = None,
    reference: Prompts | None = None,
    position: int = -1,
    prepend_bos: bool | None = None,
    frozen: Frozen = None,
) -> Components:
    """First-order effects on a scope's scalar of everything written into the residual stream.

    One forward and one backward pass (batched over the vectors of a Fisher scope), however many
    components there are.

    Args:
        model, prompt, scope, position, prepend_bos: as in `tl_scopes.attribute`.
        by: `"head"`: every head, attention bias and MLP. `"mlp"`: attention as a whole and MLPs.
            `"neuron"`: attention as a whole and every neuron. `"layer"`: whole blocks. Each has a
            row for the embedding too (positions added to it included), so that direct effects add
            up.
        baseline: what a write is compared with in the total effect: `"zero"` (the default),
            `"mean"` over the tokens of `reference` (None: of the prompt), BOS left out, or
            `"corrupted"`: the same place in the prompt `corrupted`, which must be as long. Biases
            are the same under the last two, so that their total effect is zero.
        frozen: what gradients hold constant: attention `"patterns"`, `"norms"` (their scales),
            `"both"`.

    Returns:
        `Components`. The scalar of a scope is the number that it explains, such as the logit; a write is
        what a component adds to the residual stream. `total`: gradient at the write times (write -
        baseline). `direct`: gradient at the last stream before the read times the write, with the scale
        of a norm between the two (Gemma) held constant. `sensitivity`: norm of the gradient, for a head
        with respect to z, its output before W_O. Units: those of the scalar, for Fisher nats;
        sensitivity in the scope's units.

    Raises:
        NonAdditiveError: where the parts do not add up to the residual stream.
        UnsupportedModelError: where `by` asks for heads or neurons that the model does not have.
        LengthMismatchError: for a corrupted prompt of another length.
        ScopesError: as `attribute`.

    Source: attribution patching (Nanda 2023; Syed et al., arXiv 2310.10348) for total effects, direct
    logit attribution (Elhage et al. 2021) for direct ones, with a scope's vectors (arXiv 2601.16407)
    in the place of a logit.

        >>> effects = components(model, "The capital of France is", SemanticScope(" Paris"))
        >>> effects.top(5)
    """
    check_choice("by", by, ("head", "mlp", "layer", "neuron"))
    prompt_run = ask(model, prompt, scope, position, prepend_bos, frozen)
    view = prompt_run.view
    stream = last_stream(view, prompt_run.read_site)
    sites = _sites(view, stream, by)
    start = Baseline.chosen(prompt_run, baseline, corrupted, reference, prepend_bos)
    # HookedTransformer lists hook_mlp_out where a block has no MLP; a write that is missed shows in
    # the sum.
    optional = [site for site in sites if site.hook.endswith("hook_mlp_out")]
    sites = [site for site in sites if site not in optional]
    with traced(prompt_run, embed_site(), sites, optional) as trace:
        reached = [site for site in optional if site.label in trace.kept]
        start.measure([*sites, *reached], trace.kept)
        table = _Table(trace, start, stream)
        table.fill(by)
        return table.result()


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
class _Table:
    """Rows as they are worked out: [vector, rows, pos] of effects for vectors of norm 1."""

    trace: Trace
    start: Baseline
    stream: Stream
    labels: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    total: list[Tensor] = field(default_factory=list)
    direct: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)

    def fill(self, by: str) -> None:
        labels = [label for label in self.trace.kept if label != "embed"]
        gradients = zip(labels, self.trace.gradients(labels))
        # Blocks may lie on several devices: all that is written meets where the stream ends.
        end = self.trace.kept[self.stream.site.label].device
        there: dict[str, Any] = dict(device=end, dtype=working_dtype(self.trace.batch.read.dtype))
        self.gradient = {label: g.to(**there) for label, g in gradients}
        self.write = {label: self.trace.kept[label][0].detach().to(**there) for label in labels}
        self.base = {label: x.to(**there) for label, x in self.start.values.items()}
        self.at_stream = self.gradient[self.stream.site.label]
        if by == "layer":
            self._whole_blocks()
            return
        site = self.stream.site.label
        # First: where it fails, no other way of telling parts apart is worth naming.
        check_sum(self.trace.view, self.write[site], self._written(), site)
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
        W, b = part_weights(self.trace.view, layer, by)
        if write.ndim != 3 or W.shape[:2] != write.shape[1:]:
            raise UnsupportedModelError(
                f"{label} has shape {list(self.write[label].shape)}, not {axes}: this model has no "
                f'{by}s there that can be told apart; use by="mlp"'
            )
        W = W.to(write)
        o = torch.einsum("phe,hem->pm", write, W)
        bias = torch.zeros_like(o[0]) if b is None else b.to(o)
        output = output_map(self.trace.view, layer, o + bias, self.write[site], f"{by}s")
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
        total = effects[0] if self.start.kind == "zero" else torch.zeros_like(effects[0])
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
        columns = (self.total, total), (self.direct, direct), (self.squares, gradient.square())
        for column, values in columns:
            column.append(values.sum(-1).double().cpu())

    def result(self) -> Components:
        trace = self.trace
        norms = trace.norms.double()[:, None, None]
        total, direct = (torch.cat(x, dim=1) * norms for x in (self.total, self.direct))
        weights = trace.weights
        sensitivity = torch.einsum("v,vcp->cp", weights, torch.cat(self.squares, 1) * norms**2)
        stream = self.write[self.stream.site.label]
        whole = (self.at_stream * stream).sum((1, 2)).double().cpu() * trace.norms.double()

        def combined(x: Tensor) -> Tensor:
            return torch.einsum("v,vcp->cp", weights, x.square() if trace.squared else x)

        return Components(
            **trace.common(),
            labels=tuple(self.labels),
            kinds=tuple(self.kinds),
            layers=tuple(self.layers),
            indices=tuple(self.indices),
            baseline=self.start.kind,
            total=trace.whole(combined(total)),
            direct=trace.whole(combined(direct)),
            sensitivity=trace.whole(sensitivity if trace.squared else sensitivity.sqrt()),
            total_vectors=trace.whole(total),
            direct_vectors=trace.whole(direct),
            weights=weights.float(),
            whole=whole.float(),
        )
