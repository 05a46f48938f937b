"""The folder of a run, which one run at a time may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tl_scopes.errors import RunError
from tl_scopes.evaluation.runs.parts import PARTS
from tl_scopes.evaluation.runs.processes import Processes


@contextmanager
def held(out: Path, team: Processes) -> Iterator[None]:
    """Make the folder, and keep other runs out of it while this one works. Raises `RunError`."""
    from filelock import FileLock, Timeout

    lock = FileLock(out / ".lock", timeout=0)
    try:
        with team.together():
            if out.exists() and not out.is_dir():
                raise RunError(f"{out} is a file; give a folder for the run's files")
            if not out.parent.is_dir():
                raise RunError(f"there is no folder {out.parent} to make {out.name} in: create it")
            (out / PARTS).mkdir(parents=True, exist_ok=True)
            if team.is_main:
                try:
                    lock.acquire()
                except Timeout:
                    raise RunError(
                        f"another run is at work in {out}: wait for it, or give another folder"
                    ) from None
        yield
    finally:
        lock.release()
