"""What a fork leaves behind of threads that it did not take along: locks held for ever, work half undone."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


def in_child(mend: Callable[[], object]) -> None:
    """Have every forked child call `mend` before anything else."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=mend)


def is_orphaned(lock: Any) -> bool:
    """In a child: whether a thread that is not there holds the RLock `lock`. One of this thread's own stays."""
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def close(stacks: list[ExitStack]) -> None:
    """Close each, the last one first, also after an error in another."""
    with ExitStack() as all_of_them:
        for stack in stacks:
            all_of_them.push(stack)
        stacks.clear()
