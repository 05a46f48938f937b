"""Forward passes that end at what is read: edited on the way, or just looked at."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter import head
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import Edit, ModelView
from tl_scopes.errors import NumericalError, SiteError, UnsupportedModelError


class Stop(BaseException):
    """Ends a forward pass early; not an Exception, so that no handler on the way swallows it."""


def forward_to_stop(view: ModelView, tokens: Int[Tensor, "batch pos"], **past: Any) -> None:
    """A forward pass that a tap may end early, by raising `Stop`. `past`: as `view.forward` takes it."""
    with suppress(Stop):
        view.forward(tokens, **past)


def activations(
    view: ModelView, tokens: Int[Tensor, "batch pos"], sites: Sequence[Site]
) -> dict[str, Tensor]:
    """The model's own activations at `sites`, [batch, pos, ...] by label. Inside `view.locked()`.

    Raises `SiteError` for a site that is not reached before the final state.
    """
    seen, _ = look(view, tokens, sites)
    for label, activations_there in seen.items():
        if not activations_there:
            raise not_reached(label)
    return {label: activations_there[-1] for label, activations_there in seen.items()}


def look(
    view: ModelView, tokens: Int[Tensor, "batch pos"], sites: Sequence[Site]
) -> tuple[dict[str, list[Tensor]], Float[Tensor, "batch pos d_model"]]:
    """What a forward pass to the final state shows at each site, nothing where it is not reached; and
    the final state."""
    seen: dict[str, list[Tensor]] = {site.label: [] for site in sites}

    def note(label: str, activation: Tensor) -> Tensor:
        # A copy: hooks that run later may edit it in place.
        seen[label].append(activation.clone())
        return activation

    edits = {site: lambda a, label=site.label: note(label, a) for site in dict.fromkeys(sites)}
    with torch.no_grad():
        y = read_under(view, tokens, edits)
    return seen, y


def read_under(
    view: ModelView,
    tokens: Int[Tensor, "batch pos"],
    edits: Mapping[Site, Edit],
    read: Site | None = None,
    prepare: Callable[[ExitStack], None] = lambda undo: None,
    finish: Callable[[ExitStack], None] = lambda undo: None,
    past: Mapping[str, Any] = types.MappingProxyType({}),
) -> Tensor:
    """What is read, [batch, pos, *d], in a forward pass with activations edited at sites.

    `read`: None for the final state. `prepare`, and `finish` after the edits: what else is changed until
    `undo`. `past`: keys and values of what stands before `tokens`. Inside `view.locked()`. Raises
    `SiteError` where the pass does not get there.
    """
    reads: list[Tensor] = []

    def stop(activation: Tensor) -> Tensor:
        reads.append(activation)
        raise Stop

    with view.taps() as undo:
        prepare(undo)
        for site, edit in edits.items():
            view.tap(undo, site, edit)
        finish(undo)
        if read is None:
            view.tap_final(undo, stop)
        else:
            view.tap(undo, read, stop)
        forward_to_stop(view, tokens, **past)
    if not reads:
        raise not_reached(read.label if read else "the unembedding", "its end")
    if read is None:  # where the unembedding is, which may be another device than the final norm's
        return reads[0].to(head.stored(view.model)[0].device)
    return reads[0]


def read_values(
    view: ModelView,
    site: Site | None,
    activation: Float[Tensor, "batch pos *d"],
    rows: Sequence[int],
    positions: Sequence[int],
) -> Float[Tensor, "read *own"]:
    """What is read of the activation at `site` (None: of the final state), one read a row and position."""
    read = activation[list(rows), list(positions)]
    if site is not None and site.is_embed and view.embed_scale != 1:
        read = read * view.embed_scale
    if site is not None and site.component is not None:
        ((_, index),) = site.components(activation.shape[2:-1])
        read = read[(slice(None), *index)]
    return read


def needed_sites(view: ModelView, hooks: Sequence[str], call: str, instead: str) -> list[Site]:
    """The sites of hooks that a call needs. Raises `UnsupportedModelError` where the model has not all."""
    known = view.hooks
    for hook in hooks:
        if hook not in known:
            raise UnsupportedModelError(
                f"{call} needs the hook {hook!r}, which this model does not have{instead}"
            )
    return [Site(hook, hook) for hook in hooks]


def not_reached(label: str, before: str = "the final state") -> SiteError:
    """The error for a site that no forward pass shows before what is read."""
    return SiteError(
        f"the forward pass does not reach {label!r} before {before}: give a site that comes before it. "
        "Some hooks fire only after a setting of the model such as set_use_attn_result(True), some "
        "never on this architecture"
    )


def reached_again(label: str) -> SiteError:
    """The error for a site that one forward pass shows several times."""
    return SiteError(
        f"site {label!r} is reached more than once in a forward pass (it is shared by queries, keys and "
        "values, say): its influence is not one number; use the residual stream before it"
    )


def no_path(label: str, frozen: str = "") -> str:
    """What to say of a site whose activation does not lead to what is read.

    `frozen`: what else may be the cause on circuits, which can hold parts of a model constant.
    """
    return (
        f"{label!r} has no path to what is read: its activation is a by-product on this architecture, "
        f"{frozen}or a hook of yours replaces what follows; use the residual stream, or another hook"
    )


def check_gradient(view: ModelView, label: str, sizes: Float[Tensor, "pos"], position: int) -> None:
    """Refuse a gradient at a site, given by its size at each token.

    Raises `NumericalError` where it is not finite, `UnsupportedModelError` where tokens after the read
    `position` have a part in it.
    """
    bad = (~torch.isfinite(sizes.float())).nonzero()
    if len(bad):
        raise NumericalError(
            f"NaN or infinity in the gradient at site {label!r}, token {int(bad[0])}, although the "
            "forward pass was finite: check the weights and hooks between there and what is read"
            f"{overflow_hint(view)}"
        )
    if sizes[position + 1 :].any():
        refuse_noncausal(label, position)


def first_nonfinite(view: ModelView, tokens: Int[Tensor, "batch pos"]) -> str | None:
    """The first of embed, resid(0), .. where an activation is NaN or infinite, if there is one."""
    bad: list[str] = []

    def check(label: str, activation: Tensor) -> Tensor:
        if not bad and not torch.isfinite(activation).all():
            bad.append(label)
        return activation

    sites = [s for s in view.sites("all") if s.hook in view.hooks]
    edits = {site: lambda a, label=site.label: check(label, a) for site in sites}
    with torch.no_grad():
        check("final state", read_under(view, tokens, edits))
    return bad[0] if bad else None


def refuse_nonfinite(view: ModelView, tokens: Int[Tensor, "batch pos"], what: str) -> None:
    """Raise `NumericalError` that names the first site with a NaN or infinity."""
    site = first_nonfinite(view, tokens)
    where = (
        f"it first appears in the activation at {site}"
        if site
        else ("every activation of the residual stream is finite, so it arises in the unembedding")
    )
    raise NumericalError(
        f"NaN or infinity in {what}: {where}. Check the weights and hooks there{overflow_hint(view)}"
    )


def refuse_noncausal(label: str, position: int) -> None:
    """Raise `UnsupportedModelError`: tokens after the read position matter at a site."""
    raise UnsupportedModelError(
        f"at site {label!r} tokens after the read position {position} have influence: the model is "
        "not causal, and only causal models can be explained; a hook may be what looks ahead"
    )


def overflow_hint(view: ModelView) -> str:
    if view.dtype != torch.float16:
        return ""
    return "; in float16 an overflow is likely: load the model in bfloat16 or float32"
