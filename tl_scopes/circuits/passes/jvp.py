"""Motion pushed forward: how activations move when the source tokens do (Jacobian-vector products)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tl_scopes.adapter import forks
from tl_scopes.adapter.sites import Site
from tl_scopes.circuits.passes.trace import CircuitRun
from tl_scopes.errors import UnsupportedModelError
from tl_scopes.jacobian.ruled import read_ruled

_ONE_LEVEL = threading.RLock()


def _renew() -> None:
    global _ONE_LEVEL
    if forks.is_orphaned(_ONE_LEVEL):
        _ONE_LEVEL = threading.RLock()


forks.in_child(_renew)


def push_forward(
    prompt_run: CircuitRun, sites: Sequence[Site], direction: Float[Tensor, "vector pos d_model"]
) -> list[Float[Tensor, "vector pos d_model"]]:
    """How the activations at `sites` move when that at the first one moves along `direction`.

    One forward pass with forward-mode differentiation; rows of the batch are the directions. Inside
    `view.locked()`. Raises `UnsupportedModelError` where an operation has no such derivative.
    """
    view = prompt_run.view
    if prompt_run.hooked and len(direction) > 1:  # by hooks that may be made for one row
        rows = [push_forward(prompt_run, sites, one[None]) for one in direction]
        return [torch.cat(column) for column in zip(*rows)]
    moved: dict[str, Tensor] = {}

    def start(activation: Tensor) -> Tensor:
        moved["start"] = activation.detach()
        return forward_ad.make_dual(moved["start"], direction.to(activation.dtype))

    def start_again(stream: Tensor) -> Tensor:
        # A bridge that scales its embedding drops what a hook gives back with the same values.
        same = (moved["start"] * view.embed_scale).to(stream.device)
        if forward_ad.unpack_dual(stream).tangent is None and torch.allclose(stream, same):
            scaled = (direction * view.embed_scale).to(stream)
            return forward_ad.make_dual(stream.detach(), scaled)
        return stream

    def note(label: str, activation: Tensor) -> Tensor:
        tangent = forward_ad.unpack_dual(activation).tangent
        if tangent is None:
            raise UnsupportedModelError(
                f"forward-mode derivatives, which flow_path needs, do not reach {label!r} on this "
                "model: use flow, layer by layer"
            )
        moved[label] = tangent.clone()  # later hooks may edit in place
        return activation

    first, *between, last = sites

    def prepare(undo: ExitStack) -> None:
        if first.is_embed:
            view.tap_stream(undo, start_again)

    edits = {first: start} | {s: lambda a, label=s.label: note(label, a) for s in between}
    tokens = prompt_run.tokens(len(direction))
    with torch.no_grad(), view.taps() as undo:
        # There is one level for all threads, and the fused kernels of attention have no forward mode.
        for context in (_ONE_LEVEL, forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH)):
            undo.enter_context(context)
        try:
            note(
                last.label, read_ruled(view, tokens, edits, last, prompt_run.rules, prepare=prepare)
            )
        except UnsupportedModelError as failure:
            if not isinstance(error := failure.__cause__, NotImplementedError):
                raise
            raise UnsupportedModelError(
                "an operation of this model has no forward-mode derivative, which flow_path needs "
                f"({error}): use flow, layer by layer"
            ) from error
    return [direction, *(moved[site.label].to(direction) for site in sites[1:])]
