"""Behind the command line: what its options mean, and where its results go."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tl_scopes.baselines import named
from tl_scopes.cli.options import in_options
from tl_scopes.errors import (
    EmptyPromptError,
    ModelUnavailableError,
    PromptError,
    RenderError,
    ScopeParameterError,
    ScopesWarning,
)
from tl_scopes.models import DEFAULT_MODEL, BundleState
from tl_scopes.models.quiet import say
from tl_scopes.results.escapes import message
from tl_scopes.results.files import target

if TYPE_CHECKING:
    from tl_scopes import Attribution

_PICTURES = (".png", ".pdf", ".svg")

Given = Mapping[str, "str | int | None"]


def _bad(option: str, message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=f"'{option}'")


def scope(name: str, given: Given, position: int) -> Any:
    """The scope or method that the options describe. Raises `ScopeParameterError` or BadParameter."""
    from tl_scopes.scopes.base import NEXT, target_from

    try:
        taken = named.takes(name.partition(":")[0])
    except ScopeParameterError as error:
        raise _bad("--scope", str(error)) from None
    for option, value in given.items():
        if value is None or option in taken:
            continue
        users = [other for other in named.names() if option in named.takes(other)]
        raise ScopeParameterError(
            f"--{option} means nothing to {name}: drop it, or use --scope " + ", ".join(users)
        )
    if "versus" in taken and given["versus"] is None:
        raise ScopeParameterError(f"--scope {name} needs a second token: add --versus TOKEN")
    if "samples" in taken and given["seed"] is not None and given["samples"] is None:
        raise ScopeParameterError(
            "--seed is for --samples, which is missing: add it or drop --seed"
        )
    options: dict[str, Any] = dict(given)
    for option in ("target", "versus"):
        text = options[option]
        if text == NEXT and position == -1:
            raise _bad(
                f"--{option}", f"{NEXT} is the token after the read position: add --position -2"
            )
        options[option] = target_from(text, f"--{option}")
    if options["rank"] is not None:
        options["rank"] = rank = named.number(options["rank"])
        if isinstance(rank, str) and rank != "full":
            raise _bad("--rank", f"{rank!r}; give a whole number, a share such as 0.9, or full")
    return named.made(name, options)


def prompt(text: str) -> str:
    """The prompt, read from stdin for `-`. Raises `EmptyPromptError` or `PromptError`."""
    try:
        if text == "-":
            if sys.stdin.isatty():
                say("reading the prompt from the terminal; Ctrl-D ends it")
            text = sys.stdin.buffer.read().decode("utf-8")
            # The one that echo, editors and heredocs add: it is no part of the prompt.
            text = text.removesuffix("\n").removesuffix("\r")
        text.encode("utf-8")
    except UnicodeError as error:
        raise PromptError(f"the prompt is not UTF-8 text ({error}): convert it first") from None
    if not text:
        raise EmptyPromptError("the prompt is empty: give some text, or - to read it from stdin")
    return text


def device(name: str | None) -> str | None:
    """The device, after a tensor was put there."""
    from tl_scopes.models.loading import usable_device

    try:
        return name and usable_device(name)
    except ModelUnavailableError as error:
        raise _bad("--device", str(error).rstrip(".")) from None


def outputs(**paths: Path | None) -> dict[str, Path]:
    """The files asked for, by option. Raises BadParameter for one that could not be written: better
    now than after the model has run."""
    found: dict[str, Path] = {}
    for kind, path in paths.items():
        if path is None:
            continue
        option = f"--{kind}"
        if kind == "plot" and path.suffix.lower() not in _PICTURES:
            raise _bad(option, f"{str(path)!r} must end in {', '.join(_PICTURES)}")
        try:
            file = target(path)
        except FileNotFoundError:
            folder = str(path.resolve().parent)
            raise _bad(option, f"the folder {folder!r} does not exist; make it first") from None
        except OSError as error:
            raise _bad(option, str(error)) from None
        folder = file.parent
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            reason = error.strerror or error
            raise _bad(option, f"the folder {str(folder)!r} cannot be written ({reason})") from None
        if file in (target(other) for other in found.values()):
            raise _bad(option, f"{str(path)!r} is given twice; give two names")
        found[kind] = path
    return found


def write(result: Attribution, kind: str, path: Path, scale: str) -> None:
    """Write one output; the file appears whole or not at all."""
    if kind == "save":
        result.save(path)
    elif kind == "html":
        result.to_html(path, scale=scale)
    else:
        try:
            result.plot(scale=scale).savefig(path, format=path.suffix[1:].lower(), dpi=150)
        except ValueError as error:  # matplotlib's limit is 65,535 pixels
            raise RenderError(
                f"--plot failed ({error}): use --html for so long a prompt"
            ) from error


def print_states(states: list[BundleState]) -> None:
    """The bundled models as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("MODEL", "STATE", "SIZE", "LICENCE", "WHAT"):
        table.add_column(heading, no_wrap=heading != "WHAT")
    for state in states:
        ready = "ready" if state.cached else "ready (converts once)"
        row = (state.name, ready if state.ready else "not installed", f"{state.size / 1e9:.1f} GB")
        table.add_row(*(Text(message(x)) for x in (*row, state.licence, state.description)))
    # A pipe has no width: one line a model.
    Console(width=None if sys.stdout.isatty() else 400).print(table)
    typer.echo(
        f"\nDefault: {DEFAULT_MODEL}. --model also takes a Hugging Face folder, or a name that "
        "transformer-lens knows."
    )
    for state in states:
        if not state.ready:
            typer.echo(message(f"For {state.name}: {state.pip_command}"))


def state_json(state: BundleState) -> dict[str, Any]:
    plain = dataclasses.asdict(state) | {"path": str(state.path)}
    return plain | {"ready": state.ready, "default": state.name == DEFAULT_MODEL}


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
