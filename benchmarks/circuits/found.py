"""Scores of a model's nodes and edges by each method, found on the pairs that are there to attribute."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.circuits.pairs_of import explaining
from tl_scopes import circuits
from tl_scopes.circuits import Pairs
from tl_scopes.circuits.judging.node_runs import NodeRuns
from tl_scopes.results.nodes import place_of

GRADIENTS = {
    f"{method} {of}": (steps, of)
    for of in ("difference", "fisher", "span")
    for method, steps in (("EAP", 1), ("EAP-IG", 5))
}
NODES = (*(name for name in GRADIENTS if name != "EAP-IG fisher"), "head_paths", "exact")
EDGES = tuple(GRADIENTS)
KINDS = {"nodes": NODES, "edges": EDGES}
METHODS = tuple(dict.fromkeys([*EDGES, *NODES]))
# The slower ones see so many pairs only.
FEW = {"head_paths": 2, "exact": 3}


@dataclass(frozen=True)
class Found:
    """`scores`: what `circuits.faithfulness` takes. `pairs`: on how many. `seconds`: what finding them took."""

    scores: Any
    pairs: int
    seconds: float


def find(
    model: Any, pairs: Pairs, task: str, method: str, kinds: Sequence[str]
) -> dict[str, Found]:
    """Scores of "nodes" and of "edges" by `method`, one of `METHODS`: of those of `kinds` that it scores.

    What scores nodes by the sum over their edges finds edges once for both.
    """
    own = pairs[: FEW.get(method, len(pairs))]
    kinds = [kind for kind in kinds if method in KINDS[kind]]
    by_edges = GRADIENTS.get(method, (1, ""))[0] > 1
    made = {}
    if "edges" in kinds or by_edges:
        made["edges"] = _timed(own, lambda: _edges(model, own, task, method))
    if "nodes" in kinds and by_edges:
        made["nodes"] = replace(made["edges"], scores=summed(made["edges"].scores))
    elif "nodes" in kinds:
        made["nodes"] = _timed(own, lambda: _of_nodes(model, own, task, method))
    return {kind: made[kind] for kind in kinds}


def _timed(pairs: Pairs, scores: Callable[[], Any]) -> Found:
    start = time.perf_counter()
    return Found(scores(), len(pairs), time.perf_counter() - start)


def _edges(model: Any, pairs: Pairs, task: str, method: str) -> Any:
    steps, of = GRADIENTS[method]
    return circuits.edges(model, explaining(pairs, task, of), steps, progress=False)


def _of_nodes(model: Any, pairs: Pairs, task: str, method: str) -> Any:
    if method == "exact":
        return _exact(model, pairs)
    if method == "head_paths":
        return _by_paths(model, pairs)
    return circuits.components(model, explaining(pairs, task, GRADIENTS[method][1]))


def summed(edges: Any) -> dict[str, float]:
    """The effect of each node: to first order, all that it does goes by way of some reader."""
    each = torch.zeros(len(edges.writers), dtype=torch.float64)
    each.index_add_(0, edges.source, edges.summed().double())
    return _nodes(dict(zip(edges.writers, each.tolist())))


def _nodes(scores: Mapping[str, float]) -> dict[str, float]:
    """Without the embedding and biases, which belong to every circuit."""
    kinds = {label: place_of(label) for label in scores}
    return {k: v for k, v in scores.items() if (p := kinds[k]) and p.kind in ("head", "mlp")}


def _exact(model: Any, pairs: Pairs) -> dict[str, float]:
    """By how much the metric falls when a node alone is taken from the corrupted run."""
    totals: Any = 0
    nodes: tuple[str, ...] = ()
    for batch in pairs.batches(model):
        with batch.locked():
            runs = NodeRuns(batch, "head")
            nodes = runs.nodes
            without = runs.metrics(~torch.eye(len(nodes), dtype=torch.bool))
            totals = totals + (runs.clean[:, None] - without).sum(0)
    return dict(zip(nodes, (totals / len(pairs)).tolist()))


def _by_paths(model: Any, pairs: Pairs) -> dict[str, float]:
    """Heads by `head_paths`: how strongly a change at the tokens where the prompts differ moves the metric by way
    of each. It says nothing of MLPs, which keep the ranks that EAP gives them.

    Scores are ranks, the largest first.
    """
    grid: Any = 0
    for i in range(len(pairs)):
        clean, corrupted = (model.to_tokens(own[i])[0] for own in (pairs.clean, pairs.corrupted))
        paths = circuits.head_paths(model, pairs.clean[i], pairs.scopes[i], progress=False)
        differ = (clean != corrupted).cpu().nonzero()[:, 0]
        grid = grid + paths.norms[..., differ].sum(-1)
    heads = {
        f"L{layer}H{head}": float(value)
        for layer, row in enumerate(grid)
        for head, value in enumerate(row)
    }
    eap = circuits.components(model, pairs)
    by_eap = _nodes(dict(zip(eap.labels, eap.summed().abs().tolist())))
    best = iter(sorted(heads, key=heads.__getitem__, reverse=True))
    order = [
        next(best) if label in heads else label
        for label in sorted(by_eap, key=by_eap.__getitem__, reverse=True)
    ]
    return {label: float(len(order) - rank) for rank, label in enumerate(order)}
