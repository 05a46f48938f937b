"""Jacobian Scopes for TransformerLens: token-level causal attribution by vector-Jacobian products.

`attribute`, `attribute_batch` and `attribute_sequence` take a HookedTransformer or TransformerBridge,
a prompt and a scope; see each scope for what it explains. Source: arXiv 2601.16407.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_scopes.attribution import attribute, attribute_batch, attribute_sequence
    from tl_scopes.checking import ModelCheck, check
    from tl_scopes.custom import DirectionScope, FunctionScope
    from tl_scopes.explain import NEXT_TOKEN, Explained, Read, Scope
    from tl_scopes.result import Attribution, SequenceAttribution
    from tl_scopes.scopes import (
        FisherScope,
        LogitDifferenceScope,
        SemanticScope,
        TemperatureScope,
    )

__version__ = "0.1.0"

__all__ = [
    "NEXT_TOKEN",
    "Attribution",
    "DirectionScope",
    "Explained",
    "FisherScope",
    "FunctionScope",
    "LogitDifferenceScope",
    "ModelCheck",
    "Read",
    "Scope",
    "SemanticScope",
    "SequenceAttribution",
    "TemperatureScope",
    "attribute",
    "attribute_batch",
    "attribute_sequence",
    "check",
]

# Imported when first asked for: torch takes seconds, which `tl-scopes --help` must not.
_HOMES = dict.fromkeys(__all__, "scopes") | {
    "NEXT_TOKEN": "explain",
    "Explained": "explain",
    "Read": "explain",
    "Scope": "explain",
    "DirectionScope": "custom",
    "FunctionScope": "custom",
    "Attribution": "result",
    "SequenceAttribution": "result",
    "attribute": "attribution",
    "attribute_batch": "attribution",
    "attribute_sequence": "attribution",
    "ModelCheck": "checking",
    "check": "checking",
}


_MODULES = ("baselines", "circuits", "errors", "evaluation", "models", "render")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
