"""Jacobian Scopes for TransformerLens: token-level causal attribution by vector-Jacobian products.

`attribute`, `attribute_batch` and `attribute_sequence` take a HookedTransformer or TransformerBridge,
a prompt and a scope; see each scope for what it explains. Source: arXiv 2601.16407.
"""

from tl_scopes.attribution import attribute, attribute_batch, attribute_sequence
from tl_scopes.result import Attribution, SequenceAttribution
from tl_scopes.scopes import (
    NEXT_TOKEN,
    DirectionScope,
    FisherScope,
    FunctionScope,
    LogitDifferenceScope,
    Scope,
    SemanticScope,
    TemperatureScope,
)

__version__ = "0.1.0"

__all__ = [
    "NEXT_TOKEN",
    "Attribution",
    "DirectionScope",
    "FisherScope",
    "FunctionScope",
    "LogitDifferenceScope",
    "Scope",
    "SemanticScope",
    "SequenceAttribution",
    "TemperatureScope",
    "attribute",
    "attribute_batch",
    "attribute_sequence",
]
