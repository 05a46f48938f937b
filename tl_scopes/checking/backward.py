"""What gradients must be: slopes, wherever they are taken, and in the sums that are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from tl_scopes import circuits
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import ModelView
from tl_scopes.attribution import attribute, attribute_batch
from tl_scopes.checking.finding import Finding, held, skipped
from tl_scopes.checking.subject import Subject, room_for_weights
from tl_scopes.errors import ScopesError
from tl_scopes.jacobian import slope
from tl_scopes.jacobian.stability import hooks_that_follow, widened
from tl_scopes.render.colours import number
from tl_scopes.results.circuits import Components
from tl_scopes.scopes.prediction import SemanticScope

_PRECISE = ("float32", "float64")
# A share that honest models keep below in these, by far; what is more is let pass on first use, where a
# wrong refusal would cost more.
_OFF = 0.03
_INEXACT = (
    "some operation may hand on another derivative than its own (quantised activations, a stopped "
    "gradient): use a model in float32, bfloat16 or float16, without it"
)


def sites(view: ModelView) -> list[Site]:
    """Five places from the embedding to the last stream: streams, and what is written between them."""
    n = view.n_layers
    wanted: list[Any] = ["embed"]
    if n:
        middle = n // 2
        written = [f"blocks.{middle}.hook_attn_out", f"blocks.{middle}.hook_mlp_out"]
        wanted += [min(1, n), *(hook for hook in written if hook in view.hooks), n]
    return list(view.sites(wanted))


def gradient(at: Subject, site: Site) -> Finding:
    """Whether the gradient at a site is the slope that nudges there measure."""
    dtype = at.dtype_name
    try:
        with at.view.locked():
            off, allowed = slope.deviation(at.view, at.tokens, site, at.view.is_hooked())
    except ScopesError as error:
        return Finding("", "failed", str(error))
    if off is None:
        return skipped(f"a pass in {dtype} overflows", "load the model in bfloat16 or float32")
    measured = f"{off:.2%} off the slope, in {dtype}"
    return held(off, min(allowed, _OFF) if dtype in _PRECISE else allowed, measured, _INEXACT)


@contextmanager
def precisely(at: Subject) -> Iterator[None]:
    """The model in float32, where it is in half precision and memory allows."""
    half = at.view.dtype in (torch.bfloat16, torch.float16)
    fits = half and room_for_weights(at.model, torch.float32)
    with widened(at.view) if fits else nullcontext():
        yield


def following(look: Callable[[Subject], Finding], dtype: torch.dtype) -> Callable[..., Finding]:
    """`look` for a model that is `precisely` what it is in `dtype`."""

    def run(at: Subject) -> Finding:
        with nullcontext() if at.view.dtype == dtype else hooks_that_follow(at.view, dtype):
            return look(at)

    return run


def batch(at: Subject) -> Finding:
    """Whether prompts that share a pass get the scores that each gets alone."""
    prompts = [at.short, at.short[: max(1, len(at.short) * 2 // 3)]]
    alone = [attribute(at.model, ids, SemanticScope()) for ids in prompts]
    scopes = [SemanticScope(result.target.id) for result in alone if result.target is not None]
    together = attribute_batch(at.model, prompts, scopes)
    gap = max(
        float((a.scores - b.scores).abs().max() / b.scores.abs().max())
        for a, b in zip(together, alone)
    )
    return held(
        gap,
        at.tolerance,
        f"scores within {number(gap)} of the largest",
        "give prompts one by one (attribute); rows of a batch change each other on this model",
    )


def writes(at: Subject) -> Finding:
    """Whether what the embedding, heads and MLPs write is the residual stream."""
    components = _components(at, "mlp")
    total, parts = components.whole, components.direct_vectors.sum((1, 2))
    scale = torch.maximum(components.direct_vectors.abs().amax((1, 2)), total.abs())
    gap = float(((parts - total).abs() / scale.clamp_min(1e-30)).max())
    measured = f"{len(components.labels)} parts sum to the stream, to {number(gap)} of the largest"
    return held(gap, at.tolerance, measured, 'use by="layer", and flow')


def heads(at: Subject) -> Finding:
    """Whether heads are as many as the model has, and add up to what its attention writes."""
    parts = _components(at, "head")
    each = Counter(layer for layer, kind in zip(parts.layers, parts.kinds) if kind == "head")
    counts = " or ".join(str(n) for n in sorted(set(each.values())))
    return Finding("", "passed", f"{counts} in a block; they add up to what attention writes")


def _components(at: Subject, by: Any) -> Components:
    return circuits.components(at.model, at.short, SemanticScope(), by)


def offered(look: Callable[[Subject], Finding]) -> Callable[[Subject], Finding]:
    """`look` for a function that some models are refused, though scopes are right on them."""

    def run(at: Subject) -> Finding:
        try:
            return look(at)
        except ScopesError as error:
            measured, _, remedy = str(error).rpartition(": ")
            return Finding("", "refused", measured or str(error), remedy=remedy if measured else "")

    return run
