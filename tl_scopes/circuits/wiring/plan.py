"""What readers see in circuits of edges: sums of few writes, and whose inputs are those of another run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tl_scopes.circuits.wiring.blocks import Reading, Wiring


@dataclass(frozen=True, eq=False)
class Group:
    """Readers of a few blocks, whose sums over all writers before these, the first `n_early`, are taken at
    once: else memory of all of them would be read for each part anew.

    `mixed`, `other`, `few`: see `Sums`. `share`: of the early writers.
    """

    readings: Sequence[Reading]
    n_early: int
    mixed: Bool[Tensor, "circuit reader"]
    other: Bool[Tensor, "circuit reader"]
    few: Sequence[bool]
    share: Float[Tensor, "circuit reader writer"]


@dataclass(frozen=True, eq=False)
class Sums:
    """What the readers of a `reading` see in each circuit: those of a `group` from `first` on.

    `mixed`: readers with writes of both runs: of the other run's stream if `few`, else of this run's, plus
    `share` times (current - other write) of each writer. `other`: readers that see
    the other run alone. All other readers see this run alone. `share`: of the writers
    that are not early.
    """

    reading: Reading
    group: Group
    first: int
    share: Float[Tensor, "circuit reader writer"]

    @property
    def mixed(self) -> Bool[Tensor, "circuit reader"]:
        return self._own(self.group.mixed)

    @property
    def other(self) -> Bool[Tensor, "circuit reader"]:
        return self._own(self.group.other)

    def _own(self, of_group: Tensor) -> Tensor:
        return of_group[:, self.first : self.first + len(self.reading.labels)]

    def touched(self, circuits: range) -> bool:
        """Whether any reader of these circuits sees another run."""
        own = slice(circuits.start, circuits.stop)
        return bool(self.mixed[own].any() or self.other[own].any())


@dataclass(frozen=True, eq=False)
class EdgePlan:
    """Circuits' `sums`, reading by reading. `used`: whose writes these need as the runs proceed."""

    sums: tuple[Sums, ...]
    used: Bool[Tensor, "circuit writer"]

    @property
    def _group(self) -> int:
        """Readers of the largest group."""
        return max(sums.group.mixed.shape[1] for sums in self.sums)

    @classmethod
    def of(
        cls, wiring: Wiring, kept: Shaped[Tensor, "circuit edge"], dtype: torch.dtype
    ) -> EdgePlan:
        kept = kept.to("cpu", dtype)
        used = torch.zeros(len(kept), len(wiring.writers), dtype=torch.bool, device="cpu")
        found: list[Sums] = []
        for readings, edges in _groups(wiring, kept):
            early, sizes = readings[0].n_writers, [x.shape[1] for x in edges]
            given, cut = (torch.cat([(x != v).any(2) for x in edges], dim=1) for v in (0, 1))
            mixed = given & cut
            own = [m[:, :, None] for m in mixed.split(sizes, dim=1)]
            n_kept, n_cut = (
                torch.stack([((x != v) & m).sum((1, 2)) for x, m in zip(edges, own)]).sum(0)
                for v in (0, 1)
            )
            # Sums over few writers are cheaper; over many, those begun with what is known beforehand.
            few = n_kept <= 3 * n_cut
            taken = (~few).to(kept)[:, None, None]
            shares = [(x - taken) * m for x, m in zip(edges, own)]
            of_early = torch.cat([share[:, :, :early] for share in shares], dim=1)
            group = Group(readings, early, mixed, ~given, few.tolist(), of_early)
            used[:, :early] |= (of_early != 0).any(1)
            first = 0
            for reading, share in zip(readings, shares):
                late = share[:, :, early:]
                used[:, early : reading.n_writers] |= (late != 0).any(1)
                found.append(Sums(reading, group, first, late))
                first += len(reading.labels)
        return cls(tuple(found), used)

    def passes(
        self, pairs: int, a_writer: int, most: int, budget: int
    ) -> Iterator[tuple[slice, range]]:
        """Which pairs and circuits share a pass: `most` rows at most, whose used writes and a group's sums,
        of `a_writer` bytes each, take `budget` bytes."""

        def rows(circuits: slice) -> int:
            writers = int(self.used[circuits].any(0).sum())
            return max(1, min(most, budget // (a_writer * (self._group + writers))))

        start = 0
        while start < len(self.used):
            stop = start + 1
            while stop < len(self.used) and (stop + 1 - start) * pairs <= rows(
                slice(start, stop + 1)
            ):
                stop += 1
            step = min(pairs, rows(slice(start, stop)))
            for first in range(0, pairs, step):
                yield slice(first, min(first + step, pairs)), range(start, stop)
            start = stop


def _groups(
    wiring: Wiring, kept: Float[Tensor, "circuit edge"]
) -> Iterator[tuple[list[Reading], list[Float[Tensor, "circuit reader writer"]]]]:
    """Readings of as many blocks as make the least of what is read again, with their edges: of n blocks in
    groups of s, writes are read n / s times as early ones and s times as others."""
    size = max(1, round(math.sqrt(len(wiring.attentions) / 2)))
    readings: list[Reading] = []
    edges: list[Tensor] = []
    first = blocks = 0
    for reading in wiring.readings:
        if reading.attention is not None:
            if blocks and blocks % size == 0:
                yield readings, edges
                readings, edges = [], []
            blocks += 1
        shape = len(reading.labels), reading.n_writers
        readings.append(reading)
        edges.append(kept[:, first : first + shape[0] * shape[1]].unflatten(1, shape))
        first += shape[0] * shape[1]
    yield readings, edges
