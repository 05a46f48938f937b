"""A circuit: the nodes or edges that were chosen of all, with what connects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.results.base import Result
from tl_scopes.results.fields import Axis
from tl_scopes.results.frames import long_table
from tl_scopes.results.graphs import node_link
from tl_scopes.results.nodes import ARROW, EMBED, Place, place_of
from tl_scopes.results.records import Provenance, ScopeInfo

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Circuit(Result):
    """Nodes or edges of a model that were chosen of all: see `tl_scopes.circuits.select`.

    `labels`: its nodes, in the order of the forward pass; `embed` is one of every circuit and costs
    nothing. `effects`: of each, by position role, mean over pairs, in `units` (of a circuit of edges:
    the sum over the node's edges in the circuit).

    A circuit of edges has `writers` (indices into `labels`), `readers` (`L5H2.q`, `5_mlp_in`, `read`)
    and `edge_effects` too, all empty in one of nodes, which keeps every edge between its nodes.
    `owners`: of each of these readers the nodes that read by it: several query heads where they share a key-value head.

    `candidates`: how many nodes or edges there were to choose from. `chosen`: how many were asked for,
    of which those that lead nowhere were dropped. `n_layers`, `n_heads`, `n_key_value_heads`, `d_model`
    (0 where the scores do not tell) and `parallel` (attention and MLP read the same stream): the
    model's. `scope` and `provenance`: of the scores; None of bare numbers.
    """

    of: Literal["nodes", "edges"]
    labels: Annotated[tuple[str, ...], Axis("node")]
    effects: Float[Tensor, "node role"]
    writers: Int[Tensor, "edge"]
    readers: Annotated[tuple[str, ...], Axis("edge")]
    edge_effects: Float[Tensor, "edge role"]
    owners: Mapping[str, tuple[str, ...]]
    roles: Annotated[tuple[str, ...], Axis("role")]
    candidates: int
    chosen: int
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    parallel: bool
    scope: ScopeInfo | None
    units: str
    squared: bool
    provenance: Provenance | None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Labels of its nodes.

        Examples:
            >>> circuit.nodes
            ('embed', 'L0H1', 'L5H2', '5_mlp_out')
        """
        return self.labels

    @property
    def edges(self) -> tuple[str, ...]:
        """Its edges, as `"L0H1 -> L5H2.q"`; none for a circuit of nodes.

        Examples:
            >>> "L0H1 -> L5H2.q" in circuit.edges
        """
        return tuple(
            f"{self.labels[i]}{ARROW}{reader}"
            for i, reader in zip(self.writers.tolist(), self.readers)
        )

    def places(self) -> list[Place]:
        """Kind, layer and index of each node.

        Examples:
            >>> [place.layer for place in circuit.places() if place.kind == "head"]
        """
        return [place_of(label) or Place("other") for label in self.labels]

    def __len__(self) -> int:
        """How many edges, or nodes beside `embed`, it has."""
        return len(self.readers) if self.of == "edges" else len(set(self.labels) - {EMBED})

    def __contains__(self, label: object) -> bool:
        """Whether it has this node (`"L5H2"`) or edge (`"L0H1 -> L5H2.q"`)."""
        return label in self.labels or label in self.edges

    @property
    def share(self) -> float:
        """How much of all candidates it has, from 0 to 1."""
        return len(self) / self.candidates

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The `k` edges, or nodes, with the largest effect over all roles, in magnitude.

        Examples:
            >>> circuit.top(3)
        """
        names, effects = (
            (self.edges, self.edge_effects) if self.of == "edges" else (self.labels, self.effects)
        )
        values = effects.sum(1)
        order = values.abs().argsort(descending=True, stable=True)[: max(k, 0)].tolist()
        return [(names[i], float(values[i])) for i in order]

    def to_networkx(self) -> nx.DiGraph:
        """A graph of its nodes, and, of a circuit of edges, of its readers between them.

        Every node has `kind`, `layer`, `index`, and `effect` where it writes. Edges go from a writer to
        a reader, with their `effect`, and on from a reader to each node that reads by it, without one;
        so a path from `"embed"` to `"read"` is a way through the model. A circuit of nodes has no edges.

            >>> nx.shortest_path(circuit.to_networkx(), "embed", "read")
        """
        import networkx as nx

        graph = nx.DiGraph()
        for label, place, effect in zip(self.labels, self.places(), self.effects.sum(1).tolist()):
            graph.add_node(
                label, kind=place.kind, layer=place.layer, index=place.index, effect=effect
            )
        edges = zip(self.writers.tolist(), self.readers, self.edge_effects.sum(1).tolist())
        for writer, reader, effect in edges:
            place = place_of(reader) or Place("other")
            graph.add_node(reader, kind=place.kind, layer=place.layer, index=place.index)
            graph.add_edge(self.labels[writer], reader, effect=effect)
            for owner in self.owners.get(reader, ()):
                if owner in self.labels:
                    graph.add_edge(reader, owner)
        return graph

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_networkx` as node-link JSON, which `networkx.node_link_graph` reads; written to
        `path` if given.

            >>> circuit.to_json("circuit.json")
        """
        return node_link(self.to_networkx(), path)

    def to_mib(self, path: str | Path | None = None, *, d_model: int | None = None) -> str:
        """As the JSON of the Mechanistic Interpretability Benchmark's circuit track; written to `path`
        if given.

        Nodes are `input`, `a5.h2`, `m5` and `logits`, edges `a0.h1->a5.h2<q>`, each with `in_graph` and
        `score`. Query heads that share a key-value head have an edge each there, with its score split
        evenly. Edges that are not in the circuit are left out, which their reader takes for out of it.

        Args:
            path: where to write it.
            d_model: `model.cfg.d_model`, which their reader needs and scores do not tell.

        Raises:
            ScopeParameterError: for nodes that the format has no names for (neurons, whole attentions,
                blocks), or without `d_model`.

        Source: `Graph.from_json` of EAP-IG, which the track uses; Mueller et al., arXiv 2504.13151.

        Examples:
            >>> circuit.to_mib("circuit.json", d_model=model.cfg.d_model)
        """
        from tl_scopes.results.mib import write

        return write(self, path, d_model)

    @classmethod
    def from_mib(cls, path: str | Path) -> Circuit:
        """Read what `to_mib`, or `Graph.to_json` of EAP-IG, wrote.

        A file whose nodes have scores is a circuit of nodes. Raises `ResultFileError` for another file.

            >>> circuits.Circuit.from_mib("circuit.json").nodes
        """
        from tl_scopes.results.mib import read

        return cls(**read(path))

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row an edge, or node, and role.

        Examples:
            >>> circuit.to_frame().nlargest(10, "effect")
        """
        roles = (1, self.roles)
        if self.of == "edges":
            own = (0, [self.labels[i] for i in self.writers.tolist()])
            columns = {"writer": own, "reader": (0, self.readers), "role": roles}
            return long_table(self.edge_effects.shape, columns | {"effect": self.edge_effects})
        places = self.places()
        columns = {
            "node": (0, self.labels),
            "kind": (0, [place.kind for place in places]),
            "layer": (0, [place.layer for place in places]),
            "index": (0, [place.index for place in places]),
            "role": roles,
        }
        return long_table(self.effects.shape, columns | {"effect": self.effects})

    def __repr__(self) -> str:
        top = ", ".join(f"{label} {value:.3g}" for label, value in self.top(3))
        return f"Circuit({len(self)} of {self.candidates} {self.of}; top: {top})"
