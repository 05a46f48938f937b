"""The functions of `tl_scopes.circuits`, to be asked for what cannot be."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.refusals import MODELS
from tl_scopes.circuits import components, flow, flow_path, head_paths, scope_metric, verify

each_class = pytest.mark.parametrize("name", MODELS)
T, S = zoo.TEXT, ts.SemanticScope(5)
ones = torch.ones(16)


@functools.cache
def attribution(name: str = MODELS[0]) -> ts.Attribution:
    return ts.attribute(zoo.shared(name), T, S)


CALLS = {
    "components": components,
    "flow": lambda model, prompt, scope, **more: flow(model, prompt, scope, 1, **more),
    "flow_path": lambda model, prompt, scope, **more: flow_path(
        model, prompt, scope, [1, 2], **more
    ),
    "head_paths": head_paths,
    "scope_metric": scope_metric,
    "verify": lambda model, prompt, scope, **more: verify(
        model, prompt, attribution(), scope=scope, **more
    ),
}
