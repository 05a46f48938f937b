"""Who writes into the residual stream and who reads it: each reader's own input, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.sites import Site, resid_site
from tl_scopes.adapter.view import ModelView
from tl_scopes.circuits.passes.stream import Stream
from tl_scopes.circuits.wiring.norms import Identity, Norm

By = Literal["head", "mlp"]
Kept = Mapping[str, Tensor]  # activations by label, [row, pos, ...]


def hook(layer: int, name: str) -> str:
    return f"blocks.{layer}.{name}"


@dataclass(frozen=True, eq=False)
class Attention:
    """What one block's attention reads and writes.

    `norm`: from the stream to its input. `weights`, `biases`: of queries, keys and values, with the heads
    that each has. `output`: from the sum of what heads write to what enters the stream.
    """

    layer: int
    before: str
    norm: Norm
    weights: dict[str, Float[Tensor, "head d_model d_head"]]
    biases: dict[str, Float[Tensor, "head d_head"]]
    W_O: Float[Tensor, "head d_head d_model"] | None
    b_O: Tensor | None
    output: Norm

    @property
    def has_bias(self) -> bool:
        """Whether its bias is written otherwise in other runs: by way of the norm behind it."""
        return self.W_O is not None and self.b_O is not None and type(self.output) is Norm

    def sees(
        self, name: str, heads: Int[Tensor, "head"], x: Float[Tensor, "head row pos d_model"]
    ) -> Float[Tensor, "row pos head d_head"]:
        """Queries, keys or values of some heads, each of a stream of its own."""
        W, b = self.weights[name], self.biases[name]
        if len(heads) < len(W):
            W, b = W[heads], b[heads]
        found = self.norm.projected(x.flatten(1, 2).to(W), W, b)
        return found.unflatten(1, x.shape[1:3]).movedim(0, 2)

    def writes(self, kept: Kept) -> Float[Tensor, "part row pos d_model"]:
        """What its heads, and the bias if it `has_bias`, write; attention as a whole if they are not
        told apart. Up to what is the same in every run."""
        if self.W_O is None:
            return kept[hook(self.layer, "hook_attn_out")][None]
        return self.heads_write(kept[hook(self.layer, "attn.hook_z")])

    def heads_write(
        self, z: Float[Tensor, "row pos head d_head"], parts: Sequence[int] | None = None
    ) -> Float[Tensor, "part row pos d_model"]:
        """`parts`: only these."""
        W = self.W_O
        assert W is not None
        z, n = z.to(W.device, W.dtype), len(W)
        heads = [*range(n)] if parts is None else [part for part in parts if part < n]
        some = len(heads) < n
        own, W_own = z.movedim(2, 0), W
        if some:
            own, W_own = own[heads], W[heads]
        found = torch.bmm(own.flatten(1, 2), W_own).unflatten(1, z.shape[:2])
        if type(self.output) is Identity:
            return found if self.output.gain == 1 else found * self.output.gain
        whole = torch.einsum("rphe,hem->rpm", z, W) if some else found.sum(0)
        if self.b_O is not None:
            whole = whole + self.b_O
        if self.has_bias and (parts is None or n in parts):
            assert self.b_O is not None
            found = torch.cat([found, self.b_O.expand(1, *whole.shape)])
        return self.output.part(found, whole)


@dataclass(frozen=True, eq=False)
class Mlp:
    """What one block's MLP reads: a `norm` of the stream. `parallel`: of the one that attention reads, not
    of the one after it. `site`: where its input is seen."""

    layer: int
    before: str
    norm: Norm
    parallel: bool
    site: Site


@dataclass(frozen=True, eq=False)
class Reading:
    """Readers that see the same writers: the first `n_writers`. `mlp`, `attention`: whose they are; of
    neither: the read. `owns`: which writers these write as."""

    labels: tuple[str, ...]
    owners: tuple[tuple[str, ...], ...]
    n_writers: int
    owns: slice
    attention: Attention | None = None
    mlp: Mlp | None = None


@dataclass(frozen=True, eq=False)
class Wiring:
    """A model's writers and readers, up to the last stream before what is read."""

    view: ModelView
    stream: Stream
    by: By
    attentions: tuple[Attention, ...]
    mlps: Mapping[int, Mlp]

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        """In the order of the forward pass."""
        return self._laid_out[1]

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Labels of what writes into the stream, in that order."""
        return self._laid_out[0]

    @cached_property
    def _laid_out(self) -> tuple[tuple[str, ...], tuple[Reading, ...]]:
        writers, readings = ["embed"], []
        for attention in self.attentions:
            i, before = attention.layer, len(writers)
            own = self._parts(attention)
            labels, owners = self._heads(attention, own)
            after = before + len(own)
            readings.append(
                Reading(labels, owners, before, slice(before, after), attention=attention)
            )
            writers += own
            if mlp := self.mlps.get(i):
                seen, own = before if mlp.parallel else after, (f"{i}_mlp_out",)
                slot = slice(after, after + 1)
                readings.append(Reading((f"{i}_mlp_in",), (own,), seen, slot, mlp=mlp))
                writers += own
        n = len(writers)
        readings.append(Reading(("read",), ((),), n, slice(n, n)))
        return tuple(writers), tuple(readings)

    def _parts(self, attention: Attention) -> list[str]:
        i = attention.layer
        if self.by == "mlp":
            return [f"{i}_attn_out"]
        heads = [f"L{i}H{h}" for h in range(len(attention.weights["q"]))]
        return [*heads, *([f"{i}_b_O"] if attention.has_bias else [])]

    def _heads(
        self, attention: Attention, parts: list[str]
    ) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        i, n = attention.layer, len(attention.weights["q"])
        if self.by == "mlp":
            return (f"{i}_attn_in",), (tuple(parts),)
        labels, owners = [], []
        for name, W in attention.weights.items():
            for h in range(len(W)):
                labels.append(f"L{i}H{h}.{name}")
                share = n // len(W)  # query heads that read by one key or value head
                # What the norm behind them makes of the bias depends on all heads.
                owners.append((*parts[h * share : (h + 1) * share], *parts[n:]))
        return tuple(labels), tuple(owners)

    @property
    def readers(self) -> tuple[str, ...]:
        """Labels of what reads the stream, in that order."""
        return tuple(label for reading in self.readings for label in reading.labels)

    @property
    def owners(self) -> dict[str, tuple[str, ...]]:
        """The writers that read by each reader."""
        pairs = (zip(reading.labels, reading.owners) for reading in self.readings)
        return {label: own for each in pairs for label, own in each}

    @property
    def ends(self) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        """The writer and the reader of each edge: reader by reader, the writers of each in their order."""
        each = [reading.n_writers for reading in self.readings for _ in reading.labels]
        counts = torch.tensor(each, device="cpu")
        sources = [torch.arange(n, device="cpu") for n in each]
        return torch.cat(sources), torch.arange(len(each), device="cpu").repeat_interleave(counts)

    @cached_property
    def n_edges(self) -> int:
        return sum(len(reading.labels) * reading.n_writers for reading in self.readings)

    def read_by(self, reading: Reading, kept: Kept) -> Float[Tensor, "row pos d_model"]:
        """The stream that readers read in a run."""
        if reading.mlp is not None:
            return self.before(reading.mlp, kept)
        return kept[
            self.stream.site.label if reading.attention is None else reading.attention.before
        ]

    def before(self, mlp: Mlp, kept: Kept) -> Float[Tensor, "row pos d_model"]:
        """The stream that an MLP reads in a run."""
        stream = kept[mlp.before]
        if mlp.parallel:
            return stream
        return stream + kept[hook(mlp.layer, "hook_attn_out")].to(stream.device)

    def writes(
        self, kept: Kept, device: torch.device, dtype: torch.dtype
    ) -> Float[Tensor, "row writer pos d_model"]:
        """What every writer writes in a run, up to what is the same in all runs."""
        every = [kept["resid(0)"][None]]
        for attention in self.attentions:
            every.append(attention.writes(kept))
            if attention.layer in self.mlps:
                every.append(kept[hook(attention.layer, "hook_mlp_out")][None])
        return torch.cat([x.to(device, dtype).transpose(0, 1) for x in every], dim=1)

    @property
    def sites(self) -> list[Site]:
        """Where a run is to be kept for `writes`."""
        of_attention = "attn.hook_z" if self.by == "head" else "hook_attn_out"
        hooks = [hook(a.layer, of_attention) for a in self.attentions]
        hooks += [hook(i, "hook_mlp_out") for i in self.mlps]
        return [resid_site(0, self.view.n_layers), *(Site(h, h) for h in hooks)]
