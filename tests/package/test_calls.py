"""The table of calls has every public function that takes a model: what is new is tested as the others are."""

from __future__ import annotations

import inspect

import tl_scopes as ts
from support.calls import CALLS, METHODS
from tl_scopes import baselines, circuits, evaluation, models


def test_no_public_call_is_missing():
    public = {
        name
        for module in (ts, models, circuits, evaluation, baselines)
        for name in module.__all__
        if inspect.isfunction(value := getattr(module, name))
        and "model" in inspect.signature(value).parameters
    }
    assert public >= {"attribute", "verify", "measure"}
    made = set(baselines.__all__) - {"Method", "Scored"}
    assert made == {type(method).__name__ for method in METHODS}
    assert set(CALLS) == public | made
