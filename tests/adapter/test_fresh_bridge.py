"""A bridge wires hooks of its own in its first forward pass; where that pass is ours, they must stay."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.traces import HOOKS, modules
from tl_scopes.circuits import components

IDS = [0, 5, 6, 7, 8, 9]


def wired(model) -> list[tuple[str, int]]:
    return [(type(m).__name__, len(getattr(m, h))) for m in modules(model) for h in HOOKS]


@pytest.mark.parametrize(("name", "frozen"), chosen.each(zoo.names("bridge"), [None, "norms"]))
def test_a_first_pass_of_ours_leaves_a_bridge_as_its_own_would(name, frozen):
    model, plain = zoo.build(name), zoo.build(name)
    with torch.no_grad():
        plain(torch.tensor([IDS]))
    ts.attribute(model, IDS, ts.SemanticScope(5))
    components(model, IDS, ts.SemanticScope(5), "layer", frozen=frozen)
    assert wired(model) == wired(plain)
