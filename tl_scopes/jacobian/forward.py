"""Forward passes that end at what is read: edited on the way, or just looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter import head
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import Edit, ModelView
from tl_scopes.errors import NumericalError, SiteError, UnsupportedModelError


class Stop(BaseException):
    """Ends a forward pass early; not an Exception, so that no handler on the way swallows it."""


def forward_to_stop(view: ModelView, tokens: Int[Tensor, "batch pos"]) -> None:
    """A forward pass that a tap may end early, by raising `Stop`."""
    with suppress(Stop):
        view.forward(tokens)


def activations(
    view: ModelView, tokens: Int[Tensor, "batch pos"], sites: Sequence[Site]
) -> dict[str, Tensor]:
    """The model's own activations at `sites`, [batch, pos, ...] by label. Inside `view.locked()`.

    Raises `SiteError` for a site that is not reached before the final state.
    """
    seen = seen_at(view, tokens, sites)
    for label, found in seen.items():
        if not found:
            raise SiteError(f"the forward pass does not reach {label!r} before the final state")
    return {label: found[-1] for label, found in seen.items()}


def seen_at(view: ModelView, tokens: Tensor, sites: Sequence[Site]) -> dict[str, list[Tensor]]:
    """What a forward pass to the final state shows at each site: nothing where it is not reached."""
    return look(view, tokens, sites)[0]


def look(
    view: ModelView, tokens: Int[Tensor, "batch pos"], sites: Sequence[Site]
) -> tuple[dict[str, list[Tensor]], Float[Tensor, "batch pos d_model"]]:
    """The same, and the final state that the pass ends with."""
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
) -> Tensor:
    """What is read, [batch, pos, *d], in a forward pass with activations edited at sites.

    `read`: None for the final state. `prepare`: what else is changed until `undo`. Inside
    `view.locked()`. Raises `SiteError` where the pass does not get there.
    """
    found: list[Tensor] = []

    def stop(activation: Tensor) -> Tensor:
        found.append(activation)
        raise Stop

    with view.taps() as undo:
        prepare(undo)
        for site, edit in edits.items():
            view.tap(undo, site, edit)
        if read is None:
            view.tap_final(undo, stop)
        else:
            view.tap(undo, read, stop)
        forward_to_stop(view, tokens)
    if not found:
        raise SiteError(
            f"the forward pass does not reach {read.label if read else 'the unembedding'!r}; "
            "some hooks fire only after a setting of the model such as set_use_attn_result(True)"
        )
    return at_head(view, found[0]) if read is None else found[0]


def at_head(view: ModelView, y: Tensor) -> Tensor:
    """Final states where the unembedding is, which may be another device than the final norm's."""
    return y.to(head.stored(view.model)[0].device)


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
