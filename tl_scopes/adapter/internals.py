"""What torch, transformer-lens and others keep for themselves: every private field read here, nowhere else.

`tests/adapter/test_internals.py` holds each against the installed releases, and says which ones changed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from datetime import timedelta
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

Store = dict[int, Callable[..., Any]]
# What a bridge calls the module that it wraps, in the names of modules.
WRAPPED = "_original_component"


# ------------------------------------------------------------------------------------------- torch
def children(module: nn.Module) -> dict[str, Any]:
    """The modules right below one, by name. As `children()`, without its generators, which take as
    long over a whole model as a transformer block."""
    return module._modules


def parameters(module: nn.Module) -> dict[str, Any]:
    """The parameters of one module, those below it aside."""
    return module._parameters


def buffers(module: nn.Module) -> dict[str, Any]:
    """The buffers of one module, those below it aside."""
    return module._buffers


def give(module: nn.Module, **stores: dict[str, Any]) -> None:
    """Put others in the place of a module's `parameters`, `buffers` or `modules` (those right below
    it): of a copy, whose original keeps its own."""
    vars(module).update({f"_{name}": own for name, own in stores.items()})


def own_hooks(module: nn.Module) -> None:
    """Let a copy of a module have hooks apart from those of its original."""
    stores = {name: v for name, v in vars(module).items() if "_hooks" in name}
    vars(module).update({name: copy(v) for name, v in stores.items() if isinstance(v, dict)})


def version(tensor: Tensor) -> int:
    """How often a tensor has been written to."""
    return tensor._version


def before_and_after(module: nn.Module, direction: str) -> tuple[Store, Store]:
    """The hooks that torch calls around one module, by its number: "forward" or "backward"."""
    if direction == "forward":
        return module._forward_pre_hooks, module._forward_hooks
    return module._backward_pre_hooks, module._backward_hooks


def is_hooked(module: nn.Module) -> bool:
    """Whether torch calls any hook around one module."""
    before, after = module._forward_pre_hooks, module._forward_hooks
    return bool(before or after or module._backward_pre_hooks or module._backward_hooks)


def keyword_marks(module: nn.Module) -> tuple[dict[int, bool], dict[int, bool]]:
    """Which of the forward hooks are called with keyword arguments."""
    return module._forward_pre_hooks_with_kwargs, module._forward_hooks_with_kwargs


def around_all(direction: str) -> tuple[Store, Store]:
    """The hooks that torch calls around every module there is (`register_module_forward_hook`, ...)."""
    if direction == "forward":
        return torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks
    return torch_module._global_backward_pre_hooks, torch_module._global_backward_hooks


def is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called."""
    return module._compiled_call_impl is not None


def dropped(module: nn.Module) -> float:
    """The share that a dropout drops; of other modules 0."""
    return module.p if isinstance(module, nn.modules.dropout._DropoutNd) else 0.0


def looks_at_other_rows(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def group_store() -> Any:
    """What a group of processes keeps its addresses in; None without a group."""
    import torch.distributed as distributed

    if not distributed.is_initialized():
        return None
    return distributed.distributed_c10d._get_default_store()


def set_group_timeout(wanted: timedelta) -> None:
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.distributed_c10d._set_pg_timeout(wanted)


# -------------------------------------------------------------------------------- transformer-lens
def is_point(module: Any) -> bool:
    """Whether a module is a hook point."""
    return hasattr(module, "fwd_hooks")


def handles(point: Any, direction: str) -> list[Any]:
    """What `add_hook` left on a hook point, "forward" or "backward"; of other modules nothing."""
    return getattr(point, "fwd_hooks" if direction == "forward" else "bwd_hooks", [])


def number(handle: Any) -> int:
    """The number under which torch keeps the hook of such a handle."""
    return handle.hook.id


def asked_for(handle: Any) -> Any:
    """The function that was given to `add_hook`: up to 3.2 it is kept in a closure only."""
    own = getattr(handle, "user_hook", None)
    hook = None if own is not None else (handle.hook.hooks_dict_ref() or {}).get(number(handle))
    while own is None and hook is not None:
        names = getattr(getattr(hook, "__code__", None), "co_freevars", ())
        cells: dict[str, Any] = dict(zip(names, getattr(hook, "__closure__", None) or ()))
        own, hook = (cells[k].cell_contents if k in cells else None for k in ("hook", "full_hook"))
    return own


def hook_points(model: Any) -> dict[str, Any]:
    """A model's hook points by name, aliases included."""
    found = model.hook_dict
    for base in type(model).__mro__:
        if base is not type(model) and base.__name__ == "TransformerBridge":
            # SAELens's subclass lists no aliases, and its own may be an SAE in a hook's place.
            found = base.hook_dict.fget(model) | found
    return {name: point for name, point in found.items() if is_point(point)}


def registered(module: Any) -> dict[str, Any]:
    """The hook points that a bridge, or a part of one, knows by name; of other modules nothing."""
    return getattr(module, "_hook_registry", {})


def may_be_processed(bridge: Any) -> bool:
    """Whether a bridge's weights were processed. Up to 3.5 it does not say so: where compatibility
    was asked for, they may have been."""
    return bool(getattr(bridge, "_weights_processed", bridge.compatibility_mode))


# ------------------------------------------------------------------------ transformers, accelerate
def offline_switches() -> list[tuple[ModuleType, str]]:
    """Where it stands that the hub is not to be asked: transformers 4 keeps a copy."""
    from huggingface_hub import constants
    from transformers.utils import hub

    found: Iterable[tuple[ModuleType, str]] = (
        (constants, "HF_HUB_OFFLINE"),
        (hub, "_is_offline_mode"),
    )
    return [(module, name) for module, name in found if hasattr(module, name)]


def forget_group() -> None:
    """Have accelerate forget a group that was not joined, which it would take for joined."""
    from accelerate import PartialState

    PartialState._reset_state()
