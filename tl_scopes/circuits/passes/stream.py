"""What is written into the residual stream, by whom, and how a head's share of it is told apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter import guards
from tl_scopes.adapter.middle import tolerance
from tl_scopes.adapter.sites import Site, resid_site
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import NonAdditiveError, ScopeParameterError
from tl_scopes.jacobian.held_norms import NormFit, find_norms, fit_norm


@dataclass(frozen=True)
class Stream:
    """The last residual stream before what is read: its site, and the blocks written into it.

    `blocks`: how many blocks wrote into it whole. `attn_too`: whether the next one's attention did.
    """

    site: Site
    blocks: int
    attn_too: bool = False

    @property
    def attn_layers(self) -> range:
        return range(self.blocks + self.attn_too)


def last_stream(view: ModelView, read: Site | None) -> Stream:
    """Where what a scope reads at `read` (None: the final state) was still a sum of writes."""
    n = view.n_layers
    if read is None or read.hook.startswith(("ln_final.", "unembed.")):
        return Stream(resid_site(n, n), n)
    block = read.block
    if read.is_embed or block is None or block >= n:
        raise ScopeParameterError(
            f"a direction at {read.label!r} is read outside the blocks, where heads and MLPs have "
            'nothing to write into: give a site inside or between blocks, such as "resid(3)"'
        )
    name = read.hook.split(".", 2)[2]
    if read.layer is not None:
        return Stream(read, read.layer)
    if name in ("hook_resid_pre", "hook_in"):
        return Stream(read, block)
    if name in ("hook_resid_post", "hook_out"):
        return Stream(read, block + 1)
    if name.startswith(("hook_resid_post.", "hook_out.")):  # an SAE attached there
        return Stream(resid_site(block + 1, n), block + 1)
    mid = f"blocks.{block}.hook_resid_mid"
    if name == "hook_resid_mid" or (
        name.startswith(("mlp.", "hook_mlp", "ln2")) and mid in view.hooks
    ):
        return Stream(view.site(mid), block, attn_too=True)
    return Stream(resid_site(block, n), block)


@dataclass(frozen=True, eq=False)
class Output:
    """How the write of one attention or MLP follows from the sum of its parts, `o`: it is
    `factor * o`, or a norm of `o` whose scale is held."""

    factor: float = 1.0
    norm: NormFit | None = None

    def pull(self, g: Tensor) -> Tensor:
        """From cotangents of the write to cotangents of `o`."""
        return self.factor * g if self.norm is None else self.norm.transposed(g)

    def constant(self, g: Float[Tensor, "vector pos d_model"]) -> Float[Tensor, "vector pos"]:
        """What the norm's own bias adds, under the cotangents `g`."""
        if self.norm is None:
            return g.new_zeros(g.shape[:-1])
        return g.to(self.norm.bias.dtype) @ self.norm.bias


def output_map(view: ModelView, layer: int, o: Tensor, write: Tensor, parts: str) -> Output:
    """How `write` follows from the summed parts `o`, [pos, d_model]. Raises `NonAdditiveError`."""
    allowed = tolerance(view.dtype)
    a, b = o.detach(), write.detach()
    # Position by position: activations of a first token may be a thousand times those of others.
    scale = b.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(b.dtype).tiny)
    if ((a - b).abs() <= allowed * scale).all():
        return Output()
    factor = float((a * b).sum() / a.square().sum())
    if ((factor * a - b).abs() <= allowed * scale).all():
        return Output(factor)
    fits = [
        fit
        for norm in find_norms(guards.every_module(view.model.blocks[layer]))
        if (fit := fit_norm(norm, a, b)) is not None and fit.error <= allowed
    ]
    if fits:
        return Output(norm=min(fits, key=lambda fit: fit.error))
    raise NonAdditiveError(
        f"in block {layer} {parts} do not add up to what is written into the residual stream, nor "
        'to a multiple or a norm of it: use by="mlp" on this architecture'
    )


def check_sum(view: ModelView, stream: Tensor, parts: list[Tensor], where: str) -> None:
    """Refuse where what embedding, attention and MLPs write is not the stream. `NonAdditiveError`."""
    each = torch.stack(parts)
    scale = torch.maximum(each.abs().amax((0, -1)), stream.abs().amax(-1))
    missed = (each.sum(0) - stream).abs().amax(-1) / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    error = missed.max()
    if not error <= tolerance(view.dtype):
        raise NonAdditiveError(
            f"what the embedding, the heads and the MLPs write misses the residual stream at {where} "
            f"by {float(error):.1e} of its largest entry at a position (allowed {tolerance(view.dtype):.0e}): this "
            "architecture writes something else too, or a hook of yours edits the stream; use "
            'by="layer", remove such hooks, or use '
            f"{'head_paths' if shows_heads(view, range(view.n_layers)) else 'flow'}, which needs no sum"
        )


def shows_heads(view: ModelView, layers: range) -> bool:
    """Whether what every head of these layers writes is shown by hook points."""
    names = [f"blocks.{i}.{name}" for i in layers for name in ("hook_attn_out", "attn.hook_z")]
    return all(name in view.hooks for name in names)


# Where the parts that `by` names are combined: module, weight, its axes, bias.
_WEIGHTS = {"head": ("attn", "W_O", 3, "b_O"), "neuron": ("mlp", "W_out", 2, "b_out")}


def part_weights(
    view: ModelView, layer: int, by: str
) -> tuple[Float[Tensor, "part d_part d_model"], Tensor | None]:
    """How heads (`W_O`) or neurons (`W_out`, d_part 1) of one block are written into the stream, and
    the bias that is added [d_model] (None: there is none). Raises `NonAdditiveError` where they cannot
    be had.
    """
    place, weight, ndim, bias = _WEIGHTS[by]
    module = getattr(view.model.blocks[layer], place)
    try:
        W, b = getattr(module, weight), getattr(module, bias, None)
    except (AttributeError, RuntimeError, ValueError, TypeError):
        W = b = None
    if not isinstance(W, Tensor) or W.ndim != ndim:
        raise NonAdditiveError(
            f"block {layer} has no {weight} with {ndim} axes, which telling its parts apart needs: "
            'use by="mlp" on this architecture'
        )
    W = W.detach() if by == "head" else W.detach()[:, None]
    return W, b.detach() if isinstance(b, Tensor) and bool(b.any()) else None
