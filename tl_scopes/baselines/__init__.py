"""Other attribution methods, with the result and the arguments of `tl_scopes.attribute`.

Examples:
    >>> baselines.IntegratedGradients(steps=20).attribute(model, "The capital of France is").print()

What a scope must be compared with before it is believed. `GradientNorm` is itself a scope (of a
log-probability) and goes to `tl_scopes.attribute`; the others have `.attribute`. Integrated gradients and
SmoothGrad are captum's, driven on the rest of the model after a site. A method of yours is a subclass of
`Method` whose `scores` returns `Scored`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_scopes.baselines.gradients import GradientNorm, InputXGradient, SmoothGrad
    from tl_scopes.baselines.leave_one_out import LeaveOneOut
    from tl_scopes.baselines.method import Method, Scored
    from tl_scopes.baselines.paths import IntegratedGradients, SemanticPath
    from tl_scopes.baselines.random import Random
    from tl_scopes.baselines.rollout import AttentionRollout

# Imported when first asked for: `tl-scopes --help` lists names alone, and torch takes seconds.
_HOMES = {
    "AttentionRollout": "rollout",
    "GradientNorm": "gradients",
    "InputXGradient": "gradients",
    "IntegratedGradients": "paths",
    "LeaveOneOut": "leave_one_out",
    "Method": "method",
    "Random": "random",
    "Scored": "method",
    "SemanticPath": "paths",
    "SmoothGrad": "gradients",
}
__all__ = [
    "AttentionRollout", "GradientNorm", "InputXGradient", "IntegratedGradients", "LeaveOneOut",
    "Method", "Random", "Scored", "SemanticPath", "SmoothGrad",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
