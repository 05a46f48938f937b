"""What cuts or changes a gradient on its way back: modules without a derivative, hooks of the user's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_scopes.adapter import hooks, internals
from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.view import ModelView
from tl_scopes.jacobian.forward import read_under

_NAMED = 4
# Nodes of the graph that are skipped on the way back from a module's output to one without a derivative.
_VIEWS = ("View", "Reshape", "Transpose", "Permute", "Clone", "Copy", "Alias")


def rooted(
    view: ModelView,
    tokens: Int[Tensor, "1 pos"],
    watch: Callable[[ExitStack], None] | None = None,
    scale: float = 1.0,
    site: Site | None = None,
) -> tuple[Float[Tensor, "1 pos d_model"], Float[Tensor, "d_model"]]:
    """The embedding (or what is at `site`), times `scale`, as a leaf; the last final state on the graph
    that starts there."""
    found: list[Tensor] = []

    def start(a: Tensor) -> Tensor:
        found.append((a.detach() * scale).requires_grad_())
        return found[0].clone()  # hooks that run later may edit in place

    y = read_under(
        view, tokens, {site or embed_site(): start}, prepare=watch or (lambda undo: None)
    )
    return found[0], y[0, -1]


def culprit(view: ModelView, tokens: Tensor) -> str:
    """What cuts or changes the gradient, as far as can be told, and what to do."""
    cut, edited = _cuts(view, tokens)
    backward = view.users_hooks("backward")
    if cut:
        return (
            f"No derivative passes through {_some(cut)}: such operations (quantised activations, a "
            "kernel without a backward pass) can't be explained. Load the model in float32, bfloat16 "
            "or float16, or quantise its weights alone"
        )
    if edited:
        return (
            f"Hooks of yours stop it (detach) at {_some(edited)}, though what passes there depends on "
            "the prompt. Remove them; or, to hold something fixed on purpose, give back values that "
            "you stored in an earlier pass (an SAE's error term too), or use frozen= of tl_scopes.circuits"
        )
    if backward:
        return (
            f"Hooks of yours edit it on the way back at {_some(backward)}: remove them "
            "(model.reset_hooks()), or let them only look"
        )
    return (
        "Some operation passes on another derivative than its own (a stopped or a straight-through "
        f"gradient){hooks_named(view)}: remove it, or use a model in float32, bfloat16 or float16"
    )


def hooks_named(view: ModelView) -> str:
    names = view.users_hooks("forward")
    return f"; hooks of yours are at {_some(names)}" if names else ""


def _cuts(view: ModelView, tokens: Tensor) -> tuple[list[str], list[str]]:
    """Modules that depend on the embedding and hand no gradient on; hooks of the user's that do so."""
    entered: set[nn.Module] = set()
    left: dict[nn.Module, Tensor] = {}
    again: dict[nn.Module, Tensor] = {}

    def enter(module: nn.Module, x: Any) -> Any:
        if isinstance(x, Tensor) and x.requires_grad:
            entered.add(module)
        return x

    def leave(module: nn.Module, out: Any) -> Any:
        if isinstance(out, Tensor) and module in entered:
            again[module] = out.detach().clone()
            if not out.requires_grad or "WarnNotImplemented" in _operation(out):
                left[module] = again[module]
        return out

    def watch(undo: ExitStack) -> None:
        for module in view.every_module():
            if not internals.is_point(module) or hooks.users_on(module, "forward"):
                view.tap_module(
                    undo,
                    module,
                    lambda x, module=module: enter(module, x),
                    lambda out, module=module: leave(module, out),
                )

    rooted(view, tokens, watch)
    found = dict(left)
    if found:  # positions, which a module makes of nothing but the shape, are no loss
        rooted(view, tokens, watch, scale=1.5)
    cut: list[str] = []
    edited: list[str] = []
    names = hooks.module_names(view.model, view.hooks)
    lost = [module for module, out in found.items() if (again[module] != out).any()]
    for module in lost:
        if not any(other is not module and other in module.modules() for other in lost):
            name = names.get(id(module)) or type(module).__name__
            of_users = hooks.users_on(module, "forward")
            (edited if of_users else cut).append(name if of_users else f"{name} ({_kind(module)})")
    return cut, edited


def _operation(out: Tensor) -> str:
    """The operations that made `out`, views aside: autograd has an own one for no derivative."""
    node = out.grad_fn
    while node is not None and any(word in node.name() for word in _VIEWS):
        node = node.next_functions[0][0]
    return "" if node is None else node.name()


def _kind(module: nn.Module) -> str:
    """The class of a module, and of a weight that is no plain tensor."""
    own = f"{type(module).__module__}.{type(module).__name__}"
    weights = {
        type(p.data).__name__ for p in internals.parameters(module).values() if p is not None
    }
    odd = sorted(weights - {"Tensor", "Parameter"})
    return own + (f", weight {odd[0]}" if odd else "")


def _some(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
