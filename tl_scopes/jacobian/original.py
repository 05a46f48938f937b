"""Whether a bridge computes what the model that it wraps does, compared on some tokens."""

from __future__ import annotations

import functools
import types
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tl_scopes.adapter import hooks, internals
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import UnsupportedModelError
from tl_scopes.models.folder import AGREEMENT, disagreement, spread_ids

# Settings that let a bridge take another path through its attention.
_SETTINGS = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
_compared: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()


def refuse_another(view: ModelView, tokens: Int[Tensor, "1 pos"]) -> None:
    """On a bridge's first use, and in another dtype or setting: hold it against the model it wraps.

    `tokens`: ids of a prompt, run where ids spread over the vocabulary give NaN. Inside
    `view.locked()`. Raises `UnsupportedModelError`.
    """
    facts = (view.dtype, view.device, *(getattr(view.cfg, s, None) for s in _SETTINGS))
    if not view.is_bridge or _compared.get(view.model) == facts:
        return
    refuse(view, apart(view, tokens))
    _compared[view.model] = facts


def allowed(dtype: torch.dtype) -> float:
    """What `apart` may give."""
    return AGREEMENT.get(str(dtype).removeprefix("torch."), AGREEMENT["bfloat16"])


def refuse(view: ModelView, off: float | None) -> None:
    """Raise `UnsupportedModelError` where `off`, as `apart` gives it, is more than is allowed."""
    most = allowed(view.dtype)
    if off is not None and not off <= most:
        wrapped = type(view.model.original_model).__name__
        dtype = str(view.dtype).removeprefix("torch.")
        raise UnsupportedModelError(
            f"transformer-lens's bridge is not the model that it wraps ({wrapped}): with no hook on it, "
            f"log-probabilities are off by {off:.2g} of their spread, allowed {most:g} in {dtype}. "
            "Use another version of transformer-lens, or backend='hooked' of tl_scopes.models.load"
        )


def apart(view: ModelView, tokens: Int[Tensor, "1 pos"]) -> float | None:
    """By how much log-probabilities of a bridge differ from those of the model it wraps, over their spread.

    A bridge puts its own modules into the model, so that to run `original_model` is to run the bridge
    again. What runs here is a copy of the tree of modules with each one's original in its place, over
    the same parameters; a bridge's module that it enters all the same makes the answer None. Hooks of
    the user's are off meanwhile, for this thread. It sees whatever the bridge computes by itself
    (attention, rotary positions, norms, routers) and how it calls the model; not what was
    changed in the weights, the configuration or a class when the bridge was booted: `models.load`
    sees that.

    None where nothing can be told: weights that were processed, a module of another kind (an SAE)
    in a hook point's place, torch's global hooks, a forward function that is bound to the bridge or
    that the user put into one of its modules.
    """
    model = view.model
    points = [p for m in view.every_module() for p in internals.registered(m).values()]
    if (
        internals.may_be_processed(model)
        or hooks.everywhere("forward")
        or not all(map(internals.is_point, points))
        or any(_is_patched(module) for module in view.every_module())
    ):
        return None
    wrapped = untouched(model.original_model)
    config = getattr(model.original_model, "config", None)
    ids = spread_ids(config, view.cfg.d_vocab, view.n_ctx).to(view.device)
    entered: list[nn.Module] = []
    with torch.no_grad(), view.taps() as undo:
        hooks.off(undo, view.every_module())
        for module in view.every_module():
            if internals.WRAPPED in internals.children(module):
                view.tap_module(
                    undo, module, lambda x: x, lambda x, m=module: entered.append(m) or x
                )
        for row in (ids, tokens[:, : ids.shape[1]]):
            got = view.forward(row)
            entered.clear()
            out = wrapped(row, use_cache=False)
            if entered:
                return None
            off = disagreement(out if isinstance(out, Tensor) else out["logits"], got)
            if off == off:
                return off
    return None


def _is_patched(module: nn.Module) -> bool:
    """Whether a bridge's module computes what the user said: not only what accelerate wraps."""
    own = vars(module)
    is_bridges = internals.WRAPPED in internals.children(module)
    return is_bridges and "forward" in own and "_hf_hook" not in own


def untouched(model: nn.Module) -> nn.Module:
    """`model` without the bridge's modules: a new tree of the originals, over the same parameters."""
    copies: dict[int, nn.Module] = {}

    def copied(module: nn.Module) -> nn.Module:
        while (inside := internals.children(module).get(internals.WRAPPED)) is not None:
            module = inside
        if id(module) not in copies:
            copies[id(module)] = new = module.__new__(type(module))
            new.__dict__ = {name: _bound(v, module, new) for name, v in vars(module).items()}
            internals.own_hooks(new)  # transformers adds some in a pass
            below = internals.children(module).items()
            internals.give(
                new,
                modules={name: None if m is None else copied(m) for name, m in below},
                buffers=dict(internals.buffers(module)),  # rotary tables may be made anew in a pass
            )
        return copies[id(module)]

    return copied(model)


def _bound(value: Any, old: nn.Module, new: nn.Module) -> Any:
    """A method of `old` that is kept in an attribute, as one of `new`: others stay what they are."""
    if isinstance(value, types.MethodType) and value.__self__ is old:
        return types.MethodType(value.__func__, new)
    if isinstance(value, functools.partial) and value.args[:1] == (old,):
        return functools.partial(value.func, new, *value.args[1:], **value.keywords)
    return value
