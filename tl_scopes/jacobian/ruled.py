"""What makes the gradients of a forward pass follow rules; values stay as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tl_scopes.adapter import hooks
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import Edit, ModelView
from tl_scopes.errors import UnsupportedModelError
from tl_scopes.jacobian.checkpointing import recompute_blocks
from tl_scopes.jacobian.forward import needed_sites, read_under
from tl_scopes.jacobian.held_norms import hold_norms
from tl_scopes.rules import Rules

_SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


def read_ruled(
    view: ModelView,
    tokens: Int[Tensor, "batch pos"],
    edits: Mapping[Site, Edit],
    read: Site | None,
    rules: Rules | None,
    recompute: bool = False,
    prepare: Callable[[ExitStack], None] = lambda undo: None,
) -> Tensor:
    """`forward.read_under`, whose gradients follow `rules`.

    `recompute`: keep no activations of the blocks, which the backward pass will run again. Raises
    `UnsupportedModelError` where the pass does not show what a rule changes.
    """
    unseen: dict[str, Site] = {}

    def prepare_all(undo: ExitStack) -> None:
        if recompute:
            spared = None if read is None else read.block
            recompute_blocks(view, undo, spared, lambda: _Again(view, rules))
        prepare(undo)

    def finish(undo: ExitStack) -> None:
        if rules is not None:
            follow(view, undo, rules, unseen)

    activation = read_under(view, tokens, edits, read, prepare_all, finish)
    end = view.n_layers if read is None else read.block or 0
    for hook, site in unseen.items():
        if site.block is not None and site.block < end:
            raise UnsupportedModelError(
                f"gradient rules ({rules}) need the hook {hook!r}, which a forward pass of this model does "
                "not reach: use other rules, or a model whose weights were not processed"
            )
    return activation


def follow(view: ModelView, undo: ExitStack, rules: Rules, unseen: dict[str, Site]) -> None:
    """Until `undo`, have gradients of this thread's forward passes follow `rules`. `unseen`: gets the hooks
    that this needs, by name, and loses those that a pass reaches.

    To be called after other edits of a pass are set: an activation that one of these shows has the gradient
    that the rules give it. Raises `UnsupportedModelError`, in the forward pass too.
    """
    if rules.holds("norms"):
        hold_norms(view, undo)
    tapped: list[tuple[Sequence[str], Edit, str, str]] = []
    if rules.holds("patterns"):
        # A pattern depends on the stream by way of its queries and keys alone, and their hooks lie on
        # the route on every architecture, which hook_pattern does not.
        heads = ("attn.hook_q", "attn.hook_k")
        instead = ": use a model with ordinary attention heads"
        tapped.append((heads, Tensor.detach, 'frozen="patterns"', instead))
    if rules.splits("attention"):
        tapped.append((["attn.hook_v"], _halved, 'split_products="attention"', ': use "mlp"'))
    if rules.splits("mlp") and _is_gated(view):
        factors = ("mlp.hook_pre", "mlp.hook_pre_linear")
        tapped.append((factors, _halved, 'split_products="mlp"', ': use "attention"'))

    def tap(site: Site, edit: Edit) -> None:
        def seen(activation: Tensor) -> Tensor:
            unseen.pop(site.hook, None)
            return edit(activation)

        unseen[site.hook] = site
        view.tap(undo, site, seen)

    for names, edit, call, instead in tapped:
        wanted = [f"blocks.{layer}.{name}" for layer in range(view.n_layers) for name in names]
        for site in needed_sites(view, wanted, call, instead):
            tap(site, edit)
    # Scores are a factor's product and lead to another factor, hence a half of a half.
    share = 0.25 if rules.splits("attention") else 1.0
    if rules.softmax_temperature != 1 or share != 1:
        _soften(view, undo, _Softmaxes(rules.softmax_temperature, share))


class _Again:
    """Around a block that is run again on the way back, each time it is: what it keeps must be the same."""

    def __init__(self, view: ModelView, rules: Rules | None) -> None:
        self.view, self.rules = view, rules

    def __enter__(self) -> None:
        self.undo = self.view.taps()
        if self.rules is not None:
            follow(self.view, self.undo, self.rules, {})

    def __exit__(self, *error: Any) -> None:
        self.undo.close()


def _is_gated(view: ModelView) -> bool:
    """Whether MLPs multiply two parts; those of experts do too, where nothing shows it."""
    cfg = view.cfg
    return bool(getattr(cfg, "gated_mlp", False) or getattr(cfg, "num_experts", None)) or any(
        hook.endswith(".mlp.hook_pre_linear") for hook in view.hooks
    )


class _Scaled(torch.autograd.Function):
    """Identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.clone()  # later hooks may edit in place

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        return grad_outputs[0] * ctx.share, None

    @staticmethod
    def jvp(ctx, *tangents: Any):
        return tangents[0] * ctx.share


def _halved(x: Tensor) -> Tensor:
    return _Scaled.apply(x, 0.5)  # pyright: ignore[reportReturnType]


class _Softened(torch.autograd.Function):
    """A softmax over the last axis whose gradient is `share` times that at another temperature."""

    @staticmethod
    def forward(
        ctx, x: Tensor, softmax: Callable[[Tensor], Tensor], temperature: float, share: float
    ):
        pattern = softmax(x)
        s = pattern if temperature == 1 else softmax(x / temperature)
        ctx.share, ctx.dtype = share, x.dtype
        ctx.save_for_backward(s)
        ctx.save_for_forward(s)
        return pattern

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        return _Softened._through(ctx, grad_outputs[0]).to(ctx.dtype), None, None, None

    @staticmethod
    def jvp(ctx, *tangents: Any):
        # The Jacobian is symmetric.
        (s,) = ctx.saved_tensors
        return _Softened._through(ctx, tangents[0].to(s.dtype))

    @staticmethod
    def _through(ctx, g: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        return ctx.share * s * (g - (g * s).sum(-1, keepdim=True))


class _Softmaxes(TorchFunctionMode):
    """Inside, softmax in attention (`depth` modules of it deep) has the gradient that rules give it.

    `seen`: how many there were. Raises `UnsupportedModelError` for one inside of a fused kernel.
    """

    def __init__(self, temperature: float, share: float) -> None:
        super().__init__()
        self.temperature, self.share = temperature, share
        self.depth = self.seen = 0
        self.at_rest = False

    def rest(self) -> None:
        """Change nothing from now on."""
        self.at_rest = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inside = self.depth and not self.at_rest
        if inside and func is F.scaled_dot_product_attention:
            raise _unseen("its attention is one fused kernel")
        if not inside or func not in _SOFTMAXES or not args:
            return func(*args, **kwargs)
        x, *others = args
        if kwargs.get("dim", *others[:1]) not in (-1, x.ndim - 1):
            return func(*args, **kwargs)
        self.seen += 1

        def softmax(scores: Tensor) -> Tensor:
            return func(scores, *others, **kwargs)

        return _Softened.apply(x, softmax, self.temperature, self.share)


def _soften(view: ModelView, undo: ExitStack, mode: _Softmaxes) -> None:
    """Until `undo`, `mode` is on and knows when a pass of this thread is inside attention."""
    owner, entered = threading.get_ident(), []

    def enter(_: Any, __: Any) -> None:
        if threading.get_ident() == owner:
            entered.append(mode.seen)
            mode.depth += 1

    def leave(_: Any, __: Any, ___: Any) -> None:
        if threading.get_ident() == owner and entered:
            mode.depth -= 1
            if entered.pop() == mode.seen:
                raise _unseen("its attention shows no softmax")

    for layer, block in enumerate(view.model.blocks):
        attention = getattr(block, "attn", None)
        if attention is None:
            raise _unseen(f"block {layer} has no attention")
        hooks.remove_new_hooks(undo, attention)
        attention.register_forward_pre_hook(enter)
        attention.register_forward_hook(leave)
    undo.callback(mode.rest)  # should Ctrl-C strike where the mode is entered but not yet undone
    undo.enter_context(mode)


def _unseen(why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f'softmax_temperature and split_products="attention" change the softmax of attention, which this '
        f'model does not show ({why}): use attn_implementation="eager", or rules without these two'
    )
