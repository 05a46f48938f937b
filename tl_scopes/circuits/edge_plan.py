"""What readers see in circuits of edges: sums of few writes, and whose inputs are those of another run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tl_scopes.circuits.wiring import Reading, Wiring


@dataclass(frozen=True, eq=False)
class Sums:
    """What the readers of a `reading` see in each circuit.

    `mixed`: readers with writes of both runs: of the other run's stream if `few`, else of this run's, plus
    `share` times (current - other write) of each writer, whichever needs fewer writers. `other`:
    readers that see the other run alone. All other readers see this run alone.
    """

    reading: Reading
    mixed: Bool[Tensor, "circuit reader"]
    other: Bool[Tensor, "circuit reader"]
    few: Sequence[bool]
    share: Float[Tensor, "circuit reader writer"]

    @classmethod
    def of(cls, reading: Reading, kept: Float[Tensor, "circuit reader writer"]) -> Sums:
        given, cut = kept != 0, kept != 1
        mixed = given.any(2) & cut.any(2)
        kept_writers, cut_writers = ((x & mixed[:, :, None]).any(1).sum(1) for x in (given, cut))
        few = kept_writers <= cut_writers
        share = (kept - (~few).to(kept)[:, None, None]) * mixed[:, :, None]
        return cls(reading, mixed, ~given.any(2), few.tolist(), share)

    def touched(self, circuits: range) -> bool:
        """Whether any reader of these circuits sees another run."""
        own = slice(circuits.start, circuits.stop)
        return bool(self.mixed[own].any() or self.other[own].any())


@dataclass(frozen=True, eq=False)
class EdgePlan:
    """Circuits' `sums`, reading by reading. `used`: whose writes these need as the runs proceed."""

    sums: tuple[Sums, ...]
    used: Bool[Tensor, "circuit writer"]

    @classmethod
    def of(
        cls, wiring: Wiring, kept: Shaped[Tensor, "circuit edge"], dtype: torch.dtype
    ) -> EdgePlan:
        kept = kept.to("cpu", dtype)
        used = torch.zeros(len(kept), len(wiring.writers), dtype=torch.bool, device="cpu")
        sums, first = [], 0
        for reading in wiring.readings:
            shape = len(reading.labels), reading.n_writers
            own = kept[:, first : first + shape[0] * shape[1]].unflatten(1, shape)
            sums.append(Sums.of(reading, own))
            used[:, : reading.n_writers] |= (sums[-1].share != 0).any(1)
            first += shape[0] * shape[1]
        return cls(tuple(sums), used)

    def passes(
        self, pairs: int, a_writer: int, most: int, budget: int
    ) -> Iterator[tuple[slice, range]]:
        """Which pairs and circuits share a pass: `most` rows at most, whose used writes, of `a_writer` bytes
        each, take `budget` bytes."""

        def rows(circuits: slice) -> int:
            writers = 1 + int(self.used[circuits].any(0).sum())
            return max(1, min(most, budget // (a_writer * writers)))

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
