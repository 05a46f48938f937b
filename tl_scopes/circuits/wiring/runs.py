"""Real runs of circuits of edges: what a scope explains under each, for a batch of pairs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.circuits.pairs.batch import PairBatch
from tl_scopes.circuits.passes.stream import last_stream
from tl_scopes.circuits.wiring.anatomy import anatomy_sites, learn
from tl_scopes.circuits.wiring.blocks import By, Wiring
from tl_scopes.circuits.wiring.patch import Common, EdgePatch
from tl_scopes.circuits.wiring.plan import EdgePlan
from tl_scopes.errors import ScopeParameterError
from tl_scopes.jacobian.forward import not_reached
from tl_scopes.results.nodes import ARROW

# Memory that the differences of what writers write may take at a time.
_BYTES = 1 << 28


@dataclass(eq=False)
class EdgeRuns:
    """Runs of a batch in which edges are cut, inside `batch.locked()`.

    `by`: which edges there are, as in `edges`. What a cut edge carries is what its writer writes on the
    corrupted prompt of the pair. `other`: that run. `common`: with runs of other batches.

    Raises `NonAdditiveError` or `UnsupportedModelError` for a model whose parts do not add up.
    """

    batch: PairBatch
    by: By = "head"
    common: Common = field(default_factory=Common)
    wiring: Wiring = field(init=False)
    other: dict[str, Tensor] = field(init=False)
    others: Float[Tensor, "pair writer pos d_model"] = field(init=False)
    """What every writer writes in the other run."""
    corrupted: Float[Tensor, "pair"] = field(init=False)
    """The metric on the corrupted prompts."""
    clean: Float[Tensor, "pair"] = field(init=False)
    """The metric on the clean prompts."""

    @torch.no_grad()
    def __post_init__(self) -> None:
        batch, view = self.batch, self.batch.view
        stream = last_stream(view, batch.runs[0].read_site)
        needed, optional = anatomy_sites(view, stream, self.by)
        batch.refuse_nonfinite()  # else it would seem that the parts do not add up
        self.other, values = batch.seen(batch.corrupted, [*needed, *optional])
        for site in needed:
            if site.label not in self.other:
                raise not_reached(site.label)
        self.corrupted = batch.scalars(values, range(len(batch)))
        known, label = self.common.wirings, stream.site.label
        if label not in known:
            known[label] = learn(view, stream, self.by, self.other)
        self.wiring = known[label]
        end = self.other[stream.site.label]
        self.others = self.wiring.writes(self.other, end.device, working_dtype(end.dtype))
        self.clean = batch.clean_scalars

    @property
    def edges(self) -> tuple[str, ...]:
        """All edges, in the order of `Edges`."""
        writers, readers = self.wiring.writers, self.wiring.readers
        source, reader = (x.tolist() for x in self.wiring.ends)
        return tuple(f"{writers[i]}{ARROW}{readers[j]}" for i, j in zip(source, reader))

    @torch.no_grad()
    def metrics(self, kept: Shaped[Tensor, "circuit edge"]) -> Float[Tensor, "pair circuit"]:
        """The scope's scalar of each pair where each reader sees the clean prompt's writes, as they are in
        that run, by the edges of a circuit, and the corrupted prompt's by all others.

        All edges kept: the clean run; none: the corrupted one. `kept` may hold shares too.
        """
        if kept.ndim != 2 or kept.shape[1] != self.wiring.n_edges:
            raise ScopeParameterError(
                f"kept has shape {list(kept.shape)}; allowed: [circuit, {self.wiring.n_edges}], the edges "
                f'of this model by="{self.by}"'
            )
        plan = EdgePlan.of(self.wiring, kept, self.others.dtype)
        out = torch.empty(len(self.batch), len(kept), dtype=torch.float64, device="cpu")
        a_writer = self.others[0, 0].numel() * self.others.element_size()
        most = self.batch.rows_at_once()
        for pairs, circuits in plan.passes(len(self.batch), a_writer, most, _BYTES):
            rows = [*range(pairs.start, pairs.stop)] * len(circuits)
            patch = EdgePatch(
                self.wiring, self.other, self.others, plan, pairs, circuits, self.common
            )
            values = self.batch.read(self.batch.clean[rows], patch.edits())
            found = self.batch.scalars(values, rows).view(len(circuits), -1)
            out[pairs, circuits.start : circuits.stop] = found.T
        return out


def edge_metrics(
    batch: PairBatch, kept: Bool[Tensor, "circuit edge"], by: By = "head"
) -> Float[Tensor, "pair circuit"]:
    """`EdgeRuns.metrics` of one batch; edges in the order of `EdgeRuns.edges`, and of `Edges`."""
    with batch.locked():
        return EdgeRuns(batch, by).metrics(kept)
