"""What a command does at the terminal: keeps libraries quiet, notes Ctrl-C, prints tables, writes files."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_scopes.cli.options import in_options
from tl_scopes.errors import RenderError, ScopesWarning
from tl_scopes.models.quiet import say
from tl_scopes.results.escapes import message

if TYPE_CHECKING:
    from rich.table import Column


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list of the interrupts (Ctrl-C) that came: importing libraries swallow some."""
    pressed: list[int] = []

    def note(signum: int, frame: Any) -> None:
        pressed.append(signum)
        raise KeyboardInterrupt

    # Only a main thread may set a handler; one that was set, or set to ignore, stays.
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' log lines and warnings off the terminal; this package's are one line each."""

    def show(message: Warning | str, *_rest: Any, **_more: Any) -> None:
        say(f"warning: {in_options(str(message))}")

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", ScopesWarning)
            warnings.showwarning = show
            yield
    finally:
        logging.disable(disabled)


def write(result: Any, outputs: Mapping[str, Path], **drawing: Any) -> None:
    """Write the files asked for, by the kinds of `options.outputs`. Each appears whole or not at all."""
    for kind, path in outputs.items():
        if kind == "save":
            result.save(path)
        elif kind == "html":
            result.to_html(path, **drawing)
        else:
            try:
                result.plot(**drawing).savefig(path, format=path.suffix[1:].lower(), dpi=150)
            except ValueError as error:  # matplotlib's limit is 65,535 pixels
                raise RenderError(
                    f"--plot failed ({error}): use --html for so long a prompt"
                ) from error
        say(f"wrote {path}")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print texts in columns; a pipe, which has no width, gets one line a row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for row in rows:
        table.add_row(*(Text(message(text)) for text in row))
    Console(width=None if sys.stdout.isatty() else 400, highlight=False).print(table)
