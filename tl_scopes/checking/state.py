"""What calls must leave as it was: weights, flags, hooks, and the settings of the process."""

from __future__ import annotations

from typing import Any

import torch

from tl_scopes.adapter import guards, internals
from tl_scopes.adapter.view import ModelView

_WAYS = ("forward", "backward")


def state(view: ModelView) -> dict[str, Any]:
    """By what it is of; two of the same are equal."""
    modules = view.every_module()
    parameters = guards.every_parameter(modules)
    hooks = [internals.before_and_after(m, way) for m in modules for way in _WAYS]
    asked = [internals.handles(m, way) for m in modules for way in _WAYS]
    grads = [p.grad for p in parameters]
    return {
        "weights": [(id(p), internals.version(p), p.dtype, p.device) for p in parameters],
        "requires_grad": [p.requires_grad for p in parameters],
        "gradients": [None if g is None else (id(g), internals.version(g)) for g in grads],
        "training flags": [m.training for m in modules],
        "hooks": [len(store) for stores in hooks for store in stores],
        "hook points": [list(map(id, handles)) for handles in asked],
        "configuration": repr(vars(view.cfg)),
        "random numbers": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs, by name."""
    return [name for name, was in before.items() if was != after[name]]
