"""The command line: `tl-scopes attribute`, `evaluate`, `check`, `app` and `models`.

Results go to stdout, everything else to stderr. Exit codes: 0; 1 for a pipe closed by its reader, a
bug, or a model that `check` finds wrong; 2 for bad input, with one line that says what was got, what
is allowed and what to do; 130 for Ctrl-C. torch and what needs it are imported inside the commands,
so that help is instant.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from typer.core import TyperGroup

from tl_scopes import __version__
from tl_scopes.adapter.sites import from_text
from tl_scopes.baselines import named
from tl_scopes.cli import app as cli_app
from tl_scopes.cli import attribute as _cli
from tl_scopes.cli import check, evaluate, options
from tl_scopes.errors import ScopesError
from tl_scopes.models import DEFAULT_MODEL, available
from tl_scopes.models.quiet import say

# click's UsageError: newer versions of typer carry a copy of click and do not export this class.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)


class _Commands(TyperGroup):
    """The commands, with errors in one line, be they the parser's or the package's."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(
                stream, io.TextIOWrapper
            ):  # an ASCII or Windows terminal lacks bar characters
                stream.reconfigure(errors="replace")
        with _cli.interrupts() as pressed:
            code = self._run(*args, pressed=pressed, **extra)
        if code and (pressed or code == 130):
            # Under python -m, CPython takes an interrupt that hit text run by exec (dataclasses do
            # that) for unhandled and ends by the signal; running text again clears its memory.
            exec("")
            say("interrupted")
            code = 130
        sys.exit(code)

    def _run(self, *args: Any, pressed: list[int], **extra: Any) -> int:
        """The exit code. `pressed` is not empty after Ctrl-C."""
        try:
            code = super().main(*args, standalone_mode=False, **extra) or 0
            sys.stdout.flush()
            return int(code)
        except (KeyboardInterrupt, typer.Abort):  # newer versions of typer return 130 themselves
            return 130
        except BrokenPipeError:
            # What is still buffered goes nowhere, so that Python's own last flush is silent too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except _UsageError as error:
            return _usage(error)
        except Exception as error:
            if pressed:  # some imports swallow the interrupt and fail later, half done
                return 130
            if isinstance(error, (ScopesError, OSError)):
                typed = (args[0] if args else extra.get("args")) or sys.argv[1:]
                return _fail(options.in_options(str(error), typed))
            if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
                raise  # a bug: its traceback is what a report needs
            return _fail("out of memory: use a shorter prompt, a lower --rank or --dtype bfloat16")
        return 1


def _fail(message: str) -> int:
    say(f"error: {message}")
    return 2


def _usage(error: Any) -> int:
    """A mistake in the command itself: the message, and where help is."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help, if not printed yet
        print(message, end="\n" if message else "")
        return 2
    where = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
    return _fail(message.rstrip(".") + where)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Start with:

    tl-scopes attribute "The capital of France is"
""",
)


def main() -> None:
    """Entry point of the `tl-scopes` command."""
    app(prog_name="tl-scopes")


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"tl-scopes {__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Which tokens of a prompt a language model's prediction hangs on, by Jacobian Scopes."""


_EXAMPLES = """Examples:

    tl-scopes attribute "The capital of France is"

    tl-scopes attribute "The truth is" --scope logit-difference --target " that" --versus " not"

    tl-scopes attribute "The capital of France is Paris" --target id:next --position -2

    tl-scopes attribute "The truth is" --scope fisher --rank 4 --html scope.html

    tl-scopes attribute "The truth is" --scope temperature --sites all --plot layers.pdf

    tl-scopes attribute - --sites embed,6,12 --json < prompt.txt > scores.json

    tl-scopes attribute --model ./my-model --dtype bfloat16 -- "-40 degrees is"
"""
_explained = functools.partial(typer.Option, rich_help_panel="What is explained")
_output = functools.partial(typer.Option, rich_help_panel="Output")


@app.command(no_args_is_help=True, epilog=_EXAMPLES)
def attribute(
    prompt: Annotated[
        str,
        typer.Argument(
            help="The text. A single - reads it from stdin, less one line break at its end; put -- "
            "before a text that starts with a dash.",
            metavar="PROMPT",
        ),
    ],
    model: options.ModelName = DEFAULT_MODEL,
    backend: options.Backend = "auto",
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    prepend_bos: options.PrependBos = None,
    scope: Annotated[
        str,
        _explained(
            help="semantic (one logit), logit-difference (one against another), temperature "
            "(confidence), fisher (the whole distribution), entropy, or any of "
            f"{', '.join(named.names()[5:])}.",
            metavar="SCOPE",
        ),
    ] = "semantic",
    target: Annotated[
        str | None,
        _explained(
            help="The token of semantic and logit-difference: text that is one token (mind a "
            "leading space), id:1234, or id:next, which follows --position in the prompt. The top "
            "prediction if left out.",
            metavar="TOKEN",
        ),
    ] = None,
    versus: Annotated[
        str | None,
        _explained(help="The token that logit-difference takes away.", metavar="TOKEN"),
    ] = None,
    rank: Annotated[
        str | None,
        _explained(
            help="What fisher keeps exactly: a number of eigenpairs, a share such as 0.9, or full. "
            "1 if left out, but nothing with --samples.",
            metavar="RANK",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        _explained(help="Random directions by which fisher estimates the rest.", metavar="N"),
    ] = None,
    seed: Annotated[
        int | None, _explained(help="For --samples; 0 if left out.", metavar="N")
    ] = None,
    sites: Annotated[
        str,
        _explained(
            help="Where influence is measured: embed, all (embed and every layer), layers, hook "
            "names; commas between several.",
            metavar="SITES",
        ),
    ] = "embed",
    position: Annotated[
        int,
        _explained(help="The token whose next-token prediction is explained.", metavar="N"),
    ] = -1,
    html: Annotated[
        Path | None, _output(help="Write a self-contained page.", metavar="FILE")
    ] = None,
    plot: Annotated[
        Path | None, _output(help="Write a .png, .pdf or .svg.", metavar="FILE")
    ] = None,
    save: Annotated[
        Path | None, _output(help="Write all of it, for Attribution.load.", metavar="FILE")
    ] = None,
    scale: Annotated[
        Literal["linear", "log"], _output(help="linear or log colours.", metavar="SCALE")
    ] = "linear",
    as_json: Annotated[
        bool, _output("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Show how strongly each token of a prompt moves the model's prediction.

    Prints the prompt in colour, the strongest tokens and the predicted next ones.
    """
    given = {"target": target, "versus": versus, "rank": rank, "samples": samples, "seed": seed}
    chosen = _cli.scope(scope, given, position)
    places, outputs = from_text(sites), _cli.outputs(save=save, html=html, plot=plot)
    text = _cli.prompt(prompt)
    with _cli.quiet():
        with contextlib.redirect_stdout(sys.stderr):
            import tl_scopes as ts
            from tl_scopes.models import load

            where = _cli.device(device)
            if sys.stderr.isatty():
                say(f"loading {model} ...")
            loaded = load(
                model, backend, dtype=dtype, device=where, trust_remote_code=trust_remote_code
            )
            where_asked = {"sites": places, "position": position, "prepend_bos": prepend_bos}
            if isinstance(chosen, ts.Scope):
                result = ts.attribute(loaded, text, chosen, **where_asked)
            else:
                result = chosen.attribute(loaded, text, **where_asked)
        # Files first: who closes the pipe early has them all the same.
        for kind, path in outputs.items():
            _cli.write(result, kind, path, scale)
            say(f"wrote {path}")
        if as_json:
            print(result.to_json())
        else:
            result.print(scale=scale)


app.command(no_args_is_help=True, epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=check.EXAMPLES)(check.check)
app.command(epilog=cli_app.EXAMPLES)(cli_app.app)


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """List the bundled models, which need no network, and whether they are ready here."""
    states = available()
    if as_json:
        print(json.dumps([_cli.state_json(state) for state in states]))
    else:
        _cli.print_states(states)


if __name__ == "__main__":
    main()
