"""Copies of this process, made by forking: a warm start, so that many can be started, and killed."""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import torch


def one_thread() -> Iterator[None]:
    """Compute here as in the copies: another number of threads gives other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(work: Callable[[], object], folder: Path | None = None, **environment: str) -> int:
    """Run `work` in a copy of this process, in `folder`. Its id; it exits with 0, or 1 for an error."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        gc.freeze()  # else the collector writes to all of the memory that is shared with the parent
        jaxtyping.config.update("jaxtyping_disable", True)  # annotations are checked elsewhere
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        os.environ.update(environment)
        if folder is not None:
            os.chdir(folder)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of pytest's may run here


def wait(pid: int, seconds: float = 60) -> int:
    """Its exit code, negative for the signal that ended it. One that takes too long is killed."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"a child process took more than {seconds} s")
        time.sleep(0.002)


def kill_after(pid: int, seconds: float) -> int:
    """Kill -9 after some seconds, unless it ended before. Its exit code."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def launch(count: int) -> dict[str, str]:
    """What torchrun tells each of `count` processes alike."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return shared | {"LOCAL_WORLD_SIZE": str(count)}


def launched(work: Callable[[int], object], count: int, *folders: Path) -> list[int]:
    """Start `work(rank)` in `count` copies, as torchrun would. Their ids."""
    shared = launch(count)
    return [
        start(
            lambda rank=rank: work(rank),
            folders[rank] if folders else None,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **shared,
        )
        for rank in range(count)
    ]


def together(
    work: Callable[[int], object], count: int, *folders: Path, seconds: float = 60
) -> list[int]:
    """Run `work(rank)` in `count` copies, launched as torchrun would. Their exit codes."""
    return [wait(pid, seconds) for pid in launched(work, count, *folders)]
