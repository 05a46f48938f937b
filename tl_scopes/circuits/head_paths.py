"""Influence by way of each head's output, split into its values and its attention pattern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.circuits.pulling import Whole, alone
from tl_scopes.circuits.trace import ask, traced
from tl_scopes.circuits.writes import last_stream
from tl_scopes.encoding import Prompt
from tl_scopes.engine import check_chunk
from tl_scopes.errors import SiteError, UnsupportedModelError
from tl_scopes.explain import Scope
from tl_scopes.flow_result import HeadPaths
from tl_scopes.frozen import Frozen
from tl_scopes.vjp import pull


def head_paths(
    model: Any,
    prompt: Prompt,
    scope: Scope,
    *,
    site: int | str = "embed",
    read_only: bool = False,
    split: bool = False,
    position: int = -1,
    prepend_bos: bool | None = None,
    frozen: Frozen = None,
    chunk_size: int | None = None,
) -> HeadPaths:
    """How much of each token's influence passes through each head's output.

    From the scope to the outputs (z) of all heads in one backward pass, and from each head's output
    on to the source tokens in a pass of its own, batched over the heads of a layer.

    Args:
        model, prompt, scope, position, prepend_bos, chunk_size: as in `tl_scopes.attribute`.
        site: where the source tokens are: "embed" or a layer. Heads before it have no part.
        read_only: count only what the heads write at the read position.
        split: also tell what reaches a head by way of its values from what reaches it by way of its
            queries and keys, that is, its attention pattern (twice the passes).
        frozen: what gradients hold constant: attention `"patterns"`, `"norms"`, `"both"`.

    Returns:
        `HeadPaths`: `norms` and `signed` Float[Tensor, "layer head_index source"], `outside_norms` and
        `outside_signed` [layer, source] for all that passes by a layer's heads, in the scope's units.
        As vectors, a layer's heads and what passes outside them sum to the token's gradient.

    Raises:
        UnsupportedModelError: on a model without attention heads in every block.
        ScopesError: as `attribute`.

    Source: the chain rule, `v^T dy/dz_h dz_h/dr_t`, for J of arXiv 2601.16407.
    """
    check_chunk(chunk_size)
    question = ask(model, prompt, scope, position, prepend_bos, frozen)
    view = question.view
    source = view.site(site)
    if source.is_named:
        raise SiteError(f'{site!r} is a hook; source tokens are at "embed", or at a layer')
    first = source.layer or 0
    layers = [i for i in last_stream(view, question.read_site).attn_layers if i >= first]
    # Heads of the block that is read in may come before what is read: its attention's output, say.
    read = None if question.read_site is None else question.read_site.block
    beside = [read] if read is not None and read >= first and read not in layers else []
    hooks, more = (
        [f"blocks.{i}.attn.hook_{name}" for i in blocks for name in ("zqkv" if split else "z")]
        for blocks in (layers, beside)
    )
    known = view.hooks
    missing = [hook for hook in hooks if hook not in known]
    if missing:
        raise UnsupportedModelError(
            f"head_paths needs the hook {missing[0]!r}, which this model does not have: use flow, "
            "which needs no heads"
        )
    sites, optional = ([view.site(h) for h in every if h in known] for every in (hooks, more))
    with traced(question, source, sites, optional) as trace:
        layers += [i for i in beside if trace.leads_to_read(f"blocks.{i}.attn.hook_z")]
        if not layers:
            raise SiteError(f"no head lies between {source.label} and what is read: start earlier")
        outputs = [f"blocks.{layer}.attn.hook_z" for layer in layers]
        whole_gradient, *at_heads = trace.gradients([source.label, *outputs])
        whole = Whole(trace, source.label, whole_gradient)
        shape = (view.n_layers, at_heads[0].shape[2], len(whole.scores))
        names = ["", *(["value_", "pattern_"] if split else [])]
        grids = {
            name + kind: whole.scores.new_zeros(shape)
            for name in names
            for kind in ("norms", "signed")
        }
        outside = {kind: whole.scores.repeat(view.n_layers, 1) for kind in ("norms", "signed")}
        for layer, g in zip(layers, at_heads):
            if g.ndim != 4:
                raise UnsupportedModelError(
                    f"blocks.{layer}.attn.hook_z has no head axis on this model: use flow"
                )
            if read_only:
                keep = torch.arange(g.shape[1], device=g.device) == question.position
                g = g * keep[:, None, None]
            rest = _Layer(whole, layer, g, split).fill(grids, chunk_size)
            every = torch.arange(len(rest), device=rest.device)
            outside["norms"][layer] = whole.size(rest, every).sum(0)
            outside["signed"][layer] = whole.signed(rest, every).sum(0)
        found: dict[str, Any] = {name: trace.whole(values) for name, values in grids.items()}
        return HeadPaths(
            **trace.common(),
            **found,
            site=source.label,
            read_only=read_only,
            scores=trace.whole(whole.scores),
            outside_norms=trace.whole(outside["norms"]),
            outside_signed=trace.whole(outside["signed"]),
        )


@dataclass(frozen=True, eq=False)
class _Layer:
    """One block's heads, and the gradient at their outputs."""

    whole: Whole
    layer: int
    gradient: Float[Tensor, "vector pos head_index d_head"]
    split: bool

    def fill(
        self, grids: dict[str, Tensor], chunk_size: int | None
    ) -> Float[Tensor, "vector pos d_model"]:
        """Add what passes through each head; returns what passes outside all of them."""
        whole, heads_first = self.whole, self.gradient.transpose(1, 2)
        k, n = heads_first.shape[:2]
        rest = whole.gradient.clone()
        for numbers in whole.chunks(k * n, chunk_size):
            vector, head = numbers // n, numbers % n
            parts = self._parts(alone(heads_first, vector, head).transpose(1, 2))
            for name, values in parts.items():
                for kind, measure in (("norms", whole.size), ("signed", whole.signed)):
                    grids[name + kind][self.layer].index_add_(0, head, measure(values, vector))
            rest.index_add_(0, vector, -parts[""])
        return rest

    def _parts(
        self, cotangents: Float[Tensor, "direction pos head_index d_head"]
    ) -> dict[str, Float[Tensor, "direction pos d_model"]]:
        kept = self.whole.trace.kept
        z, q, k, v = (f"blocks.{self.layer}.attn.hook_{name}" for name in "zqkv")
        if not self.split:
            return {"": self.whole.pull([kept[z]], [cotangents])}
        inputs = [kept[v], kept[q], kept[k]]
        found = pull(self.whole.trace.question.view, [kept[z]], inputs, [cotangents[:, None]])
        n = len(cotangents)
        at_v, *at_pattern = (
            x.new_zeros(n, *x.shape[1:]) if g is None else g[:, 0] for x, g in zip(inputs, found)
        )
        value = self.whole.pull(inputs[:1], [at_v])
        pattern = self.whole.pull(inputs[1:], at_pattern)
        return {"": value + pattern, "value_": value, "pattern_": pattern}
