"""The command `tl-scopes app`: starts the explorer, a page in the browser."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import os
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from tl_scopes.app.gate import Door, is_local
from tl_scopes.app.settings import MAX_TOKENS, Settings
from tl_scopes.cli import options
from tl_scopes.cli.options import bad
from tl_scopes.models.quiet import say
from tl_scopes.results.files import write_bytes

EXAMPLES = """Examples:

    tl-scopes app

    tl-scopes app --model smollm2-135m-instruct --model ./my-model --no-browser --port 8600

    tl-scopes app --host 0.0.0.0 --max-tokens 500      # for a class: everybody on the network may use it

    tl-scopes app --space my-space                     # the files of a Hugging Face Space
"""
PORT = 8501
_APP = Path(__file__).resolve().parent.parent / "app"
_model = functools.partial(typer.Option, rich_help_panel="Model")
_served = functools.partial(typer.Option, rich_help_panel="Page")


def app(
    model: Annotated[
        list[str] | None,
        _model(
            help="A model to choose from, the first is the default; may be given several times. The "
            "bundled models, and any that people name, if left out.",
            metavar="NAME",
        ),
    ] = None,
    naming: Annotated[
        bool | None,
        _model(
            "--naming/--no-naming",
            help="Whether people may name other models: folders of this machine, and models that it "
            "then fetches. Only without --model, and on this machine alone, if left out.",
        ),
    ] = None,
    backend: options.Backend = "auto",
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    held: Annotated[
        int, _model(min=1, help="How many models stay in memory at once.", metavar="N")
    ] = 2,
    max_tokens: Annotated[
        int, _served(min=1, help="Longest prompt, BOS included.", metavar="N")
    ] = MAX_TOKENS,
    host: Annotated[
        str,
        _served(
            help="The address to listen at. 0.0.0.0: everybody who reaches this machine may use it.",
            metavar="ADDRESS",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, _served(min=0, max=65535, help="0: any that is free.", metavar="N")
    ] = PORT,
    name: Annotated[
        list[str] | None,
        _served(
            help="A name under which others reach this machine, such as lab.example.org; its own name and "
            "its addresses in numbers are known. May be given several times.",
            metavar="NAME",
            envvar="SPACE_HOST",
            show_envvar=False,
        ),
    ] = None,
    framed_by: Annotated[
        list[str] | None,
        _served(
            help="A site that may show this page in a frame, such as https://huggingface.co; none if left "
            "out. May be given several times.",
            metavar="ORIGIN",
        ),
    ] = None,
    browser: Annotated[
        bool, _served("--browser/--no-browser", help="Whether to open the page here.")
    ] = True,
    space: Annotated[
        Path | None,
        _served(help="Write the files of a Hugging Face Space and end.", metavar="DIR"),
    ] = None,
) -> None:
    """Explore a prompt in the browser: click tokens, slide over layers.

    The page is served from this machine, and fetches nothing. Pages of other sites can neither speak to
    it nor show it in a frame. Several people may use it at once; they wait for each other's computations,
    not for each other.
    """
    if space is not None:
        given = locals()
        usual = {name: p.default for name, p in inspect.signature(app).parameters.items()}
        others = [name for name in usual if name != "space" and given[name] != usual[name]]
        return write_space(space, [f"--{name.replace('_', '-')}" for name in others])
    local = is_local(host)
    try:
        door = Door.of(host, local, tuple(name or ()), tuple(framed_by or ()))
    except ValueError as error:
        raise bad("--name' or '--framed-by", str(error)) from None
    at = _free_port(host, port)
    settings = Settings(
        models=tuple(model or ()),
        naming=(local and not model) if naming is None else naming,
        backend=backend,
        dtype=dtype,
        device=options.device(device),
        max_tokens=max_tokens,
        held=held,
    )
    _check_streamlit()
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{at}"
    say(f"the explorer is at {address} (Ctrl-C ends it)")
    if not local:
        say("everybody who reaches this machine may use it: there is no password")
    _serve(settings, host, at, address if browser else "", door)


def write_space(folder: Path, others: list[str]) -> None:
    """Copy the files that Hugging Face documents for a Docker Space. Refuses to overwrite any.

    `others`: options that were given too. Its Dockerfile says with which the page is served there.
    """
    if others:
        raise bad(
            "--space",
            f"--space only writes files, and would ignore {', '.join(others)}: drop that here, and "
            "change the last line of its Dockerfile",
        )
    if folder.exists() and not folder.is_dir():
        raise bad("--space", f"{str(folder)!r} is a file; give a new folder")
    files = sorted(path for path in (_APP / "space").iterdir() if path.is_file())
    if taken := [path.name for path in files if os.path.lexists(folder / path.name)]:
        raise bad("--space", f"{str(folder)!r} already holds {', '.join(taken)}; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        write_bytes(folder / path.name, path.read_bytes())
    say(f"wrote {', '.join(path.name for path in files)}; {folder / 'README.md'} says how to go on")


def _serve(settings: Settings, host: str, port: int, opened: str, door: Door) -> None:
    """Run Streamlit in this process until Ctrl-C. `opened`: an address for a browser, or nothing."""
    flags: dict[str, str] = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.showEmailPrompt": "false",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        # Streamlit's red would look like the red of negative scores.
        "theme.light.primaryColor": "#3b3bd6",
        "theme.dark.primaryColor": "#7a72f5",
        # Back and forth set the form's fields, which have their defaults as well.
        "global.disableWidgetStateDuplicationWarning": "true",
        # It would look for this machine's address on the internet.
        "logger.hideWelcomeMessage": "true",
    }
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    script = str(_APP / "page" / "serving.py")
    from click.exceptions import Abort
    from streamlit.web import cli as streamlit

    with contextlib.suppress(KeyboardInterrupt, Abort):  # Ctrl-C is how it is meant to end
        streamlit.main(
            ["run", *arguments, script, "--", settings.to_json(), door.to_json(), opened],
            prog_name="streamlit",
            standalone_mode=False,
        )


def _check_streamlit() -> None:
    if importlib.util.find_spec("streamlit") is None:
        fault = "streamlit, which is not installed"
    elif tuple(map(int, (version := metadata.version("streamlit")).split(".")[:2])) < (1, 67):
        fault = f"streamlit 1.67 or newer, {version} is installed"
    else:
        return
    raise bad("app", f"the explorer needs {fault}; run: pip install 'tl-scopes[app]'")


def _free_port(host: str, port: int) -> int:
    """`port`, or any for 0, after listening there for a moment."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            if sys.platform != "win32":  # there it would share a port that is in use
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            return int(trial.getsockname()[1])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise bad(
            "--port",
            f"{host}:{port} cannot be listened at ({reason}); give another --port, or an address of "
            "this machine",
        ) from None
