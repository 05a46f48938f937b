"""Seconds and memory that a call takes, and memory that is free."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def seconds(call: Callable[[], object]) -> float:
    """Time that `call` takes, a GPU's queue included."""
    _synchronise()
    started = time.perf_counter()
    call()
    _synchronise()
    return time.perf_counter() - started


def spent(
    call: Callable[[], object], devices: Iterable[torch.device] = ()
) -> tuple[float, float | None]:
    """Seconds that `call` takes, and MiB at its peak over what there was before.

    On CUDA devices (all that there are, if none is named) allocated memory, summed; else resident
    memory of the process on Linux. None where it cannot be told.
    """
    _give_back()
    cuda = [device for device in devices if device.type == "cuda"] or _every_cuda(devices)
    if cuda:
        before = sum(torch.cuda.memory_allocated(device) for device in cuda)
        for device in cuda:
            torch.cuda.reset_peak_memory_stats(device)
        taken = seconds(call)
        peak = sum(torch.cuda.max_memory_allocated(device) for device in cuda)
        return taken, (peak - before) / 2**20
    on_cpu = all(device.type == "cpu" for device in devices)
    if not _CLEAR.exists() or not on_cpu:
        return seconds(call), None
    resident = resident_mib("VmRSS")
    _CLEAR.write_text("5", encoding="ascii")  # forgets the peak so far
    taken = seconds(call)
    return taken, max(0.0, resident_mib("VmHWM") - resident)


def free_mib(devices: Iterable[torch.device]) -> float | None:
    """MiB that are free on the devices; of several, as many times the least. None: it cannot be told."""
    free: list[float] = []
    for device in devices:
        if device.type == "cuda":
            # What torch has reserved and does not use is free to the process.
            kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            free.append(torch.cuda.mem_get_info(device)[0] + kept)
        elif device.type == "mps":
            free.append(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
        elif device.type == "cpu":
            import psutil  # accelerate's own

            free.append(psutil.virtual_memory().available)
    return len(free) * min(free) / 2**20 if free else None


def resident_mib(field: str) -> float:
    """`VmRSS`, what is resident now, or `VmHWM`, the most so far."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def _every_cuda(devices: Iterable[torch.device]) -> list[torch.device]:
    if list(devices) or not torch.cuda.is_available():
        return []
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def _give_back() -> None:
    """What is freed meanwhile, or what malloc keeps of what was freed, would hide what is taken."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _CLEAR.exists() else None
    if trim is not None:  # glibc's
        trim(0)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    if torch.backends.mps.is_available():
        torch.mps.synchronize()
