"""Real patches of edges: each reader's own input, with the writes of cut edges taken from another run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tl_scopes.adapter.sites import Site, resid_site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import Edit
from tl_scopes.circuits.anatomy import anatomy_sites, learn
from tl_scopes.circuits.norms import Norm
from tl_scopes.circuits.pair_batch import PairBatch
from tl_scopes.circuits.stream import last_stream
from tl_scopes.circuits.wiring import By, Reading, Wiring, hook
from tl_scopes.errors import ScopeParameterError
from tl_scopes.jacobian.forward import not_reached
from tl_scopes.results.nodes import ARROW

# Memory that the differences of what all writers write may take at a time.
_BYTES = 1 << 28


@dataclass(eq=False)
class EdgeRuns:
    """Runs of a batch in which edges are cut, inside `batch.locked()`.

    `by`: which edges there are, as in `edges`. What a cut edge carries is what its writer writes on the
    corrupted prompt of the pair.

    Raises `NonAdditiveError` or `UnsupportedModelError` for a model whose parts do not add up.
    """

    batch: PairBatch
    by: By = "head"
    wiring: Wiring = field(init=False)
    others: Float[Tensor, "pair writer pos d_model"] = field(init=False)
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
        seen, _ = batch.seen(batch.clean[:1], [*needed, *optional])
        for site in needed:
            if site.label not in seen:
                raise not_reached(site.label)
        self.wiring = learn(view, stream, self.by, seen)
        kept, values = batch.seen(batch.corrupted, self.wiring.sites)
        end = seen[stream.site.label]
        self.others = self.wiring.writes(kept, end.device, working_dtype(end.dtype))
        self.corrupted = batch.scalars(values, range(len(batch)))
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
        cut = (1 - kept.to(self.others.dtype)).to(self.others.device)
        out = torch.empty(len(self.batch), len(kept), dtype=torch.float64, device="cpu")
        rows = [(i, c) for i in range(len(self.batch)) for c in range(len(kept))]
        a_row = self.others[0].numel() * self.others.element_size()
        size = max(1, min(self.batch.rows_at_once(), _BYTES // a_row))
        for start in range(0, len(rows), size):
            pair, circuit = (list(own) for own in zip(*rows[start : start + size]))
            patch = EdgePatch(
                self.wiring, self.others, torch.tensor(pair, device="cpu"), cut[circuit]
            )
            values = self.batch.read(self.batch.clean[pair], patch.edits())
            out[pair, circuit] = self.batch.scalars(values, pair)
        return out


def edge_metrics(
    batch: PairBatch, kept: Bool[Tensor, "circuit edge"], by: By = "head"
) -> Float[Tensor, "pair circuit"]:
    """`EdgeRuns.metrics` of one batch; edges in the order of `EdgeRuns.edges`, and of `Edges`."""
    with batch.locked():
        return EdgeRuns(batch, by).metrics(kept)


@dataclass(eq=False)
class EdgePatch:
    """The edits of one forward pass in which readers see other writes than there are.

    `other`: what every writer writes in the other run of each pair; `of`: whose pair a row is. `cut`:
    how much of each edge is taken from there, 1 for all of it. A reader's input is the stream plus the
    sum over its edges of cut * (other - current write), the current writes being those of the pass
    itself as it proceeds.
    """

    wiring: Wiring
    other: Float[Tensor, "pair writer pos d_model"]
    of: Int[Tensor, "row"]
    cut: Float[Tensor, "row edge"]
    missing: Float[Tensor, "row writer pos d_model"] = field(init=False)
    """other - current write, filled in on the way."""
    added: dict[str, Tensor] = field(default_factory=dict)
    """What is still to be added at sites further on."""
    stream: Tensor | None = None
    """What the block reads that the pass is in."""

    def __post_init__(self) -> None:
        self.missing = self.other.new_empty(len(self.of), *self.other.shape[1:])

    def edits(self) -> dict[Site, Edit]:
        every: dict[Site, list[Edit]] = {}
        for site, edit in self._edits():
            every.setdefault(site, []).append(edit)

        def in_turn(own: list[Edit]) -> Edit:
            def edit(activation: Tensor) -> Tensor:
                for each in own:
                    activation = each(activation)
                return activation

            return edit

        return {site: in_turn(own) for site, own in every.items()}

    def _edits(self) -> Iterator[tuple[Site, Edit]]:
        """In the order in which they are to act where several are at one site."""
        wiring, n_layers = self.wiring, self.wiring.view.n_layers
        yield resid_site(0, n_layers), lambda a: self._written(a[:, None], slice(0, 1), a)
        first = 0
        for reading in wiring.readings:
            edges = slice(first, first := first + len(reading.labels) * reading.n_writers)
            if reading.attention is not None:
                yield from self._of_attention(reading, edges)
            elif reading.mlp is not None:
                yield from self._of_mlp(reading, edges)
            else:
                yield wiring.stream.site, lambda a, e=edges, r=reading: self._read(a, r, e)

    def _of_attention(self, reading: Reading, edges: slice) -> Iterator[tuple[Site, Edit]]:
        attention = reading.attention
        assert attention is not None
        i = attention.layer

        def enter(stream: Tensor) -> Tensor:
            self.stream = stream
            moved = self._moved(attention.norm, stream, reading, edges)
            if moved is not None:
                start = 0
                for name, W in attention.weights.items():
                    # A reader of its own for each head, or one for all of them.
                    own = moved if moved.shape[1] == 1 else moved[:, start : start + len(W)]
                    start += len(W)
                    own = own.expand(-1, len(W), -1, -1)
                    label = hook(i, f"attn.hook_{name}")
                    self.added[label] = torch.einsum("rhpm,hme->rphe", own.to(W), W)
            return stream

        yield resid_site(i, self.wiring.view.n_layers), enter
        for name in attention.weights:
            label = hook(i, f"attn.hook_{name}")
            yield Site(label, label), lambda a, k=label: self._add(a, k)
        label = hook(i, "hook_attn_out" if attention.W_O is None else "attn.hook_z")

        def leave(a: Tensor) -> Tensor:
            parts = a[:, None] if attention.W_O is None else attention.heads_write(a)
            return self._written(parts, reading.owns, a)

        yield Site(label, label), leave

    def _of_mlp(self, reading: Reading, edges: slice) -> Iterator[tuple[Site, Edit]]:
        mlp = reading.mlp
        assert mlp is not None

        def enter(a: Tensor) -> Tensor:
            stream = self.stream
            assert stream is not None
            moved = self._moved(
                mlp.norm, stream if mlp.parallel else stream + a.to(stream), reading, edges
            )
            if moved is not None:
                self.added[mlp.site.label] = moved[:, 0]
            return a

        site = hook(mlp.layer, "hook_attn_out")
        # Of parallel blocks it may be reached in either order: their stream is known before both.
        yield (
            resid_site(mlp.layer, self.wiring.view.n_layers) if mlp.parallel else Site(site, site),
            enter,
        )
        yield mlp.site, lambda a: self._add(a, mlp.site.label)
        site = hook(mlp.layer, "hook_mlp_out")
        yield Site(site, site), lambda a: self._written(a[:, None], reading.owns, a)

    def _read(self, stream: Tensor, reading: Reading, edges: slice) -> Tensor:
        offset = self._offset(reading, edges)
        return stream if offset is None else stream + offset[:, 0].to(stream)

    def _written(self, parts: Tensor, slot: slice, activation: Tensor) -> Tensor:
        torch.sub(self.other[self.of, slot], parts.to(self.other), out=self.missing[:, slot])
        return activation

    def _add(self, activation: Tensor, label: str) -> Tensor:
        added = self.added.pop(label, None)
        if added is None:
            return activation
        return activation + added.reshape(activation.shape).to(activation)

    def _offset(
        self, reading: Reading, edges: slice
    ) -> Float[Tensor, "row reader pos d_model"] | None:
        """What the readers' inputs differ by from the stream; None where no edge of theirs is cut."""
        cut = self.cut[:, edges]
        if not cut.any():
            return None
        cut = cut.unflatten(1, (len(reading.labels), reading.n_writers))
        writers = self.missing[:, : reading.n_writers]
        return torch.bmm(cut, writers.flatten(2)).unflatten(2, writers.shape[2:])

    def _moved(
        self, norm: Norm, stream: Tensor, reading: Reading, edges: slice
    ) -> Float[Tensor, "row reader pos d_model"] | None:
        """What the norm of their inputs differs by from that of the stream."""
        offset = self._offset(reading, edges)
        if offset is None:
            return None
        stream = stream[:, None].to(offset)
        return norm(stream + offset) - norm(stream)
