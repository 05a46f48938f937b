"""Results of `tl_scopes.circuits`: influence by way of positions, and by way of heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.results.circuits import CircuitResult
from tl_scopes.results.escapes import isolated
from tl_scopes.results.fields import Axis
from tl_scopes.results.frames import long_table
from tl_scopes.results.graphs import node_link

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Flow(CircuitResult):
    """How each source token's influence splits over the positions of an intermediate layer.

    As vectors, the parts `v^T dy/dr_q dr_q/dr_t` sum over the through-positions q to the token's
    whole gradient. `norms[q, t]`: the part's norm (Fisher: weighted squares). `signed[q, t]`: the
    part projected on the whole, which sums over q to `scores[t]`, what `attribute` gives at `site`
    where nothing is frozen.
    """

    ranked_by: ClassVar[str] = "norm"

    site: str
    layer: str
    norms: Float[Tensor, "through source"]
    signed: Float[Tensor, "through source"]
    scores: Float[Tensor, "source"]

    @property
    def share(self) -> Float[Tensor, "through source"]:
        """`norms` over their sum for each source token (0 for a token without influence)."""
        return self.norms / self.norms.sum(0).clamp_min(torch.finfo(torch.float32).tiny)

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a through-position and source token.

        Examples:
            >>> flow.to_frame().nlargest(5, "norm")
        """
        positions = range(len(self.str_tokens))
        columns = {
            "through": (0, positions),
            "source": (1, positions),
            "through_token": (0, self.str_tokens),
            "source_token": (1, self.str_tokens),
            "norm": self.norms,
            "share": self.share,
            "signed": self.signed,
        }
        return long_table(self.norms.shape, columns)

    def __repr__(self) -> str:
        return f"Flow({isolated(str(self.scope))}, {self.site} through {self.layer}, {len(self.str_tokens)} tokens)"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FlowPath(CircuitResult):
    """Influence followed from the source tokens through the positions of several layers.

    `edges[i, q, t]`: what flows from position t at `sites[i]` to position q at `sites[i + 1]`, in the
    unit of scores, signed. What enters a node leaves it: `edges[i].sum(0)` is `nodes[i]`,
    `edges[i].sum(1)` is `nodes[i + 1]`, each layer's nodes sum to `total`, and `nodes[0]` are the
    scores that `attribute` gives at `sites[0]` where nothing is frozen.
    """

    ranked_by: ClassVar[str] = "flow"

    sites: Annotated[tuple[str, ...], Axis("site"), Axis("step", lambda sites: len(sites) - 1)]
    edges: Float[Tensor, "step through source"]
    nodes: Float[Tensor, "site pos"]

    @property
    def total(self) -> float:
        return float(self.nodes[0].sum())

    def to_networkx(self, min_share: float = 0.0) -> nx.DiGraph:
        """Nodes `(site, position)`, and edges whose `weight` is at least `min_share` of `total`.

        Examples:
            >>> path.to_networkx(0.01).number_of_edges()
        """
        import networkx as nx

        graph = nx.DiGraph()
        for site, row in zip(self.sites, self.nodes.tolist()):
            for q, value in enumerate(row[: self.position + 1]):
                graph.add_node(
                    (site, q), site=site, position=q, token=self.str_tokens[q], weight=value
                )
        least = min_share * abs(self.total)
        for before, after, step in zip(self.sites, self.sites[1:], self.edges):
            for q, t in (step.abs() > least).nonzero().tolist():
                graph.add_edge((before, t), (after, q), weight=float(step[q, t]))
        return graph

    def to_json(self, path: str | Path | None = None, min_share: float = 0.0) -> str:
        """`to_networkx` as node-link JSON, which `networkx.node_link_graph` reads; written to
        `path` if given."""
        return node_link(self.to_networkx(min_share), path)

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row an edge, from a source position to one of the next layer.

        Examples:
            >>> path.to_frame().nlargest(5, "flow")
        """
        positions = range(len(self.str_tokens))
        columns = {
            "from_site": (0, self.sites[:-1]),
            "to_site": (0, self.sites[1:]),
            "source": (2, positions),
            "through": (1, positions),
            "source_token": (2, self.str_tokens),
            "through_token": (1, self.str_tokens),
            "flow": self.edges,
        }
        return long_table(self.edges.shape, columns)

    def __repr__(self) -> str:
        return f"FlowPath({isolated(str(self.scope))}, {' -> '.join(self.sites)}, {len(self.str_tokens)} tokens)"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadPaths(CircuitResult):
    """How much of each source token's influence passes through each head's output.

    As vectors, the parts `v^T dy/dz_h dz_h/dr_t` of one layer's heads and the part `outside` them
    sum to the token's whole gradient. `norms`: their norms (Fisher: weighted squares). `signed`: the
    parts projected on the whole, so that for each layer `signed.sum(head) + outside_signed` is
    `scores`. `heads`: those that were asked for, as (layer, head); others are zero here, and theirs
    is counted outside. `value_*` and `pattern_*` (None unless asked for) split each head's part into what
    reaches it by its values and by its attention pattern. `read_only`: whether only what the heads
    write at the read position counts.
    """

    ranked_by: ClassVar[str] = "norm"

    site: str
    read_only: bool
    norms: Float[Tensor, "layer head_index source"]
    signed: Float[Tensor, "layer head_index source"]
    outside_norms: Float[Tensor, "layer source"]
    outside_signed: Float[Tensor, "layer source"]
    scores: Float[Tensor, "source"]
    value_norms: Float[Tensor, "layer head_index source"] | None = None
    value_signed: Float[Tensor, "layer head_index source"] | None = None
    pattern_norms: Float[Tensor, "layer head_index source"] | None = None
    pattern_signed: Float[Tensor, "layer head_index source"] | None = None
    heads: tuple[tuple[int, int], ...] = ()

    def top(self, k: int = 5, source: int | None = None) -> list[tuple[str, float]]:
        """The `k` heads through which most passes, by `norms`, from one token or from all.

        Examples:
            >>> paths.top(3, source=4)
        """
        grid = self.norms.sum(-1) if source is None else self.norms[..., source]
        order = grid.flatten().argsort(descending=True, stable=True)[: max(k, 0)].tolist()
        n = grid.shape[1]
        return [(f"L{i // n}H{i % n}", float(grid[i // n, i % n])) for i in order]

    def to_networkx(self, top: int = 10) -> nx.DiGraph:
        """A graph token -> head -> prediction over the `top` heads, with `norm` and `signed` edges.

        Nodes: `("token", position)`, `("head", layer, head)` and `("prediction", position)`.

            >>> paths.to_networkx(top=3).nodes
        """
        import networkx as nx

        graph = nx.DiGraph()
        end = ("prediction", self.position)
        graph.add_node(end, text=self.target.text if self.target else str(self.scope))
        for label, norm in self.top(top):
            layer, head = (int(n) for n in label[1:].split("H"))
            node = ("head", layer, head)
            graph.add_node(node, label=label)
            graph.add_edge(node, end, norm=norm, signed=float(self.signed[layer, head].sum()))
            for t in range(self.position + 1):
                value = float(self.norms[layer, head, t])
                if value:
                    graph.add_node(("token", t), text=self.str_tokens[t])
                    signed = float(self.signed[layer, head, t])
                    graph.add_edge(("token", t), node, norm=value, signed=signed)
        return graph

    def to_json(self, path: str | Path | None = None, top: int = 10) -> str:
        """`to_networkx` as node-link JSON, which `networkx.node_link_graph` reads; written to
        `path` if given."""
        return node_link(self.to_networkx(top), path)

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a head and source token.

        Examples:
            >>> paths.to_frame().groupby(["layer", "head"])["norm"].sum()
        """
        n_layers, n_heads, n = self.norms.shape
        columns = {
            "layer": (0, range(n_layers)),
            "head": (1, range(n_heads)),
            "source": (2, range(n)),
            "source_token": (2, self.str_tokens),
            "norm": self.norms,
            "signed": self.signed,
            "value_norm": self.value_norms,
            "value_signed": self.value_signed,
            "pattern_norm": self.pattern_norms,
            "pattern_signed": self.pattern_signed,
        }
        columns = {name: column for name, column in columns.items() if column is not None}
        return long_table(self.norms.shape, columns)

    def __repr__(self) -> str:
        top = ", ".join(f"{label} {value:.3g}" for label, value in self.top(3))
        return f"HeadPaths({isolated(str(self.scope))}, {self.site} through heads; top: {top})"
