"""Real patches of edges: each reader's own input, with the writes of cut edges taken from another run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.sites import Site, resid_site
from tl_scopes.adapter.view import Edit
from tl_scopes.circuits.wiring.blocks import Attention, Mlp, Wiring, hook
from tl_scopes.circuits.wiring.plan import EdgePlan, Group, Sums

# The only part of an activation that is not split.
_ONE = torch.zeros(1, dtype=torch.int64, device="cpu")


@dataclass(eq=False)
class Common:
    """What runs of several batches share: the wiring up to each stream, and memory. Fresh memory would cost
    more than what is computed there."""

    wirings: dict[str, Wiring] = field(default_factory=dict)
    held: Tensor | None = None

    def room(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """An empty tensor, until the next one is asked for."""
        size, held = math.prod(shape), self.held
        if held is None or len(held) < size or held.device != like.device:
            self.held = held = None  # two of them never exist at a time
            self.held = held = like.new_empty(size)
        return held[:size].view(*shape)


@dataclass(eq=False)
class EdgePatch:
    """The edits of one forward pass in which readers see other writes than there are.

    `other`: what the other run of each pair shows; `others`: what every writer writes there. Rows are the
    `pairs`, under each of the `circuits` of a `plan`, one after the other.
    """

    wiring: Wiring
    other: Mapping[str, Tensor]
    others: Float[Tensor, "pair writer pos d_model"]
    plan: EdgePlan
    pairs: slice
    circuits: range
    common: Common
    used: Int[Tensor, "used"] = field(init=False)
    """The writers whose writes are needed."""
    changed: Float[Tensor, "circuit used pair pos d_model"] = field(init=False)
    """Their current - other write, filled in on the way."""
    inputs: dict[str, list[tuple[slice, Int[Tensor, "head"], Tensor]]] = field(default_factory=dict)
    """What is to be put into sites further on: rows, heads, and what they are to see."""
    group: Group | None = None
    """Whose sums over early writers are known: `early`, by circuit."""
    early: dict[int, Float[Tensor, "reader write"]] = field(default_factory=dict)
    stream: Tensor | None = None
    """What the block reads that the pass is in."""

    def __post_init__(self) -> None:
        circuits = slice(self.circuits.start, self.circuits.stop)
        self.used = self.plan.used[circuits].any(0).nonzero()[:, 0]
        shape = len(self.circuits), len(self.used), self.pairs.stop - self.pairs.start
        self.changed = self.common.room([*shape, *self.others.shape[2:]], self.others)

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
        root = resid_site(0, self.wiring.view.n_layers)
        if self._used(slice(0, 1)):
            yield root, lambda a: self._written(a[None], slice(0, 1), a)
        for sums in self.plan.sums:
            reading = sums.reading
            if reading.attention is not None:
                yield from self._of_attention(reading.attention, sums)
            elif reading.mlp is not None:
                yield from self._of_mlp(reading.mlp, sums)
            elif sums.touched(self.circuits):
                yield self.wiring.stream.site, lambda a, s=sums: self._read(a, s)

    def _of_attention(self, attention: Attention, sums: Sums) -> Iterator[tuple[Site, Edit]]:
        i, owns = attention.layer, sums.reading.owns

        def enter(stream: Tensor) -> Tensor:
            self.stream = stream
            for rows, readers, x in self._mixed(sums, stream):
                for name, label, heads, own in self._heads(attention, readers):
                    seen = attention.sees(name, heads, x[own].expand(len(heads), *x.shape[1:]))
                    self.inputs.setdefault(label, []).append((rows, heads, seen))
            for rows, readers in self._others(sums):
                for _, label, heads, _ in self._heads(attention, readers):
                    seen = self.other[label][self.pairs, :, heads]
                    self.inputs.setdefault(label, []).append((rows, heads, seen))
            return stream

        yield resid_site(i, self.wiring.view.n_layers), enter
        if sums.touched(self.circuits):
            for name in attention.weights:
                label = hook(i, f"attn.hook_{name}")
                yield Site(label, label), lambda a, k=label: self._see(a, k)
        if parts := self._used(owns):
            label = hook(i, "hook_attn_out" if attention.W_O is None else "attn.hook_z")

            def leave(a: Tensor) -> Tensor:
                written = a[None] if attention.W_O is None else attention.heads_write(a, parts)
                return self._written(written, owns, a)

            yield Site(label, label), leave

    def _heads(
        self, attention: Attention, readers: Int[Tensor, "reader"]
    ) -> Iterator[tuple[str, str, Int[Tensor, "head"], slice]]:
        """By queries, keys and values: the site, the heads that are among the `readers`, and where there."""
        first = 0
        for name, W in attention.weights.items():
            label = hook(attention.layer, f"attn.hook_{name}")
            if self.wiring.by == "mlp":  # one reader for all of them
                yield name, label, torch.arange(len(W), device="cpu"), slice(None)
                continue
            bounds = torch.tensor([first, first + len(W)], device="cpu")
            start, stop = torch.searchsorted(readers, bounds).tolist()
            if stop > start:
                yield name, label, readers[start:stop] - first, slice(start, stop)
            first += len(W)

    def _of_mlp(self, mlp: Mlp, sums: Sums) -> Iterator[tuple[Site, Edit]]:
        wiring, label = self.wiring, mlp.site.label

        def enter(a: Tensor) -> Tensor:
            stream = self.stream
            assert stream is not None
            stream = stream if mlp.parallel else stream + a.to(stream)
            seen = self._alone(sums, stream)
            self.inputs[label] = [(rows, _ONE, mlp.norm(x)[:, :, None]) for rows, x in seen]
            return a

        if sums.touched(self.circuits):
            name = hook(mlp.layer, "hook_attn_out")
            before = resid_site(mlp.layer, wiring.view.n_layers)
            # Of parallel blocks it may be reached in either order: their stream is known before both.
            yield before if mlp.parallel else Site(name, name), enter
            yield mlp.site, lambda a: self._see(a, label)
        owns = sums.reading.owns
        if self._used(owns):
            name = hook(mlp.layer, "hook_mlp_out")
            yield Site(name, name), lambda a: self._written(a[None], owns, a)

    def _read(self, stream: Tensor, sums: Sums) -> Tensor:
        label = self.wiring.stream.site.label
        self.inputs[label] = [(rows, _ONE, x[:, :, None]) for rows, x in self._alone(sums, stream)]
        return self._see(stream, label)

    def _see(self, activation: Tensor, label: str) -> Tensor:
        """With what is to be put into a site."""
        given = self.inputs.pop(label, [])
        if not given:
            return activation
        activation = activation.clone(memory_format=torch.contiguous_format)
        n, length, _, width = given[0][2].shape
        split = activation.view(n * len(self.circuits), length, -1, width)
        for rows, heads, seen in given:
            split[rows, :, heads] = seen.to(split)
        return activation

    def _used(self, owns: slice) -> list[int]:
        """Which of a reader's own writes are needed."""
        place = self._place(owns)
        return (self.used[place] - owns.start).tolist()

    def _place(self, writers: slice) -> slice:
        bounds = torch.tensor([writers.start, writers.stop], device="cpu")
        return slice(*torch.searchsorted(self.used, bounds).tolist())

    def _written(
        self, parts: Float[Tensor, "part row pos d_model"], owns: slice, activation: Tensor
    ) -> Tensor:
        place = self._place(owns)
        out = self.changed[:, place]
        other = self.others[self.pairs].index_select(1, self.used[place].to(out.device))
        parts = parts.to(out).unflatten(1, (len(out), -1)).transpose(0, 1)
        torch.sub(parts, other.transpose(0, 1), out=out)
        return activation

    def _rows(self, circuit: int) -> slice:
        n = self.pairs.stop - self.pairs.start
        return slice(circuit * n, (circuit + 1) * n)

    def _others(self, sums: Sums) -> Iterator[tuple[slice, Int[Tensor, "reader"]]]:
        """Of each circuit the rows, and the readers that see the other run alone."""
        for i, circuit in enumerate(self.circuits):
            if len(readers := sums.other[circuit].nonzero()[:, 0]):
                yield self._rows(i), readers

    def _mixed(
        self, sums: Sums, stream: Tensor
    ) -> Iterator[tuple[slice, Int[Tensor, "reader"], Float[Tensor, "reader pair pos d_model"]]]:
        """Of each circuit the rows, the readers that see some writes of both runs, and what they see."""
        group = sums.group
        late = self._place(slice(group.n_early, sums.reading.n_writers))
        for i, circuit in enumerate(self.circuits):
            readers, rows = sums.mixed[circuit].nonzero()[:, 0], self._rows(i)
            if not len(readers):
                continue
            first = int(group.mixed[circuit, : sums.first].sum())
            x = self._early(group, i)[first : first + len(readers)]
            self._add(x, sums.share[circuit, readers], group.n_early, i, late)
            x = x.unflatten(1, stream[rows].shape)
            yield rows, readers, x if group.few[circuit] else x.add_(stream[rows].to(x))

    def _early(self, group: Group, i: int) -> Float[Tensor, "reader write"]:
        """Of a circuit the sums over early writers, for the mixed readers of a group: onto the other run's
        stream, if that is what they are added to."""
        if self.group is not group:
            self.group, self.early = group, {}
        if i not in self.early:
            mixed = group.mixed[self.circuits[i]]
            counts = [
                int(own.sum()) for own in mixed.split([len(r.labels) for r in group.readings])
            ]
            sums = self.changed.new_empty(sum(counts), *self.changed.shape[2:])
            for reading, own in zip(group.readings, sums.split(counts)):
                if group.few[self.circuits[i]]:
                    own.copy_(self.wiring.read_by(reading, self.other)[self.pairs])
                else:
                    own.zero_()
            sums, share = sums.flatten(1), group.share[self.circuits[i], mixed]
            self._add(sums, share, 0, i, self._place(slice(0, group.n_early)))
            self.early[i] = sums
        return self.early[i]

    def _add(
        self,
        sums: Float[Tensor, "reader write"],
        share: Float[Tensor, "reader writer"],
        first: int,
        i: int,
        place: slice,
    ) -> None:
        """Writes of a circuit at a `place`, of writers from `first` on, as far as there are shares of them."""
        share, changed = share[:, self.used[place] - first], self.changed[i, place]
        own = share.any(0).nonzero()[:, 0]
        if not len(own):
            return
        if 2 * len(own) < len(changed):  # else leaving out is dearer than adding nothing
            share, changed = share[:, own], changed.index_select(0, own.to(changed.device))
        sums.addmm_(share.to(changed), changed.flatten(1))

    def _alone(
        self, sums: Sums, stream: Tensor
    ) -> Iterator[tuple[slice, Float[Tensor, "pair pos d_model"]]]:
        """Of each circuit in which the only reader does not see this run alone the rows, and what it sees."""
        for rows, _, x in self._mixed(sums, stream):
            yield rows, x[0]
        for rows, _ in self._others(sums):
            yield rows, self.wiring.read_by(sums.reading, self.other)[self.pairs]
