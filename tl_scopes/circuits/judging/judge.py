"""Who runs circuits: which parts of a model their candidates are, and what a few pairs give under each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_scopes.circuits.judging.candidates import Candidates
from tl_scopes.circuits.judging.node_runs import (
    Ablation,
    By,
    NodeRuns,
    check_patches,
    corrupted_means,
)
from tl_scopes.circuits.pairs.batch import PairBatch
from tl_scopes.circuits.wiring.patch import Common
from tl_scopes.circuits.wiring.runs import EdgeRuns
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
    """Circuits of nodes. `number`: the place of each candidate among the nodes of the model, of which
    there are `count`."""

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
        number = _matched(candidates, nodes)
        means = corrupted_means(batches, by) if ablation == "mean" else None
        return cls(batches, by, ablation, number, len(nodes), means)

    def measure(self, unit: PairBatch, kept: Bool[Tensor, "circuit candidate"]) -> Measured:
        nodes = torch.zeros(len(kept), self.count, dtype=torch.bool, device="cpu")
        nodes[:, self.number] = kept
        with unit.locked():
            runs = NodeRuns(unit, self.by, self.ablation, self.means)
            clean, corrupted = runs.clean, runs.corrupted
            check_differ(unit, clean, corrupted)
            return Measured(clean, corrupted, runs.metrics(nodes))


@dataclass(eq=False)
class EdgeJudge(Judge):
    """Circuits of edges. `number`: the place of each candidate among the model's, of which there are
    `count`. `common`: to the runs of all units."""

    by: Literal["head", "mlp"]
    number: Int[Tensor, "candidate"]
    count: int
    common: Common

    @classmethod
    def of(
        cls, batches: Sequence[PairBatch], candidates: Candidates, ablation: Ablation
    ) -> EdgeJudge:
        """Raises `ScopeParameterError` for edges that are not the model's, or not all of them, and for
        another ablation than that of the corrupted prompt."""
        if ablation != "corrupted":
            raise ScopeParameterError(
                f'ablation is {ablation!r}; edges take "corrupted" alone: what a reader sees of a writer is '
                "replaced, and the writer itself goes on; or score nodes"
            )
        by = edges_by(candidates.labels)
        common = Common()
        number = _matched(candidates, model_edges(batches[0], by, common))
        return cls(batches, by, number, len(number), common)

    def measure(self, unit: PairBatch, kept: Bool[Tensor, "circuit candidate"]) -> Measured:
        edges = torch.zeros(len(kept), self.count, dtype=torch.bool, device="cpu")
        edges[:, self.number] = kept
        with unit.locked():
            runs = EdgeRuns(unit, self.by, self.common)
            check_differ(unit, runs.clean, runs.corrupted)
            out = torch.empty(len(unit), len(kept), dtype=torch.float64, device="cpu")
            nothing, whole = ~edges.any(1), edges.all(1)
            out[:, nothing], out[:, whole] = runs.corrupted[:, None], runs.clean[:, None]
            between = ~(nothing | whole)
            if between.any():
                out[:, between] = runs.metrics(edges[between])
            return Measured(runs.clean, runs.corrupted, out)


def judge_of(batches: Sequence[PairBatch], candidates: Candidates, ablation: Ablation) -> Judge:
    """Of circuits of nodes or of edges. Raises as their `of`."""
    kind = NodeJudge if candidates.of == "nodes" else EdgeJudge
    return kind.of(batches, candidates, ablation)


def _matched(candidates: Candidates, known: Sequence[str]) -> Int[Tensor, "candidate"]:
    """The place of each candidate among what a model has. Raises `ScopeParameterError`."""
    places = {label: i for i, label in enumerate(known)}
    given = dict.fromkeys(candidates.labels)
    unknown = [label for label in given if label not in places]
    missing = [label for label in known if label not in given]
    if unknown or missing:
        told = f"hold {unknown[0]!r}, which this model does not have" if unknown else (
            f"lack {missing[0]!r}"
        )  # fmt: skip
        raise ScopeParameterError(
            f"the scores {told} before what is read: give those of this model, with all of its {len(known)} "
            f"{candidates.of}"
        )
    return torch.tensor([places[label] for label in given], device="cpu")


def edges_by(labels: Iterable[str]) -> Literal["head", "mlp"]:
    """Which `by` of `edges` has these."""
    whole = any(label.endswith("_attn_in") or "_attn_out ->" in label for label in labels)
    return "mlp" if whole else "head"


def model_edges(
    batch: PairBatch, by: Literal["head", "mlp"], common: Common | None = None
) -> tuple[str, ...]:
    """All edges of a model. `common`: to these runs and later ones."""
    with batch.locked():
        return EdgeRuns(batch.part([0]), by, common or Common()).edges


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


def scores_of(batches: Sequence[PairBatch], circuit: Circuit) -> dict[str, float]:
    """A circuit as scores of all nodes or edges: its own come first."""
    if circuit.of == "edges":
        every = model_edges(batches[0], edges_by(circuit.edges))
        return dict.fromkeys(every, 0.0) | dict.fromkeys(circuit.edges, 1.0)
    kinds = {"neuron": "neuron", "layer": "layer", "head": "head", "attn": "mlp", "mlp": "mlp"}
    found = {place.kind for place in circuit.places()}
    by: Any = next((by for kind, by in kinds.items() if kind in found), "head")
    with batches[0].locked():
        nodes = check_patches(batches[0], by)
    return dict.fromkeys(nodes, 0.0) | dict.fromkeys(set(circuit.labels) - {EMBED}, 1.0)


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
    order = torch.tensor(
        [number for batch, _ in rows for number in batch.numbers], device="cpu"
    ).argsort()
    assert len(order) == count
    columns = zip(*((own.clean, own.corrupted, own.circuits) for _, own in rows))
    return Measured(*(torch.cat(column)[order] for column in columns))
