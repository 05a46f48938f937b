"""Effects of edges: from what a head or MLP writes to what another one reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.results.escapes import isolated
from tl_scopes.results.fields import Axis
from tl_scopes.results.nodes import ARROW
from tl_scopes.results.paired import PairedResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Edges(PairedResult):
    """First-order effects of edges from writers to readers, over pairs.

    Row r of `effects` is the edge from `writers[source[r]]` to `readers[reader[r]]`: `L0H1 -> L5H2.q`.
    Writers (`embed`, `L5H2`, `5_attn_out`, `5_mlp_out`, and `5_b_O` where a norm behind attention makes a
    bias differ from run to run) and readers (`L5H2.q`, `L5H0.k`, `L5H0.v` of key-value heads as the
    model has them, `5_attn_in`, `5_mlp_in`, `read`) stand in the order of the forward pass. `owners`: of
    each reader the nodes that read by it. `steps`: over how many points between what enters the
    first block on both prompts gradients were averaged; 1: the clean prompt's alone.
    """

    clean: Float[Tensor, "pair"]
    corrupted: Float[Tensor, "pair"]
    writers: Annotated[tuple[str, ...], Axis("writer")]
    readers: Annotated[tuple[str, ...], Axis("reader")]
    source: Int[Tensor, "row"]
    reader: Int[Tensor, "row"]
    owners: Mapping[str, tuple[str, ...]]
    by: str
    steps: int

    @property
    def labels(self) -> tuple[str, ...]:
        """`L0H1 -> L5H2.q`, one an edge."""
        ends = zip(self.source.tolist(), self.reader.tolist())
        return tuple(f"{self.writers[i]}{ARROW}{self.readers[j]}" for i, j in ends)

    def row_labels(self) -> tuple[str, ...]:
        return self.labels

    def into(self) -> Float[Tensor, "pair reader role"]:
        """The effects of all edges into each reader, added up (Fisher: of the squared ones).

        Examples:
            >>> dict(zip(edges.readers, edges.into().mean(0).sum(-1).tolist()))
        """
        out = self.effects.new_zeros(len(self.effects), len(self.readers), len(self.roles)).double()
        return out.index_add_(1, self.reader, self.effects.double())

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row an edge and role, with the mean over pairs.

        Examples:
            >>> edges.to_frame().query("reader == 'read'")
        """
        table, roles = super().to_frame(), len(self.roles)
        for at, (name, known, which) in enumerate(
            (("writer", self.writers, self.source), ("reader", self.readers, self.reader))
        ):
            table.insert(at + 1, name, [known[i] for i in which.tolist() for _ in range(roles)])
        return table

    def __repr__(self) -> str:
        top = ", ".join(f"{label} {value:.3g}" for label, value in self.top(3))
        pairs = f"{len(self.effects)} pair{'s' * (len(self.effects) > 1)}"
        return f"Edges({isolated(str(self.scope))}, {len(self.source)} edges, {pairs}; top: {top})"
