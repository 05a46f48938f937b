"""Signals as a program finds them that is started at a terminal."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts this process, and the children that are started inside.

    A script starts its background jobs with SIGINT ignored, and children inherit that: `make test &`
    would wait for ever for a command line that does not hear its Ctrl-C. What is not ignored is the
    default again in a child that runs another program.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """As a script starts its background jobs."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
