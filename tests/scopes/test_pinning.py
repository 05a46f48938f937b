"""A rerun explains the token that the first run took, whatever its own prediction is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.reference import TOKENS
from tl_scopes import attribution
from tl_scopes.scopes.base import Explained

NAME = zoo.names()[0]


@dataclass(frozen=True)
class Own(ts.SemanticScope):
    """A user's, which does not say what it took."""

    def explain(self, read):
        found = super().explain(read)
        return Explained.single(found.vectors[0])


def reran(scope, monkeypatch):
    """The scope of the rerun, in which another token is predicted, and of the first run the token."""
    model, seen = zoo.build(NAME, torch.float32), []
    run = attribution.run

    def watched(runs, *args):
        seen.extend(s for one in runs for _, s in one.reads)
        answers = run(runs, *args)
        head = model.unembed.W_U if hasattr(model.unembed, "W_U") else None
        if len(seen) == 1 and head is not None:  # as a tie in half precision would be broken
            head.data = head.data.roll(1, dims=1)
        return answers

    monkeypatch.setattr(attribution, "run", watched)
    found = ts.attribute(model, TOKENS, scope, stability=True)
    assert len(seen) == 2
    return seen[1], found


@pytest.mark.parametrize(
    "scope, field",
    [
        (ts.LogitDifferenceScope(5, None), "b"),
        (ts.LogitDifferenceScope(None, 5), "a"),
        (ts.SemanticScope(), "target"),
        (Own(), "target"),
    ],
    ids=["b", "a", "semantic", "own"],
)
def test_the_token_stays(scope, field, monkeypatch):
    again, found = reran(scope, monkeypatch)
    assert getattr(again, field) == found.prediction[0].id


def test_a_result_says_what_b_was_by_id():
    found = ts.attribute(zoo.shared(NAME), TOKENS, ts.LogitDifferenceScope(5, None))
    assert found.scope.parameters["b_id"] == found.prediction[0].id
    assert found.scope.parameters["b"] == found.prediction[0].text
