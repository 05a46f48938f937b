"""Results that are made by hand: records of scopes and methods as the package makes them, and reads of one prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

import tl_scopes as ts
from tl_scopes.baselines import named
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.records import ScopeInfo


def info(name: str, parameters: Mapping[str, Any] = {}) -> ScopeInfo:
    """What the method of that name says of itself, with these parameters alone."""
    if name.replace("_", "-") not in named.names():
        return ScopeInfo(name, parameters)  # of a version that knew it
    make = named.maker(name.replace("_", "-"))
    known = {field.name for field in dataclasses.fields(make)}
    method = make(**{k: v for k, v in parameters.items() if k in known})
    if isinstance(method, ts.Scope):
        squared = name == "fisher"
        found = method.info(ts.Explained(torch.ones(1, 1), torch.ones(1).double(), squared))
    else:
        found = method.info({})
    return dataclasses.replace(found, parameters=parameters)


def sequence_like(
    one: Attribution, positions: tuple[int, ...], scores: torch.Tensor, **changes: Any
) -> SequenceAttribution:
    """Reads at several positions of the prompt of `one`; unless told, each with what that one has."""
    n = len(positions)
    shared = "sites tokens str_tokens has_bos scope units provenance".split()
    fields = {
        **{name: getattr(one, name) for name in shared},
        "targets": (one.target,) * n,
        "predictions": (one.prediction,) * n,
        "fishers": (None,) * n,
        "standard_error": None,
    }
    return SequenceAttribution(scores=scores, positions=positions, **fields | changes)
