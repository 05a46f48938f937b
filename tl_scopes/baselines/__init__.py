"""Other attribution methods, with the result and the arguments of `tl_scopes.attribute`.

    >>> baselines.IntegratedGradients(steps=20).attribute(model, "The capital of France is").print()

What a scope must be compared with before it is believed. `GradientNorm` is itself a scope (of a
log-probability) and goes to `tl_scopes.attribute`; the others have `.attribute`. Integrated gradients and
SmoothGrad are captum's, driven on the rest of the model after a site. A method of yours is a subclass of
`Method` whose `scores` returns `Scored`.
"""

from tl_scopes.baselines.chance import Random
from tl_scopes.baselines.gradients import GradientNorm, InputXGradient, SmoothGrad
from tl_scopes.baselines.leave_one_out import LeaveOneOut
from tl_scopes.baselines.paths import IntegratedGradients, SemanticPath
from tl_scopes.baselines.rollout import AttentionRollout
from tl_scopes.method import Method, Scored

__all__ = [
    "AttentionRollout",
    "GradientNorm",
    "InputXGradient",
    "IntegratedGradients",
    "LeaveOneOut",
    "Method",
    "Random",
    "Scored",
    "SemanticPath",
    "SmoothGrad",
]
