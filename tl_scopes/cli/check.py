"""The command `tl-scopes check`: does all that scopes rest on hold on this model, here?"""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tl_scopes.cli import attribute, options
from tl_scopes.models import DEFAULT_MODEL
from tl_scopes.models.quiet import say

EXAMPLES = """Examples:

    tl-scopes check gemma-3-270m

    tl-scopes check ./my-finetune --dtype bfloat16 --device cuda

    tl-scopes check gpt2 --backend hooked --html check.html --json > check.json
"""
_output = functools.partial(typer.Option, rich_help_panel="Output")


def check(
    model: Annotated[
        str,
        typer.Argument(
            help="A bundled model (tl-scopes models), a Hugging Face folder on this disk, or a "
            "name that transformer-lens knows.",
            metavar="MODEL",
        ),
    ] = DEFAULT_MODEL,
    backend: options.Backend = "auto",
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    costs: Annotated[
        bool,
        _output(
            "--costs/--no-costs", help="Measure seconds and memory of each scope, on 128 tokens."
        ),
    ] = True,
    html: Annotated[
        Path | None, _output(help="Write a self-contained page.", metavar="FILE")
    ] = None,
    as_json: Annotated[
        bool, _output("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Hold a model to all that scopes rest on: on this machine, in this dtype.

    Against Hugging Face, nudges and sums; with what each scope costs. Two minutes for
    SmolLM2-135M on 2 cores, one with --no-costs. Ends with 0 if nothing failed, else with 1.
    """
    pages = attribute.outputs(html=html)
    with attribute.quiet():
        with contextlib.redirect_stdout(sys.stderr):
            from tl_scopes.errors import ModelUnavailableError
            from tl_scopes.evaluation.checking import check as look
            from tl_scopes.evaluation.checking.subject import room_for_weights
            from tl_scopes.models import load_original
            from tl_scopes.models.loading import build

            where = attribute.device(device)
            if sys.stderr.isatty():
                say(f"loading {model} ...")
            asked: dict[str, Any] = dict(
                dtype=dtype, device=where, trust_remote_code=trust_remote_code
            )
            loaded, refusal = build(model, backend, **asked)
            original = None
            try:
                if room_for_weights(loaded):
                    original = load_original(model, **asked)
            except ModelUnavailableError as error:
                say(f"warning: not held against Hugging Face's model: {error}")
            found = look(loaded, original=original, costs=costs)
            if refusal is not None:
                found = found.failing("logits", str(refusal))
            for path in pages.values():
                found.to_html(path)
                say(f"wrote {path}")
        if as_json:
            typer.echo(found.to_json())
        else:
            found.print()
    if not found.passed:
        raise typer.Exit(1)
