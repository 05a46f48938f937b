"""Interleaved timing, peak memory, and the machine's matmul rate.

pytest-benchmark and asv time one callable after the other; what drifts on a shared machine then ends up
in the ratio. Here the two callables of a ratio take turns within one run.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Timing:
    """Seconds of two callables, round by round, and the extra memory at the peak of each in MiB."""

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
    a: Callable[[], object], b: Callable[[], object], rounds: int, budget_s: float, warm: bool
) -> Timing:
    """Time `a` and `b` in turn, who goes first alternating, for `rounds`, or fewer (but two) once
    `budget_s` is spent. `warm`: after a round that does not count. Memory is that of the first."""
    calls = (a, b)
    times: tuple[list[float], list[float]] = ([], [])
    peaks: dict[int, float | None] = {}
    started = time.perf_counter()
    for i in range(-1 if warm else 0, rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            if which in peaks:
                spent = seconds(calls[which])
            else:
                spent, peaks[which] = measured(calls[which])
            if i >= 0:
                times[which].append(spent)
        if i > 0 and time.perf_counter() - started > budget_s:
            break
    return Timing(tuple(times[0]), tuple(times[1]), peaks[0], peaks[1])


def seconds(call: Callable[[], object]) -> float:
    """Time that `call` takes, a GPU's queue included."""
    _synchronise()
    started = time.perf_counter()
    call()
    _synchronise()
    return time.perf_counter() - started


def measured(call: Callable[[], object]) -> tuple[float, float | None]:
    """Seconds that `call` takes, and MiB at its peak over what there was before it.

    Resident memory of the process on Linux, allocated memory on a GPU; None where it cannot be told.
    """
    _give_back()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        spent = seconds(call)
        return spent, (torch.cuda.max_memory_allocated() - before) / 2**20
    if not _CLEAR.exists():
        return seconds(call), None
    before = resident_mib("VmRSS")
    _CLEAR.write_text("5", encoding="ascii")  # forgets the peak so far
    spent = seconds(call)
    return spent, max(0.0, resident_mib("VmHWM") - before)


def _give_back() -> None:
    """What is freed meanwhile, or what malloc keeps of what was freed, would hide what is taken."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _CLEAR.exists() else None
    if trim is not None:  # glibc's
        trim(0)


def resident_mib(field: str) -> float:
    """`VmRSS`, what is resident now, or `VmHWM`, the most so far."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Multiply-adds a second of a square matmul, the fastest of several."""
    n = 1024 if device.type == "cpu" else 8192
    x, y = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    return n**3 / min(seconds(lambda: x @ y) for _ in range(20))


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
