"""Targets that the model's prediction decides, made fixed: what a rerun must not choose anew."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

from tl_scopes.errors import ScopeParameterError


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
    return replace(method, **dict.fromkeys(names, token)) if names else method  # pyright: ignore


def pinned_as(method: Any, found: Any) -> Any:
    """The same with the token that the result `found` of `method` says it took."""
    names = _predicted(method)
    if not names:
        return method
    told = [found.scope.parameters.get(f"{name}_id") for name in names]
    first = getattr(method, "target_fields", ("target",))[0]
    if first in names and found.target is not None:
        told.insert(0, found.target.id)
    told += [candidate.id for candidate in found.prediction[:1]]
    known = [token for token in told if token is not None]
    return pinned(method, known[0]) if known else method
