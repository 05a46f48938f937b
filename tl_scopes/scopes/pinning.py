"""Targets that the model's prediction decides, made fixed: what a rerun must not choose anew."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

from tl_scopes.errors import ScopeParameterError
from tl_scopes.rules import under


def _predicted(method: Any) -> list[str]:
    """The fields in which a scope or method asks for the model's own top prediction."""
    names = getattr(method, "target_fields", ("target",))
    return [name for name in names if getattr(method, name, 0) is None]


def takes_prediction(method: Any) -> bool:
    """Whether what `method` explains is the model's own top prediction."""
    return bool(_predicted(method))


def pinned(method: Any, token: int) -> Any:
    """`method` with `token` wherever it would have taken the model's own top prediction.

    Under other weights or inputs that is another token, and two maps of different targets say
    nothing about each other. Raises `ScopeParameterError` where it cannot be told one.
    """
    names = _predicted(method)
    if names and not is_dataclass(method):
        raise ScopeParameterError(
            f"{method!r} explains the model's own top prediction, which changes with the model, and "
            "cannot be given a fixed target: make it a dataclass with a field `target`"
        )
    if not names:
        return method
    # A scope of the user's may carry rules without a field for them.
    fixed = replace(method, **dict.fromkeys(names, token))  # pyright: ignore
    return under(fixed, getattr(method, "rules", None))


def pinned_as(method: Any, result: Any) -> Any:
    """`method` with the token that `result`, which it made, says it took in place of a prediction."""
    names = _predicted(method)
    if not names:
        return method
    candidates = [result.scope.parameters.get(f"{name}_id") for name in names]
    first = getattr(method, "target_fields", ("target",))[0]
    if first in names and result.target is not None:
        candidates.insert(0, result.target.id)
    candidates += [prediction.id for prediction in result.prediction[:1]]
    ids = [token for token in candidates if token is not None]
    return pinned(method, ids[0]) if ids else method
