"""The command `tl-scopes check`: does all that scopes rest on hold on this model, here?"""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import typer

from tl_scopes import models
from tl_scopes.cli import options
from tl_scopes.cli.terminal import quiet, write
from tl_scopes.errors import ModelUnavailableError
from tl_scopes.models import DEFAULT_MODEL
from tl_scopes.models.quiet import say

EXAMPLES = """Examples:

    tl-scopes check gemma-3-270m

    tl-scopes check ./my-finetune --dtype bfloat16 --device cuda

    tl-scopes check gpt2 --backend hooked --html check.html --json > check.json
"""


def check(
    model: Annotated[str, typer.Argument(help=options.MODEL, metavar="MODEL")] = DEFAULT_MODEL,
    backend: options.Backend = "auto",
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    costs: Annotated[
        bool,
        options.output(
            "--costs/--no-costs", help="Measure seconds and memory of each scope, on 128 tokens."
        ),
    ] = True,
    html: options.Html = None,
    as_json: options.Json = False,
) -> None:
    """Hold a model to all that scopes rest on: on this machine, in this dtype.

    Against Hugging Face, nudges and sums; with what each scope costs. Two minutes for
    SmolLM2-135M on 2 cores, one with --no-costs. Ends with 0 if nothing failed, else with 1.
    """
    outputs = options.outputs(html=html)
    with quiet():
        with contextlib.redirect_stdout(sys.stderr):
            from tl_scopes.checking import check as checked
            from tl_scopes.checking.subject import room_for_weights
            from tl_scopes.models.folder import DisagreementError

            where = options.device(device)
            if sys.stderr.isatty():
                say(f"loading {model} ...")
            how: dict[str, Any] = dict(
                dtype=dtype, device=where, trust_remote_code=trust_remote_code
            )
            refusal = original = None
            try:
                loaded = models.load(model, backend, **how)
            except DisagreementError as error:
                loaded, refusal = error.model, str(error)
            try:
                if room_for_weights(loaded):
                    original = models.load_original(model, **how)
            except ModelUnavailableError as error:
                say(f"warning: not held against Hugging Face's model: {error}")
            card = checked(loaded, original=original, costs=costs)
            if refusal is not None:
                card = card.failing("logits", refusal)
            write(card, outputs)
        if as_json:
            typer.echo(card.to_json())
        else:
            card.print()
    if not card.passed:
        raise typer.Exit(1)
