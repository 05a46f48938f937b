"""Work in other threads, which must succeed, and end."""

from __future__ import annotations

import contextlib
import threading


def elsewhere(work):
    """What `work()` gives in a thread of its own."""
    with at_once(work) as results:
        pass
    return results[0]


@contextlib.contextmanager
def at_once(*works):
    """Each work in a thread of its own while what follows runs. What they gave, when all are over."""
    results = []
    threads = [threading.Thread(target=lambda w=work: results.append(w())) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        for thread in threads:
            thread.join(100)
    assert len(results) == len(works), "another thread failed, or waits"


@contextlib.contextmanager
def paused(work):
    """`work(wait)` in a thread of its own, which stands still where it calls `wait`."""
    there, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        there.set()
        assert go_on.wait(60)

    with at_once(lambda: work(wait)):
        try:
            assert there.wait(60)
            yield
        finally:
            go_on.set()
