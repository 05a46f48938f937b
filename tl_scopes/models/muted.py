"""What one thread writes, logs, warns of and sets in the environment, apart from what others do."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

Mine = Callable[[], bool]


@contextlib.contextmanager
def this_thread() -> Iterator[Mine]:
    """Whether this thread, and not another, asks. No longer any after the end: what somebody
    saved of the hooks below meanwhile, and put back later, has no effect."""
    owner = [threading.get_ident()]
    try:
        yield lambda: threading.get_ident() in owner
    finally:
        owner.clear()


class _Stream:
    """A stream that drops what one thread writes."""

    def __init__(self, real: Any, mine: Mine) -> None:
        self.real = real
        self.is_over = False
        self._mine = mine

    def write(self, text: str) -> int:
        return len(text) if self._mine() else self.real.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer" and self._mine():
            return io.BytesIO()
        return getattr(self.real, name)


@contextlib.contextmanager
def dropped(name: str, mine: Mine) -> Iterator[None]:
    """What this thread writes to `sys.stdout` or `sys.stderr`."""
    real = getattr(sys, name)
    if real is None:
        yield
        return
    while isinstance(real, _Stream) and real.is_over:  # put back by somebody who had saved it
        real = real.real
    stream = _Stream(real, mine)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        if getattr(sys, name) is stream:  # else another thread has redirected it since
            setattr(sys, name, real)
        stream.is_over = True


class _Anything:
    """In the place of a filter's pattern: fits every text, in one thread."""

    def __init__(self, mine: Mine) -> None:
        self._mine = mine

    def match(self, _text: str) -> bool:
        return self._mine()


@contextlib.contextmanager
def unwarned(mine: Mine) -> Iterator[None]:
    """No warnings from this thread. `warnings.catch_warnings` would hold for all of them."""
    item: Any = ("ignore", _Anything(mine), Warning, None, 0)
    warnings.filters.insert(0, item)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        if item in warnings.filters:
            warnings.filters.remove(item)  # pyright: ignore[reportAttributeAccessIssue]


class _Bare(logging.Handler):
    """On a root logger without handlers, which `logging.warning` would give one for good: drops what
    one thread logs, and shows what others do as if it were not there."""

    def __init__(self, mine: Mine) -> None:
        super().__init__(logging.WARNING)
        self._mine = mine
        self._named = logging.Formatter(logging.BASIC_FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._mine():
            form = self._named if record.name == "root" else self
            sys.stderr.write(form.format(record) + "\n")


@contextlib.contextmanager
def unlogged(library: str, mine: Mine) -> Iterator[None]:
    """Nothing below an error from this thread by the loggers of `library`, nor by a bare root logger."""
    root = logging.getLogger()
    bare = [] if root.handlers else [_Bare(mine)]
    handlers = [*logging.getLogger(library).handlers, *root.handlers]

    def passes(record: logging.LogRecord) -> bool:
        theirs = record.name.partition(".")[0] == library
        return not (theirs and record.levelno < logging.ERROR and mine())

    try:
        for handler in handlers:
            handler.addFilter(passes)
        for handler in bare:
            root.addHandler(handler)
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(passes)
        for handler in bare:
            root.removeHandler(handler)


@contextlib.contextmanager
def own_environment(mine: Mine) -> Iterator[None]:
    """What this thread sets in the environment is undone, unless another has set it again since."""
    before: dict[Any, str | None] = {}
    after: dict[Any, str | None] = {}
    kind = type(os.environ)

    class Watched(kind):
        def __setitem__(self, key: Any, value: Any) -> None:
            old = self.get(key)
            super().__setitem__(key, value)
            if mine():
                before.setdefault(key, old)
                after[key] = value

        def __delitem__(self, key: Any) -> None:
            old = self.get(key)
            super().__delitem__(key)
            if mine():
                before.setdefault(key, old)
                after[key] = None

    os.environ.__class__ = Watched
    try:
        yield
    finally:
        os.environ.__class__ = kind
        for key, old in before.items():
            if os.environ.get(key) != after[key]:
                continue
            if old is not None:
                os.environ[key] = old
            else:
                os.environ.pop(key, None)
