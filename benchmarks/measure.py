"""Interleaved timing, peak memory, and the machine's matmul rate.

pytest-benchmark and asv time one callable after the other; what drifts on a shared machine then ends up
in the ratio. Here the two callables of a ratio take turns within one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tl_scopes.checking.spent import seconds, spent


@dataclass(frozen=True)
class Timing:
    """Seconds of two callables, round by round, and the extra memory at the peak of each in MiB. `a` is what
    the first took beyond `less`, where there is one."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    a_mib: float | None
    b_mib: float | None

    @property
    def ratio(self) -> float:
        """Median over rounds of a's time over b's."""
        return statistics.median(x / y for x, y in zip(self.a, self.b))

    @property
    def spread(self) -> tuple[float, float]:
        each = [x / y for x, y in zip(self.a, self.b)]
        return min(each), max(each)


def interleaved(
    a: Callable[[], object],
    b: Callable[[], object],
    rounds: int,
    budget_s: float,
    warm: bool,
    less: Callable[[], object] | None = None,
) -> Timing:
    """Time `a` and `b` in turn, who goes first alternating, for `rounds`, or fewer (but two) once
    `budget_s` is spent. `warm`: after a round that does not count. `less`: a part of `a`, whose time is
    taken away. Memory is that of the first round."""
    calls = (a, b) if less is None else (a, b, less)
    forth = tuple(range(len(calls)))
    times: tuple[list[float], ...] = tuple([] for _ in calls)
    peaks: dict[int, float | None] = {}
    started = time.perf_counter()
    for i in range(-1 if warm else 0, rounds):
        for which in forth if i % 2 == 0 else forth[::-1]:
            if which in peaks:
                taken = seconds(calls[which])
            else:
                taken, peaks[which] = spent(calls[which])
            if i >= 0:
                times[which].append(taken)
        if i > 0 and time.perf_counter() - started > budget_s:
            break
    own = times[0] if less is None else [x - part for x, part in zip(times[0], times[2])]
    return Timing(tuple(own), tuple(times[1]), peaks[0], peaks[1])


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Multiply-adds a second of a square matmul, the fastest of several."""
    n = 1024 if device.type == "cpu" else 8192
    x, y = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    return n**3 / min(seconds(lambda: x @ y) for _ in range(20))
