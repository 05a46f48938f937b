"""Whose hooks sit on a module, and how those of a call are taken away."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from torch.utils.weak import WeakIdRef

from tl_scopes.adapter import internals

# Packages whose hooks belong to the model, or to this package, and are no user's.
_NOT_USERS = ("transformer_lens", "transformers.", "tl_scopes.")
# The place of hooks that torch calls for every module there is.
_EVERYWHERE = "torch's global hooks"
_DIRECTIONS = ("forward", "backward")


def is_edited(point: Any) -> bool:
    """Whether a hook point has forward hooks other than TransformerLens's (OPT's bridge has some): those
    of the user's, or of a call of this package."""
    asked = map(internals.asked_for, internals.handles(point, "forward"))
    return any(not is_transformer_lens_own(hook) for hook in asked)


def users_on(module: Any, direction: str) -> list[Any]:
    """Hooks of the user's on a hook point or any other module, "forward" or "backward".

    Each as what tells it from others: a weak reference to the function, or torch's own number.
    """
    return [_mark(hook, key) for _, key, hook in _of_users(module, direction)]


def any_of_users(modules: Iterable[Any], *directions: str) -> bool:
    """Whether hooks of the user's are on any of the modules, or on every module there is."""
    on_any = any(users_on(m, d) for m in _hooked(modules) for d in directions)
    return on_any or bool(everywhere(*directions))


def _hooked(modules: Iterable[Any]) -> list[Any]:
    """Those with any hook at all: of a thousand modules few, and the others take one look each."""
    return [module for module in modules if internals.is_hooked(module)]


def _of_users(module: Any, direction: str) -> list[tuple[dict[int, Any], int, Any]]:
    """Hooks of the user's: torch's store, the key in it, and the function that was given."""
    stores = internals.before_and_after(module, direction)
    if not any(stores):
        return []
    handles = internals.handles(module, direction)
    asked = {internals.number(handle): internals.asked_for(handle) for handle in handles}
    found = []
    for store in stores:
        for key, hook in store.items():
            hook = asked.get(key, hook)
            if not any(_is_from(hook, package) for package in _NOT_USERS):
                found.append((store, key, hook))
    return found


def off(undo: ExitStack, modules: Iterable[Any]) -> None:
    """Until `undo`, this thread's forward passes run without hooks of the user's."""
    owner = threading.get_ident()

    def elsewhere(hook: Any) -> Any:
        return lambda *a, **k: None if threading.get_ident() == owner else hook(*a, **k)

    def put_back(store: dict[int, Any], key: int, hook: Any) -> None:
        if key in store:
            store[key] = hook

    for module in modules:
        for store, key, _ in _of_users(module, "forward"):
            undo.callback(put_back, store, key, store[key])
            store[key] = elsewhere(store[key])


def everywhere(*directions: str) -> dict[int, Any]:
    """Hooks that torch calls for every module (`register_module_forward_hook`, ...), by its number.

    Those of torch's own that only look, as its counter of operations has some, are none of the user's.
    """
    stores = [store for d in directions for store in internals.around_all(d)]
    found = {k: hook for store in stores for k, hook in store.items()}
    return {k: hook for k, hook in found.items() if not _is_from(hook, "torch.utils.")}


def parameters(modules: Iterable[Any]) -> list[tuple[Any, type]]:
    """Which parameters there are, told by identity: as tensors they would be compared by numbers."""
    found = {id(p): p for m in modules for p in internals.parameters(m).values() if p is not None}
    return [(WeakIdRef(p), type(p)) for p in found.values()]


def of_users(
    model: Any, modules: Iterable[Any], points: Mapping[str, Any], *directions: str
) -> list[str]:
    """Where hooks of the user's are: names of hook points as in `points`, else of modules."""
    hooked = _hooked(modules)
    found = [module for d in directions for module in hooked if users_on(module, d)]
    names = module_names(model, points) if found else {}
    named = [names.get(id(module)) or type(module).__name__ for module in found]
    return [*named, *(_EVERYWHERE for d in directions if everywhere(d))]


def module_names(model: Any, points: Mapping[str, Any]) -> dict[int, str]:
    """The shortest name of each module by id; of a hook point the last in `points`."""
    wrapped = getattr(model, "original_model", None)
    named = [*([] if wrapped is None else wrapped.named_modules()), *model.named_modules()]
    # A bridge lists its own names first, and those that all versions have after them.
    last = {id(point): name for name, point in points.items()}
    shortest = sorted(named, key=lambda entry: len(entry[0]), reverse=True)
    inner = f".{internals.WRAPPED}"
    return {id(module): name.replace(inner, "") for name, module in shortest} | last


def circumstances(modules: Iterable[Any]) -> tuple[Any, ...]:
    """Which modules there are, in which mode, with which hooks of the user's, and which parameters:
    equal when the same. Of buffers, which a model may make anew in a pass, the kind only."""
    modules = list(modules)
    changed = [
        (id(m.__dict__.get("forward")), *users_on(m, "forward"), None, *users_on(m, "backward"))
        for m in modules
        if "forward" in m.__dict__ or internals.is_hooked(m)
    ]
    held = [own for m in modules for own in (internals.parameters(m), internals.buffers(m))]
    stored = (t for own in held for t in own.values())
    return (
        [weakref.ref(m) for m in modules],
        [m.training for m in modules],
        changed,
        [_mark(hook, key) for key, hook in everywhere(*_DIRECTIONS).items()],
        parameters(modules),
        [(type(t), t.dtype) for t in {id(t): t for t in stored if t is not None}.values()],
    )


def _mark(hook: Any, key: int) -> Any:
    if hook is None or hasattr(hook, "__self__"):  # a method is made anew each time it is named
        return key
    try:
        return weakref.ref(hook)
    except TypeError:
        return key


def is_transformer_lens_own(hook: Any) -> bool:
    """Whether a torch hook is TransformerLens's wiring, by the module that its function is from."""
    return _is_from(hook, "transformer_lens")


def _is_from(hook: Any, package: str) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(package)


def remove_new_hooks(undo: ExitStack, module: Any) -> None:
    """Have `undo` take away every forward hook that `module` gets from now on.

    Asked for before the hook is added, so that Ctrl-C on any line in between leaves none behind.
    """
    stores = internals.before_and_after(module, "forward")
    marks = internals.keyword_marks(module)
    visible_too = internals.is_point(module)
    visible = internals.handles(module, "forward")
    known = {key for store in stores for key in store}
    seen = {id(handle) for handle in visible}

    def remove() -> None:
        for store in stores:
            for key, hook in list(store.items()):
                # A bridge wires hooks of its own to its modules in its first forward pass.
                wired = not visible_too and is_transformer_lens_own(hook)
                if key not in known and not wired:
                    for each in (*stores, *marks):
                        each.pop(key, None)
        for handle in list(visible):
            if id(handle) not in seen:
                visible.remove(handle)

    undo.callback(remove)


def on_list(undo: ExitStack, block: Any, point: Any, edit: Callable[[Any], Any]) -> None:
    """Until `undo`, `edit` replaces the first entry of a list that `block` gives, if `point` is its last.

    A bridge shows its hook points no list, which GPT-1's blocks give.
    """
    if getattr(block, "hook_out", None) is not point:
        return
    remove_new_hooks(undo, block)
    block.register_forward_hook(
        lambda _, __, out: [edit(out[0]), *out[1:]] if isinstance(out, list) else None
    )
