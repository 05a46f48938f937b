"""A forward pass that starts the autograd graph at the sites, stops at what is read, and leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import SiteError
from tl_scopes.jacobian.forward import look, not_reached, reached_again
from tl_scopes.jacobian.ruled import read_ruled
from tl_scopes.rules import Rules

# Their position axis is not the second one, whatever sizes happen to coincide.
_NO_POS_AXIS = ("hook_pattern", "hook_attn_scores")


class _Probe(torch.autograd.Function):
    """Identity whose backward pass hands the norm of what flows through it to `slot`.

    Gradients of rows with one owner are added first. The gradient of `slot` is then `||v^T dy/dx||` per
    position, so that no gradient of the size of an activation is ever kept, and one backward pass serves
    all sites. A slot of the size of the activation gets the gradient itself, of what the hook shows.
    """

    @staticmethod
    def forward(ctx, x: Tensor, slot: Tensor, scale: float, owners: Tensor | None) -> Tensor:
        ctx.scale, ctx.owners, ctx.whole = scale, owners, slot.ndim == x.ndim
        ctx.slot_dtype = slot.dtype
        # A copy, not a view: hooks that run later may edit it in place.
        return x.clone()

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        wide = grad.to(ctx.slot_dtype)
        if ctx.owners is not None:
            whole = wide.new_zeros(int(ctx.owners.max()) + 1, *wide.shape[1:])
            wide = whole.index_add(0, ctx.owners, wide)
        if ctx.whole:
            return grad if ctx.needs_input_grad[0] else None, wide, None, None
        # Squared as it is, a gradient of 1e-20 or 1e20 would be zero or infinite.
        size = wide.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
        norms = size[..., 0] * (wide / size).square().sum(-1).sqrt() / ctx.scale
        return grad if ctx.needs_input_grad[0] else None, norms, None, None


@dataclass
class Recording:
    """What a forward pass left: the activation that is read, on the graph, and a slot a site.

    `read`: [batch, pos, *d]. `slots[i]`: the zeros whose gradient is the norm at `sites[i]`,
    [batch, pos] or [batch, pos, *component], with a place for each owner of rows; None where the pass
    ended before the site.
    """

    sites: tuple[Site, ...]
    read: Tensor
    slots: list[Tensor | None] = field(default_factory=list)


def record(
    view: ModelView,
    tokens: Int[Tensor, "batch pos"],
    sites: Sequence[Site],
    read: Site | None,
    recompute: bool = False,
    owners: Sequence[int] | None = None,
    rules: Rules | None = None,
    whole: bool = False,
) -> Recording:
    """Run the model over right-padded rows up to what is read (None: the final state).

    `recompute`: keep no activations of the blocks, which the backward pass will run again. `owners`:
    which prompt each row is of, from 0; its rows' gradients are added before the norm. None: one each.
    `rules`: of the gradients.
    `whole`: slots are for the gradients themselves, [batch, pos, ..., d], in place of their norms.

    Must be called inside `view.locked()`. Raises `SiteError` for a site that is not reached, is
    reached more than once, or has no position axis.
    """
    slots: list[Tensor | None] = [None] * len(sites)
    several = owners is not None and len(set(owners)) < len(owners)
    ambiguous: list[Site] = []

    def probe(i: int, site: Site, activation: Tensor) -> Tensor:
        _check_axes(site.label, activation, tokens)
        if slots[i] is not None:
            raise reached_again(site.label)
        if site.is_named and activation.shape[1] == activation.shape[2]:
            ambiguous.append(site)
        shape = list(activation.shape if whole else activation.shape[:-1])
        of = None
        if several and owners is not None:
            shape[0], of = max(owners) + 1, torch.tensor(owners, device=activation.device)
        slots[i] = torch.zeros(
            shape,
            dtype=working_dtype(activation.dtype),
            device=activation.device,
            requires_grad=True,
        )
        scale = view.embed_scale if site.is_embed else 1.0
        return _Probe.apply(activation, slots[i], scale, of)

    edits = {site: lambda a, i=i, site=site: probe(i, site, a) for i, site in enumerate(sites)}
    activation = read_ruled(view, tokens, edits, read, rules, recompute)
    for site in ambiguous:
        _check_second_axis(view, tokens, site)
    missing = [site for site, slot in zip(sites, slots) if slot is None]
    if read is not None:
        check_site(view, read, activation, tokens)
        # The pass ended early: sites that come later have no influence, those that never come err.
        missing = [site for site in missing if site.is_named]
        later = look(view, tokens[:1], missing)[0] if missing else {}
        missing = [site for site in missing if not later[site.label]]
    if missing:
        raise not_reached(missing[0].label)
    return Recording(tuple(sites), activation, slots)


def check_site(view: ModelView, site: Site, activation: Tensor, tokens: Tensor) -> None:
    """Raise `SiteError` unless an activation at `site` is [batch, pos, ..., d]. `tokens`: what it is of."""
    _check_axes(site.label, activation, tokens)
    if site.is_named and activation.shape[1] == activation.shape[2]:
        _check_second_axis(view, tokens, site)


def _check_second_axis(view: ModelView, tokens: Tensor, site: Site) -> None:
    """Where two axes are as long as the prompt, a shorter one tells which of them is `pos`."""
    other = tokens[:1, :-1] if tokens.shape[1] > 1 else tokens[:1].repeat(1, 2)
    for activation in look(view, other, [site])[0][site.label]:
        _check_axes(site.label, activation, other)


def _check_axes(label: str, activation: Tensor, tokens: Tensor) -> None:
    fits = activation.ndim >= 3 and activation.shape[:2] == tokens.shape
    if not fits or label.split("[")[0].endswith(_NO_POS_AXIS):
        raise SiteError(
            f"site {label!r} has shape {tuple(activation.shape)}; allowed: [batch, pos, ..., d] "
            f"with [batch, pos] = {list(tokens.shape)}. Use hook_z, hook_q, hook_k, hook_v for heads"
        )
