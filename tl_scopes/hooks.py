"""Which hook points a model has, and whose hooks sit on a module: the user's, or TransformerLens's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any


def listed(model: Any) -> dict[str, Any]:
    """The model's hook points by name, aliases included."""
    found = model.hook_dict
    for base in type(model).__mro__:
        if base is not type(model) and base.__name__ == "TransformerBridge":
            # SAELens's subclass lists no aliases, and its own may be an SAE in a hook's place.
            found = vars(base)["hook_dict"].fget(model) | found
    return {name: point for name, point in found.items() if hasattr(point, "fwd_hooks")}


def has_forward_hook_of_users(point: Any) -> bool:
    """Whether a hook point has forward hooks other than TransformerLens's (OPT's bridge has some)."""
    return any(_is_users(getattr(handle, "user_hook", None)) for handle in point.fwd_hooks)


def has_hook_of_others(point: Any) -> bool:
    """The same, this package's own taps aside."""
    handles = (getattr(handle, "user_hook", None) for handle in point.fwd_hooks)
    return any(_is_users(hook) and not _is_from(hook, "tl_scopes.") for hook in handles)


def has_any_hook_of_users(module: Any) -> bool:
    """The same for hooks of either direction, on a hook point or any other module."""
    if hasattr(module, "fwd_hooks"):
        return has_forward_hook_of_users(module) or bool(module.bwd_hooks)
    forward, backward = (
        (module._forward_pre_hooks, module._forward_hooks),
        (module._backward_pre_hooks, module._backward_hooks),
    )
    return any(_is_users(hook) for store in (*forward, *backward) for hook in store.values())


def is_transformer_lens_own(hook: Any) -> bool:
    """Whether a torch hook is TransformerLens's wiring, by the module that its function is from."""
    return _is_from(hook, "transformer_lens")


def _is_from(hook: Any, package: str) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(package)


def _is_users(hook: Any) -> bool:
    return not is_transformer_lens_own(hook)


def put_back(undo: ExitStack, module: Any) -> None:
    """Have `undo` take away every forward hook that `module` gets from now on.

    Asked for before the hook is added, so that Ctrl-C on any line in between leaves none behind.
    """
    stores = (module._forward_hooks, module._forward_pre_hooks)
    flags = (module._forward_hooks_with_kwargs, module._forward_pre_hooks_with_kwargs)
    visible_too = hasattr(module, "fwd_hooks")
    visible = getattr(module, "fwd_hooks", [])
    known = {key for store in stores for key in store}
    seen = {id(handle) for handle in visible}

    def remove() -> None:
        for store in stores:
            for key, hook in list(store.items()):
                # A bridge wires hooks of its own to its modules in its first forward pass.
                wired = not visible_too and is_transformer_lens_own(hook)
                if key not in known and not wired:
                    for each in (*stores, *flags):
                        each.pop(key, None)
        for handle in list(visible):
            if id(handle) not in seen:
                visible.remove(handle)

    undo.callback(remove)
