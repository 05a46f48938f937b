"""The command line: `tl-scopes attribute`, `evaluate`, `check`, `app` and `models`.

Results go to stdout, everything else to stderr. Exit codes: 0; 1 for a pipe closed by its reader, a
bug, or a model that `check` finds wrong; 2 for bad input, with one line that says what was got, what
is allowed and what to do; 130 for Ctrl-C. torch and what needs it are imported inside the commands,
so that help is instant.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from tl_scopes import __version__
from tl_scopes.cli import app as explorer
from tl_scopes.cli import attribute, check, evaluate, models
from tl_scopes.cli.options import in_options
from tl_scopes.cli.terminal import interrupts
from tl_scopes.models.quiet import message_of, say

# click's UsageError: newer versions of typer carry a copy of click and do not export this class.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)


class _Commands(TyperGroup):
    """The commands, with errors in one line, be they the parser's or the package's."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        # An ASCII or Windows terminal lacks bar characters.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        with interrupts() as pressed:
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
            return int(super().main(*args, standalone_mode=False, **extra) or 0)
        except (KeyboardInterrupt, typer.Abort):  # newer versions of typer return 130 themselves
            return 130
        except _UsageError as error:
            return _usage(error)
        except Exception as error:
            if pressed:  # some imports swallow the interrupt and fail later, half done
                return 130
            text = message_of(error, "use a shorter prompt, a lower --rank or --dtype bfloat16")
            if text is None:
                raise  # a bug: its traceback is what a report needs
            typed = (args[0] if args else extra.get("args")) or sys.argv[1:]
            return _fail(in_options(text, typed))


def _fail(message: str) -> int:
    say(f"error: {message}")
    return 2


def _usage(error: Any) -> int:
    """A mistake in the command itself: the message, and where help is."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help, if not printed yet
        typer.echo(message, nl=bool(message))
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
        typer.echo(f"tl-scopes {__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Which tokens of a prompt a language model's prediction hangs on, by Jacobian Scopes."""


app.command(no_args_is_help=True, epilog=attribute.EXAMPLES)(attribute.attribute)
app.command(no_args_is_help=True, epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=check.EXAMPLES)(check.check)
app.command(epilog=explorer.EXAMPLES)(explorer.app)


app.command()(models.models)

if __name__ == "__main__":
    main()
