"""The forward passes that judging circuits needs, with nothing patched in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tl_scopes.circuits import Pairs
from tl_scopes.circuits.faithfulness import SIZES
from tl_scopes.circuits.judging.candidates import Candidates, Scores
from tl_scopes.circuits.judging.curves import Curves, Sizes
from tl_scopes.circuits.judging.judge import units

Call = Callable[[], Any]


def scores_of_all(model: Any) -> dict[str, float]:
    """A made-up score for every head and MLP: which nodes are strongest does not matter to the time."""
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    nodes = [f"L{i}H{h}" for i in layers for h in heads] + [f"{i}_mlp_out" for i in layers]
    order = torch.randperm(len(nodes), generator=torch.Generator().manual_seed(0)).tolist()
    return {node: 1.0 + rank for node, rank in zip(nodes, order)}


def bare_passes(model: Any, pairs: Pairs, scores: Scores) -> tuple[Call, int]:
    """The same rows in the same batches: clean, corrupted, and each pair once a circuit that is neither
    all nor nothing; read, and the scope's scalar taken. And how many rows there are of each pair."""
    candidates = Candidates.told(scores)
    curves = Curves(candidates, Sizes.parsed(SIZES, len(candidates), candidates.of), 0, 0)
    between = sum(bool(kept.any() and not kept.all()) for kept in curves.circuits)

    @torch.no_grad()
    def call() -> None:
        for unit in units(pairs.batches(model)):
            with unit.locked():
                every = range(len(unit))
                # The clean prompts are run for what is explained of them.
                unit.scalars(unit.read(unit.corrupted), every)
                rows, size = [i for _ in range(between) for i in every], unit.rows_at_once()
                for start in range(0, len(rows), size):
                    own = rows[start : start + size]
                    unit.scalars(unit.read(unit.clean[own]), own)

    return call, between + 2
