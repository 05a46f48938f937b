"""A forward pass that roots the graph at the sites, stops at what is read, and leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import SiteError, UnsupportedModelError
from tl_scopes.jacobian.checkpointing import recompute_blocks
from tl_scopes.jacobian.forward import read_under, seen_at

# Their position axis is not the second one, whatever sizes happen to coincide.
_NO_POS_AXIS = ("hook_pattern", "hook_attn_scores")


class _Probe(torch.autograd.Function):
    """Identity whose backward pass hands the norm of what flows through it to `slot`.

    The gradient of `slot` is then `||v^T dy/dx||` per position, so that no gradient of the size
    of an activation is ever kept, and one backward pass serves all sites.
    """

    @staticmethod
    def forward(ctx, x: Tensor, slot: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        ctx.slot_dtype = slot.dtype
        # A copy, not a view: hooks that run later may edit it in place.
        return x.clone()

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        wide = grad.to(ctx.slot_dtype)
        # Squared as it is, a gradient of 1e-20 or 1e20 would be zero or infinite.
        size = wide.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
        norms = size[..., 0] * (wide / size).square().sum(-1).sqrt() / ctx.scale
        return grad if ctx.needs_input_grad[0] else None, norms, None


@dataclass
class Recording:
    """What a forward pass left: the activation that is read, on the graph, and a slot a site.

    `read`: [batch, pos, *d]. `slots[i]`: the zeros whose gradient is the norm at `sites[i]`,
    [batch, pos] or [batch, pos, *component]; None where the pass ended before the site.
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
) -> Recording:
    """Run the model over right-padded rows up to what is read (None: the final state).

    `recompute`: keep no activations of the blocks, which the backward pass will run again.

    Must be called inside `view.locked()`. Raises `SiteError` for a site that is not reached, is
    reached more than once, or has no position axis.
    """
    slots: list[Tensor | None] = [None] * len(sites)
    ambiguous: list[Site] = []

    def probe(i: int, site: Site, activation: Tensor) -> Tensor:
        check_axes(site.label, activation, tokens)
        if slots[i] is not None:
            raise SiteError(
                f"site {site.label!r} is reached more than once in a forward pass (it is shared by "
                "queries, keys and values, say): its influence is not one number; use the "
                "residual stream before it"
            )
        if site.is_named and activation.shape[1] == activation.shape[2]:
            ambiguous.append(site)
        slots[i] = torch.zeros(
            activation.shape[:-1],
            dtype=working_dtype(activation.dtype),
            device=activation.device,
            requires_grad=True,
        )
        scale = view.embed_scale if site.is_embed else 1.0
        return _Probe.apply(activation, slots[i], scale)

    def prepare(undo: ExitStack) -> None:
        if recompute:
            recompute_blocks(view, undo, spared=None if read is None else read.block)

    edits = {site: lambda a, i=i, site=site: probe(i, site, a) for i, site in enumerate(sites)}
    found = read_under(view, tokens, edits, read, prepare)
    if read is not None and found.ndim > 2 and found.shape[1] == found.shape[2]:
        ambiguous.append(read)
    for site in ambiguous:
        check_second_axis(view, tokens, site)
    missing = [site for site, slot in zip(sites, slots) if slot is None]
    if read is not None:
        check_axes(read.label, found, tokens)
        # The pass ended early: sites that come later have no influence, those that never come err.
        missing = [site for site in missing if site.is_named and not _fires(view, tokens, site)]
    if missing:
        raise SiteError(
            f"the forward pass does not reach site {missing[0].label!r} before the final state; "
            "some hooks fire only after a setting of the model such as "
            "set_use_attn_result(True), some never on this architecture"
        )
    return Recording(tuple(sites), found, slots)


def check_second_axis(view: ModelView, tokens: Tensor, site: Site) -> None:
    """Where two axes are as long as the prompt, a shorter one tells which of them is `pos`."""
    other = tokens[:1, :-1] if tokens.shape[1] > 1 else tokens[:1].repeat(1, 2)
    for activation in seen_at(view, other, [site])[site.label]:
        check_axes(site.label, activation, other)


def _fires(view: ModelView, tokens: Tensor, site: Site) -> bool:
    """Whether a forward pass to the final state reaches `site`."""
    return bool(seen_at(view, tokens[:1], [site])[site.label])


def verify(view: ModelView, tokens: Int[Tensor, "batch pos"]) -> None:
    """On a model's first use, or under new hooks: check its last step, measure its embedding scale.

    One forward pass over the first row, unembedding the last position only (all of them, if there
    are hooks there that may edit any), tells whether the logits are what `W_U`, `b_U` and the output
    transform give, and by which constant the first block's stream exceeds the embedding hook's
    output (1 on nearly every architecture).
    Raises `UnsupportedModelError`.
    """
    facts = view.last_step_facts()
    seen: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor) -> Tensor:
        seen[name] = activation
        return activation

    with torch.no_grad(), view.taps() as undo:
        view.tap(undo, embed_site(), lambda a: keep("embed", a))
        if view.n_layers:
            view.tap_stream(undo, lambda a: keep("stream", a))
        first = 0 if view.last_step_is_hooked() else -1
        view.tap_final(undo, lambda y: keep("y", y[:, first:]))
        logits = view.forward(tokens[:1])[0]
        head = view.unembedding()
        expected = head.logits(head.raw_logits(seen["y"][0]))
        if not torch.isfinite(expected).all():
            return
        verify_head(view, logits, expected)
        if "embed" in seen and not seen["embed"].any():
            return  # zeros do not tell by what they are scaled: asked again at the next use
        if "embed" in seen and "stream" in seen:
            view.embed_scale = _constant_ratio(seen["stream"], seen["embed"])
    view.verified_under = facts


def verify_head(view: ModelView, logits: Tensor, expected: Tensor) -> tuple[float, float]:
    """Refuse a model whose logits are not what `W_U`, `b_U` and the output transform give.

    Returns by how much they differ, as a share of the largest, and what is allowed.
    """
    scale = float(expected.abs().max().clamp_min(1e-6))
    error = float((logits.to(expected) - expected).abs().max()) / scale
    allowed = 1e-3 if view.dtype in (torch.float32, torch.float64) else 5e-2
    if not error <= allowed and torch.isfinite(logits).all():
        raise UnsupportedModelError(
            f"the model's logits differ from y W_U + b_U (with its output transform) by {error:.1e} "
            f"of their largest value, allowed {allowed:.0e}: an architecture with another last "
            "step, or hooks that edit the logits; remove such hooks, or use another model"
        )
    return error, allowed


def _constant_ratio(stream: Tensor, embed: Tensor) -> float:
    """c where `stream = c * embed` throughout, else 1: positions or a norm come in between."""
    a, b = stream.cpu().double().flatten(), embed.cpu().double().flatten()
    if a.shape != b.shape or not b.any():
        return 1.0
    ratio = float(a @ b / (b @ b))
    error = torch.linalg.vector_norm(a - ratio * b)
    fits = ratio > 0 and error <= 1e-2 * torch.linalg.vector_norm(a)
    return ratio if fits and abs(ratio - 1) > 1e-2 else 1.0


def check_axes(label: str, activation: Tensor, tokens: Tensor) -> None:
    fits = activation.ndim >= 3 and activation.shape[:2] == tokens.shape
    if not fits or label.split("[")[0].endswith(_NO_POS_AXIS):
        raise SiteError(
            f"site {label!r} has shape {tuple(activation.shape)}; allowed: [batch, pos, ..., d] "
            f"with [batch, pos] = {list(tokens.shape)}. Use hook_z, hook_q, hook_k, hook_v for heads"
        )
