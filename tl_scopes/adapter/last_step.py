"""Whether a model's logits are what its final state gives: its last step, run once and compared."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from tl_scopes.adapter.sites import embed_site
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import UnsupportedModelError

# Tokens of a model's first prompt on which its last step is checked.
CHECKED_TOKENS = 64


def verify_once(view: ModelView, tokens: Int[Tensor, "1 pos"], whole: bool) -> None:
    """`verify`, unless the last step is known as it is now.

    The first `CHECKED_TOKENS` tokens are run, for the step is the same at any length; all of them where
    they are to be run `whole`, for hooks that may count on them.
    """
    if view.verified_under != view.last_step_facts() or view.last_step_is_hooked():
        verify(view, tokens if whole else tokens[:, :CHECKED_TOKENS])


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
