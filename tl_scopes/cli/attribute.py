"""The command `tl-scopes attribute`: the scores of one prompt's tokens."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tl_scopes.adapter.sites import from_text
from tl_scopes.baselines import named
from tl_scopes.cli import options
from tl_scopes.cli.options import bad
from tl_scopes.cli.terminal import quiet, write
from tl_scopes.errors import EmptyPromptError, PromptError, ScopeParameterError
from tl_scopes.models import DEFAULT_MODEL
from tl_scopes.models.quiet import say

EXAMPLES = """Examples:

    tl-scopes attribute "The capital of France is"

    tl-scopes attribute "The truth is" --scope logit-difference --target " that" --versus " not"

    tl-scopes attribute "The capital of France is Paris" --next      # why " Paris"?

    tl-scopes attribute "The truth is" --scope fisher --rank 4 --html scope.html

    tl-scopes attribute "The truth is" --scope temperature --sites all --plot layers.pdf

    tl-scopes attribute - --sites embed,6,12 --json < prompt.txt > scores.json

    tl-scopes attribute --model ./my-model --dtype bfloat16 -- "-40 degrees is"
"""
# What the help of --scope describes; the other names are listed after them.
_DESCRIBED = ("semantic", "logit-difference", "temperature", "fisher", "entropy")
_explained = functools.partial(typer.Option, rich_help_panel="What is explained")


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
            f"{', '.join(n for n in named.names() if n not in _DESCRIBED)}.",
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
    follows: Annotated[
        bool,
        _explained(
            "--next",
            help="Explain the token that follows --position in the prompt: its last one if "
            "--position is left out.",
        ),
    ] = False,
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
        int | None,
        _explained(
            help="The token whose next-token prediction is explained; -1, the last one, if left out.",
            metavar="N",
        ),
    ] = None,
    html: options.Html = None,
    plot: Annotated[
        Path | None, options.output(help="Write a .png, .pdf or .svg.", metavar="FILE")
    ] = None,
    save: Annotated[
        Path | None, options.output(help="Write all of it, for Attribution.load.", metavar="FILE")
    ] = None,
    scale: Annotated[
        Literal["linear", "log"], options.output(help="linear or log colours.", metavar="SCALE")
    ] = "linear",
    as_json: options.Json = False,
) -> None:
    """Show how strongly each token of a prompt moves the model's prediction.

    Prints the prompt in colour, the strongest tokens and the predicted next ones.
    """
    if follows and target is not None:
        raise bad("--next", "it names the target, as --target does: drop one of the two")
    if position is None:
        position = -2 if follows else -1
    given = {"target": target, "versus": versus, "rank": rank, "samples": samples, "seed": seed}
    method = scope_of(scope, given, position, follows)
    places, outputs = from_text(sites), options.outputs(save=save, html=html, plot=plot)
    text = prompt_of(prompt)
    with quiet():
        with contextlib.redirect_stdout(sys.stderr):
            import tl_scopes as ts
            from tl_scopes.models import load

            where = options.device(device)
            if sys.stderr.isatty():
                say(f"loading {model} ...")
            loaded = load(
                model, backend, dtype=dtype, device=where, trust_remote_code=trust_remote_code
            )
            reading = {"sites": places, "position": position, "prepend_bos": prepend_bos}
            if isinstance(method, ts.Scope):
                result = ts.attribute(loaded, text, method, **reading)
            else:
                result = method.attribute(loaded, text, **reading)
        # Files first: who closes the pipe early has them all the same.
        write(result, outputs, scale=scale)
        if as_json:
            typer.echo(result.to_json())
        else:
            result.print(scale=scale)


def scope_of(name: str, given: Mapping[str, str | int | None], position: int, follows: bool) -> Any:
    """The scope or method that the options describe; `follows`: `--next` was given.

    Raises `ScopeParameterError` or BadParameter.
    """
    from tl_scopes.scopes.base import NEXT, target_from

    typed = {option: f"--{option}" for option in given}
    if follows:
        given, typed["target"] = {**given, "target": NEXT}, "--next"
    try:
        taken = named.takes(name.partition(":")[0])
    except ScopeParameterError as error:
        raise bad("--scope", str(error)) from None
    for option, value in given.items():
        if value is None or option in taken:
            continue
        users = [other for other in named.names() if option in named.takes(other)]
        raise ScopeParameterError(
            f"{typed[option]} means nothing to {name}: drop it, or use --scope " + ", ".join(users)
        )
    if "versus" in taken and given["versus"] is None:
        raise ScopeParameterError(f"--scope {name} needs a second token: add --versus TOKEN")
    if "samples" in taken and given["seed"] is not None and given["samples"] is None:
        raise ScopeParameterError(
            "--seed is for --samples, which is missing: add it or drop --seed"
        )
    values: dict[str, Any] = dict(given)
    for option in ("target", "versus"):
        text = values[option]
        if text == NEXT and position == -1:
            raise bad(
                typed[option], f"{NEXT} is the token after the read position: add --position -2"
            )
        values[option] = target_from(text, f"--{option}")
    if values["rank"] is not None:
        values["rank"] = rank = named.number(values["rank"])
        if isinstance(rank, str) and rank != "full":
            raise bad("--rank", f"{rank!r}; give a whole number, a share such as 0.9, or full")
    return named.made(name, values)


def prompt_of(text: str) -> str:
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
