"""Who of a launch is alive: processes wait for one that works, however long, and not for one that is gone."""

from __future__ import annotations

import atexit
import itertools
import json
import socket
import threading
import time
from typing import Any

from tl_scopes.errors import LostProcessError
from tl_scopes.models.quiet import say

# Seconds between two signs of life, and without any before a process counts as gone.
BEAT, SILENCE = 5.0, 180.0
# Seconds of waiting after which it is said for whom. The next pause is twice as long each time.
SAID = 60.0
# Seconds between two looks for those who come, and for those who are gone.
_LOOK, _LOOK_AFTER = 0.05, 1.0


class Said:
    """A line on stderr about what is waited for: after some seconds, then ever more rarely."""

    def __init__(self, seconds: float) -> None:
        self._pause = seconds
        self._next = time.monotonic() + seconds

    def __call__(self, text: str) -> None:
        if time.monotonic() >= self._next:
            say(text)
            self._pause *= 2
            self._next = time.monotonic() + self._pause


class Pulse:
    """Shows that this process lives, and looks after the others, in the store that all of them share.

    Each counts there while it lives. One on this machine also counts as gone when its process id
    does, at once.
    """

    def __init__(self, store: Any, index: int, count: int) -> None:
        self._store = store
        self._index = index
        self._others = [i for i in range(count) if i != index]
        self._count = count
        self._places = itertools.count()
        self._beats = {i: (-1, time.monotonic()) for i in self._others}
        self._seen: dict[int, Any] = {}
        self._has_store = True
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        import psutil

        if self._thread is not None:
            return
        own = psutil.Process()
        self._store.set(
            f"tl_scopes/who/{self._index}",
            json.dumps([socket.gethostname(), own.pid, own.create_time()]),
        )
        self._stopped.clear()
        self._thread = threading.Thread(target=self._beat, name="tl_scopes pulse", daemon=True)
        self._thread.start()
        # Python ends threads by force when it ends: within the store's C++ that aborts the process.
        atexit.register(self.stop)

    def stop(self) -> None:
        if self._thread is not None:
            atexit.unregister(self.stop)
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def _beat(self) -> None:
        try:
            while True:
                self._store.add(f"tl_scopes/life/{self._index}", 1)
                if self._stopped.wait(BEAT):
                    return
        except RuntimeError:  # the process that holds the store has ended, as the others will see
            return

    def meet(self) -> None:
        """Wait until every process has come to the same place. Raises `LostProcessError`."""
        place = next(self._places)
        said = Said(SAID)
        try:
            self._store.set(f"tl_scopes/at/{place}/{self._index}", "here")
            left = list(self._others)
            start = look = time.monotonic()
            while True:
                left = [i for i in left if not self._store.check([f"tl_scopes/at/{place}/{i}"])]
                if not left:
                    for i in self._others:
                        self._see(i)
                    return
                if time.monotonic() >= look:
                    if gone := [i for i in left if self._is_gone(i, start)]:
                        quiet = f"gave no sign of life for {SILENCE:.0f} s"
                        raise lost(self._index, self._count, f"{named(gone)} ended, or {quiet}")
                    look = time.monotonic() + _LOOK_AFTER
                if self._index == 0:
                    said(f"waiting for {named(left)} of {self._count}, still at work")
                time.sleep(_LOOK)
        except LostProcessError:
            raise
        except RuntimeError:
            # The store ended with the process that holds it. What that one had to tell may have
            # been sent before: whoever asks for it now either gets it or is told at once.
            self._has_store = False

    def ended(self) -> list[int]:
        """Who has ended, as far as this process can tell: without the store the one that held it."""
        found = [i for i, who in self._seen.items() if who and not _runs(*who)]
        return found or ([] if self._has_store else self._others[:1])

    def _see(self, index: int) -> Any:
        """Where `index` runs if that is on this machine: its process id, and since when."""
        if index not in self._seen and self._store.check([f"tl_scopes/who/{index}"]):
            host, *who = json.loads(self._store.get(f"tl_scopes/who/{index}"))
            # Of another machine, or of a container that sees other process ids: counts alone tell.
            self._seen[index] = who if host == socket.gethostname() and _runs(*who) else ()
        return self._seen.get(index)

    def _is_gone(self, index: int, since: float) -> bool:
        who = self._see(index)
        if who and not _runs(*who):
            return True
        beat, at = self._beats[index]
        now = self._store.add(f"tl_scopes/life/{index}", 0)
        if now != beat:
            self._beats[index] = now, time.monotonic()
            return False
        return time.monotonic() - max(at, since) > SILENCE


def lost(index: int, count: int, why: str) -> LostProcessError:
    """The error of process `index` of `count`."""
    return LostProcessError(
        f"process {index} of {count} lost the others ({why}). What is written stays good, and the "
        "same command goes on from there"
    )


def named(indices: list[int]) -> str:
    listed = ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")
    return f"process{'es' if len(indices) > 1 else ''} {listed}"


def _runs(pid: int, created: float) -> bool:
    """Whether this very process still runs, on this machine."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
