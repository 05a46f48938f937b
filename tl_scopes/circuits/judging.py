"""Who runs circuits: which parts of a model their candidates are, and what a few pairs give under each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_scopes.circuits.candidates import Candidates
from tl_scopes.circuits.pair_batch import PairBatch
from tl_scopes.circuits.patching import Ablation, By, NodeRuns, check_patches, corrupted_means
from tl_scopes.errors import NumericalError, ScopeParameterError
from tl_scopes.results.circuit import Circuit
from tl_scopes.results.nodes import EMBED, place_of
from tl_scopes.results.paired import shared
from tl_scopes.results.records import ScopeInfo

# Pairs that are measured, and kept in a folder, together.
UNIT = 8
# Kinds of nodes that make up a whole model.
_BY: dict[frozenset[str], By] = {
    frozenset({"head", "mlp"}): "head",
    frozenset({"head"}): "head",
    frozenset({"attn", "mlp"}): "mlp",
    frozenset({"attn"}): "mlp",
    frozenset({"attn", "neuron"}): "neuron",
    frozenset({"layer"}): "layer",
}
# Units in the last place by which two equal scalars may differ.
_ROUNDING = 16


@dataclass(frozen=True)
class Measured:
    """A scope's scalar on the clean and corrupted prompts of some pairs, and under circuits."""

    clean: Float[Tensor, "pair"]
    corrupted: Float[Tensor, "pair"]
    circuits: Float[Tensor, "pair circuit"]


def units(batches: Sequence[PairBatch]) -> list[PairBatch]:
    """The pairs of batches, a few at a time."""
    starts = [(batch, start) for batch in batches for start in range(0, len(batch), UNIT)]
    return [b.part(range(start, min(start + UNIT, len(b)))) for b, start in starts]


@dataclass(eq=False)
class Judge(ABC):
    """What runs circuits on `units`: pairs that share passes."""

    units: Sequence[PairBatch]

    @abstractmethod
    def measure(self, unit: PairBatch, kept: Bool[Tensor, "circuit candidate"]) -> Measured:
        """Raises `NumericalError` for a pair whose clean and corrupted prompts give the same."""


@dataclass(eq=False)
class NodeJudge(Judge):
    """Circuits of nodes. `number`: the place of each candidate among the model's nodes, of which there are `count`."""

    by: By
    ablation: Ablation
    number: Int[Tensor, "candidate"]
    count: int
    means: Mapping[str, Tensor] | None

    @classmethod
    def of(
        cls, batches: Sequence[PairBatch], candidates: Candidates, ablation: Ablation
    ) -> NodeJudge:
        """Raises `ScopeParameterError` for nodes that are not the model's, or not all of them."""
        by = by_of(candidates.labels)
        with batches[0].locked():
            nodes = check_patches(batches[0], by)
        places = {node: i for i, node in enumerate(nodes)}
        unknown = [label for label in candidates.labels if label not in places]
        missing = [node for node in nodes if node not in set(candidates.labels)]
        if unknown or missing:
            told = f"hold {unknown[0]!r}, which this model does not have" if unknown else (
                f"lack {missing[0]!r}"
            )  # fmt: skip
            raise ScopeParameterError(
                f"the scores {told} before what is read: give those of this model, with all of its "
                f"{len(nodes)} nodes"
            )
        means = corrupted_means(batches, by) if ablation == "mean" else None
        number = torch.tensor([places[label] for label in candidates.labels])
        return cls(batches, by, ablation, number, len(nodes), means)

    def measure(self, unit: PairBatch, kept: Bool[Tensor, "circuit candidate"]) -> Measured:
        nodes = torch.zeros(len(kept), self.count, dtype=torch.bool)
        nodes[:, self.number] = kept
        with unit.locked():
            runs = NodeRuns(unit, self.by, self.ablation, self.means)
            clean, corrupted = runs.clean, runs.corrupted
            check_differ(unit, clean, corrupted)
            return Measured(clean, corrupted, runs.metrics(nodes))


def by_of(labels: Sequence[str]) -> By:
    """Which `by` of `components` has nodes of these kinds. Raises `ScopeParameterError`."""
    places = [place_of(label) for label in labels if label != EMBED]
    kinds = frozenset("" if place is None else place.kind for place in places)
    if kinds not in _BY:
        raise ScopeParameterError(
            f"scores of {', '.join(sorted(kinds))} do not make up a model; allowed are those of heads and MLPs, "
            "of attentions and MLPs, of attentions and neurons, or of whole blocks"
        )
    return _BY[kinds]


def node_scores(batches: Sequence[PairBatch], circuit: Circuit) -> dict[str, float]:
    """A circuit of nodes as scores of all: those of its nodes come first."""
    kinds = {"head": "head", "mlp": "head", "attn": "mlp", "neuron": "neuron", "layer": "layer"}
    found = {place.kind for place in circuit.places()}
    order = ("neuron", "layer", "head", "attn", "mlp")
    by: Any = kinds[next(kind for kind in order if kind in found)]
    with batches[0].locked():
        nodes = check_patches(batches[0], by)
    inside = set(circuit.labels) - {EMBED}
    return dict.fromkeys(nodes, 0.0) | dict.fromkeys(inside, 1.0)


def about(batches: Sequence[PairBatch]) -> dict[str, Any]:
    """What a result says of the scopes and the model. Raises `ScopeParameterError` for scopes of which
    no mean can be taken."""
    told: dict[int, tuple[ScopeInfo, str, bool]] = {}
    for batch in batches:
        with batch.locked():
            for number, answer in zip(batch.numbers, batch.answers):
                info = answer.scope.info(answer.explained)
                told[number] = info, answer.scope.units, answer.explained.squared
    scopes, units_told, squared = zip(*(told[number] for number in sorted(told)))
    if len(set(zip(units_told, squared))) > 1:
        raise ScopeParameterError(
            f"the scopes of pairs explain numbers in {' and in '.join(dict.fromkeys(units_told))}, of which no "
            "mean can be taken: call once for each kind"
        )
    return {
        "scope": shared(scopes),
        "units": units_told[0],
        "squared": squared[0],
        "provenance": batches[0].view.provenance(),
    }


def check_differ(batch: PairBatch, clean: Tensor, corrupted: Tensor) -> None:
    """Raises `NumericalError`, with the numbers of the pairs of which f is undefined."""
    same = _equal(batch, clean, corrupted) | (batch.clean == batch.corrupted).all(1).cpu()
    if same.any():
        numbers = [batch.numbers[i] for i in same.nonzero()[:, 0].tolist()]
        one = len(numbers) == 1
        raise NumericalError(
            f"pair{'' if one else 's'} {', '.join(map(str, numbers))}: what is explained is the same on the "
            f"clean and the corrupted prompt ({float(clean[same][0]):.6g}), so there is nothing to keep: leave "
            f"{'it' if one else 'them'} out, corrupt something else, or use another scope"
        )


def _equal(batch: PairBatch, a: Tensor, b: Tensor) -> Bool[Tensor, "pair"]:
    size = torch.maximum(a.abs(), b.abs())
    return (a - b).abs() <= _ROUNDING * torch.finfo(batch.view.dtype).eps * size


def check_mean(batch: PairBatch, measured: Measured) -> None:
    """Raises `NumericalError` where pairs cancel, so that f of all of them is undefined."""
    clean, corrupted = measured.clean, measured.corrupted
    if bool(_equal(batch, clean.mean()[None], corrupted.mean()[None])):
        raise NumericalError(
            f"over all {len(clean)} pairs what is explained is the same on clean and corrupted prompts "
            f"({float(clean.mean()):.6g} on average), so f is undefined: make the metric one that every pair "
            "changes in the same direction, such as the right answer's logit less the wrong one's"
        )


def every(measured: Iterator[tuple[PairBatch, Measured]], count: int) -> Measured:
    """What units gave, by the numbers of their pairs."""
    rows = list(measured)
    order = torch.tensor([number for batch, _ in rows for number in batch.numbers]).argsort()
    assert len(order) == count
    columns = zip(*((own.clean, own.corrupted, own.circuits) for _, own in rows))
    return Measured(*(torch.cat(column)[order] for column in columns))
