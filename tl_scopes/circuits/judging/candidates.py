"""What a circuit is chosen from: all nodes or edges, with their effects, and which choices connect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_scopes.errors import NumericalError, ScopeParameterError
from tl_scopes.results.circuit import Circuit
from tl_scopes.results.nodes import ARROW, EMBED, READ, Place, place_of
from tl_scopes.results.paired import PairedResult

# PairedComponents, Edges, or numbers by their labels.
Scores = Union[PairedResult, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Candidates:
    """All that scores tell of: `nodes` in the order of the forward pass, `embed` first; of edges also
    `readers`, `owners`, and the indices `source` and `reader` of each.

    `effects`: of each candidate by role; `strength`: over `role`, or over all roles at once. `rows`:
    which of `nodes` the candidates are, of nodes.
    """

    of: Literal["nodes", "edges"]
    nodes: tuple[str, ...]
    rows: Int[Tensor, "node"]
    readers: tuple[str, ...]
    owners: Mapping[str, tuple[str, ...]]
    source: Int[Tensor, "edge"]
    reader: Int[Tensor, "edge"]
    effects: Float[Tensor, "candidate role"]
    strength: Float[Tensor, "candidate"]
    roles: tuple[str, ...]
    about: Mapping[str, Any]

    @classmethod
    def told(cls, scores: Scores, role: str | None = None) -> Candidates:
        """Raises `ScopeParameterError` for scores, a role or labels that are none, and
        `NumericalError` for scores that are not finite."""
        if isinstance(scores, Mapping):
            effects, roles = _numbers(scores), ("all",)
            whole, about = effects[:, 0], {}
            labels = tuple(scores)
        elif isinstance(scores, PairedResult):
            effects, roles, whole = scores.mean().double(), tuple(scores.roles), scores.summed()
            about = {
                "scope": scores.scope,
                "units": scores.units,
                "squared": scores.squared,
                "provenance": scores.provenance,
            }
            labels = None if hasattr(scores, "readers") else scores.row_labels()
        else:
            raise ScopeParameterError(
                f"scores is a {type(scores).__name__}; allowed: what components or edges give over "
                'pairs, or a dict of numbers by label such as "L5H2" or "L0H1 -> L5H2.q"'
            )
        if role is not None and role not in roles:
            raise ScopeParameterError(
                f"role is {role!r}; these scores have {', '.join(map(repr, roles))}"
            )
        strength = (whole if role is None else effects[:, roles.index(role)]).double()
        if not (effects.isfinite().all() and strength.isfinite().all()):
            raise NumericalError("scores hold NaN or infinity: score again, in float32 or wider")
        if labels is None or any(ARROW in label for label in labels):
            return cls._of_edges(scores, labels, effects, strength, roles, about)
        return cls._of_nodes(labels, effects, strength, roles, about)

    @classmethod
    def _of_nodes(
        cls, labels: Sequence[str], effects: Tensor, strength: Tensor, roles: Any, about: Any
    ) -> Candidates:
        places = [_place(label) for label in labels]
        # What a bias writes is the same in every run.
        counted = [i for i, place in enumerate(places) if place.kind not in ("embed", "bias")]
        if not counted:
            raise ScopeParameterError("scores hold no node to choose: no head, MLP or neuron")
        counted.sort(key=lambda i: places[i].order)
        nodes = (EMBED, *(labels[i] for i in counted))
        nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
        rows = torch.arange(1, len(nodes), device="cpu")
        return cls(
            "nodes", nodes, rows, (), {}, nothing, nothing, effects[counted], strength[counted], roles, about
        )  # fmt: skip

    @classmethod
    def _of_edges(
        cls, scores: Any, labels: Any, effects: Tensor, strength: Tensor, roles: Any, about: Any
    ) -> Candidates:
        if labels is None:
            named = tuple(scores.writers), tuple(scores.readers)
            source, reader = scores.source, scores.reader
            owners = {k: tuple(v) for k, v in scores.owners.items()}
            nodes, readers = named
        else:
            split = [label.partition(ARROW) for label in labels]
            named = ({a: None for a, _, _ in split}, {b: None for _, _, b in split})
            nodes, readers = (tuple(sorted(n, key=lambda x: _place(x).order)) for n in named)
            source = torch.tensor([nodes.index(a) for a, _, _ in split], device="cpu")
            reader = torch.tensor([readers.index(b) for _, _, b in split], device="cpu")
            owners = _owners(nodes, readers)
        for label in (*nodes, *readers):
            _place(label)
        nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
        return cls(
            "edges", nodes, nothing, readers, owners, source, reader, effects, strength, roles, about
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.effects)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the candidates: nodes, or edges."""
        if self.of == "nodes":
            return tuple(self.nodes[i] for i in self.rows.tolist())
        ends = zip(self.source.tolist(), self.reader.tolist())
        return tuple(f"{self.nodes[i]}{ARROW}{self.readers[j]}" for i, j in ends)

    @cached_property
    def order(self) -> Int[Tensor, "candidate"]:
        """By magnitude of their strength, the largest first; the earlier of equal ones first."""
        return self.strength.abs().argsort(descending=True, stable=True)

    def first(self, n: int, order: Tensor | None = None) -> Bool[Tensor, "candidate"]:
        """The first `n` of an order (None: that by strength), before anything is dropped."""
        kept = torch.zeros(len(self), dtype=torch.bool, device="cpu")
        kept[(self.order if order is None else order)[:n]] = True
        return kept

    def connected(self, kept: Bool[Tensor, "candidate"]) -> Bool[Tensor, "candidate"]:
        """What of `kept` lies on a way from the embedding to the read; every node does."""
        if self.of == "nodes" or not kept.any():
            return kept
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order

        if EMBED not in self.nodes or READ not in self.readers:
            return torch.zeros_like(kept)
        n, size = len(self.nodes), len(self.nodes) + len(self.readers)
        starts = torch.cat([self.source[kept], n + self._feeds[0]]).numpy()
        ends = torch.cat([n + self.reader[kept], self._feeds[1]]).numpy()
        graph = csr_array((np.ones(len(starts)), (starts, ends)), shape=(size, size))
        seen = []
        ways = (graph, self.nodes.index(EMBED)), (graph.T.tocsr(), n + self.readers.index(READ))
        for way, start in ways:
            reached = torch.zeros(size, dtype=torch.bool, device="cpu")
            found = breadth_first_order(way, start, return_predecessors=False)
            reached[torch.from_numpy(found.astype(np.int64))] = True
            seen.append(reached)
        from_embed, to_read = seen
        return kept & from_embed[self.source] & to_read[n + self.reader]

    @cached_property
    def _feeds(self) -> tuple[Tensor, Tensor]:
        """Readers and the nodes that read by them, as indices."""
        number = {label: i for i, label in enumerate(self.nodes)}
        found = [
            (j, number[owner])
            for j, reader in enumerate(self.readers)
            for owner in self.owners.get(reader, ())
            if owner in number
        ]
        readers, owners = torch.tensor(found, dtype=torch.int64, device="cpu").reshape(-1, 2).T
        return readers, owners

    def needed(self) -> int | None:
        """The fewest of the strongest that connect the embedding with the read; None: all do not."""
        if not self.connected(self.first(len(self))).any():
            return None
        low, high = 0, len(self)
        while high - low > 1:
            middle = (low + high) // 2
            whole = bool(self.connected(self.first(middle)).any())
            low, high = (low, middle) if whole else (middle, high)
        return high

    def circuit(self, kept: Bool[Tensor, "candidate"], chosen: int) -> Circuit:
        """The circuit of the candidates that are `kept`."""
        nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
        role_count = len(self.roles)
        if self.of == "nodes":
            own = [0, *self.rows[kept].tolist()]
            effects = torch.cat(
                [torch.zeros(1, role_count, device="cpu").double(), self.effects[kept]]
            )
            source, readers, edge_effects = nothing, (), torch.zeros(0, role_count, device="cpu")
        else:
            used = {self.nodes.index(EMBED), *self.source[kept].tolist()} if kept.any() else set()
            own = sorted(used)
            number = torch.zeros(len(self.nodes), dtype=torch.int64, device="cpu")
            number[own] = torch.arange(len(own), device="cpu")
            source, edge_effects = number[self.source[kept]], self.effects[kept]
            readers = tuple(self.readers[j] for j in self.reader[kept].tolist())
            effects = torch.zeros(len(own), role_count, device="cpu").double()
            effects.index_add_(0, source, edge_effects)
        places = [_place(label) for label in (*self.nodes, *self.readers)]
        about = {"scope": None, "units": "", "squared": False, "provenance": None} | {**self.about}
        return Circuit(
            of=self.of,
            labels=tuple(self.nodes[i] for i in own),
            effects=effects.float(),
            writers=source,
            readers=readers,
            edge_effects=edge_effects.float(),
            owners={r: self.owners.get(r, ()) for r in dict.fromkeys(readers)},
            roles=self.roles,
            candidates=len(self),
            chosen=chosen,
            n_layers=1 + max(place.layer for place in places),
            n_heads=_count(places, ""),
            n_key_value_heads=_count(places, "k"),
            d_model=0,
            parallel=self._parallel(),
            **about,
        )

    def _parallel(self) -> bool:
        """Whether no MLP reads what its own block's attention writes."""
        ends = zip(self.source.tolist(), self.reader.tolist())
        pairs = ((_place(self.nodes[i]), _place(self.readers[j])) for i, j in ends)
        into = [(a, b) for a, b in pairs if b.kind == "mlp"]
        return bool(into) and not any(
            a.layer == b.layer and a.kind in ("head", "attn") for a, b in into
        )


def _numbers(scores: Mapping[Any, Any]) -> Float[Tensor, "candidate 1"]:
    wrong = [k for k in scores if not isinstance(k, str)]
    wrong += [
        k for k, v in scores.items() if isinstance(v, bool) or not isinstance(v, (int, float))
    ]
    if wrong or not scores:
        told = f"{wrong[0]!r}: {scores[wrong[0]]!r}" if wrong else "nothing"
        raise ScopeParameterError(
            f"scores hold {told}; allowed: numbers by label, such as {{'L5H2': 0.7}}"
        )
    edges = [ARROW in label for label in scores]
    if any(edges) and not all(edges):
        raise ScopeParameterError("scores hold nodes and edges: give the ones or the others")
    return torch.tensor(list(scores.values()), dtype=torch.float64, device="cpu")[:, None]


def _place(label: str) -> Place:
    place = place_of(label)
    if place is None:
        raise ScopeParameterError(
            f"{label!r} is no label of a node or reader; allowed are embed, L5H2, 5_attn_out, 5_mlp_out, "
            "L5N17, 5_block, and of readers L5H2.q, 5_attn_in, 5_mlp_in, read"
        )
    return place


def _count(places: Sequence[Place], port: str) -> int:
    return max((1 + p.index for p in places if p.kind == "head" and p.port == port), default=0)


def _owners(nodes: Sequence[str], readers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which nodes read by which readers, as their labels alone tell."""
    every = [(label, _place(label)) for label in (*nodes, *readers)]
    heads = max(_count([p for _, p in every], port) for port in ("", "q"))
    shared = _count([p for _, p in every], "k") or heads
    group = max(1, heads // shared)
    found: dict[str, tuple[str, ...]] = {}
    for reader in readers:
        place = _place(reader)
        if place.kind == "head":
            first = place.index if place.port == "q" else place.index * group
            many = range(first, first + (1 if place.port == "q" else group))
            found[reader] = tuple(f"L{place.layer}H{head}" for head in many)
        elif place.kind in ("mlp", "attn"):
            found[reader] = (f"{place.layer}_{place.kind}_out",)
    return found


def floor_share(share: float, count: int) -> int:
    """A share of `count` things as a number of them, rounded down: 0.29 of 100 are 29."""
    return int(share * count + 1e-9)
