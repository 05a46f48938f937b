"""Jacobian Scopes for TransformerLens: token-level causal attribution by vector-Jacobian products.

`attribute`, `attribute_batch` and `attribute_sequence` take a HookedTransformer or TransformerBridge,
a prompt and a scope; see each scope for what it explains. Source: arXiv 2601.16407.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_scopes.attribution import attribute, attribute_batch, attribute_sequence
    from tl_scopes.baselines.named import register
    from tl_scopes.checking import ModelCheck, check
    from tl_scopes.generation import attribute_generation
    from tl_scopes.jacobian.substitutions import substitutions
    from tl_scopes.results.attribution import Attribution, SequenceAttribution
    from tl_scopes.results.substitutions import Substitutions
    from tl_scopes.scopes.base import NEXT_TOKEN, Explained, Read, Scope
    from tl_scopes.scopes.continuation import ContinuationScope
    from tl_scopes.scopes.custom import DirectionScope, FunctionScope
    from tl_scopes.scopes.prediction import (
        FisherScope,
        LogitDifferenceScope,
        SemanticScope,
        TemperatureScope,
    )

__version__ = "0.1.0"

__all__ = [
    "NEXT_TOKEN",
    "Attribution",
    "ContinuationScope",
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
    "Substitutions",
    "TemperatureScope",
    "attribute",
    "attribute_batch",
    "attribute_generation",
    "attribute_sequence",
    "check",
    "register",
    "substitutions",
]

# Imported when first asked for: torch takes seconds, which `tl-scopes --help` must not.
_HOMES = dict.fromkeys(__all__, "scopes.prediction") | {
    "NEXT_TOKEN": "scopes.base",
    "Explained": "scopes.base",
    "Read": "scopes.base",
    "Scope": "scopes.base",
    "ContinuationScope": "scopes.continuation",
    "DirectionScope": "scopes.custom",
    "FunctionScope": "scopes.custom",
    "Attribution": "results.attribution",
    "SequenceAttribution": "results.attribution",
    "attribute": "attribution",
    "attribute_batch": "attribution",
    "attribute_sequence": "attribution",
    "attribute_generation": "generation",
    "Substitutions": "results.substitutions",
    "substitutions": "jacobian.substitutions",
    "ModelCheck": "checking",
    "check": "checking",
    "register": "baselines.named",
}


_MODULES = ("baselines", "circuits", "errors", "evaluation", "models", "render", "rules")


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
