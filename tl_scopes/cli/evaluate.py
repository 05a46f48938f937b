"""The command `tl-scopes evaluate`: its options. What they mean is in `_evaluate`."""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tl_scopes.baselines import named
from tl_scopes.cli import attribute, evaluation, options
from tl_scopes.models import DEFAULT_MODEL
from tl_scopes.models.quiet import say

EXAMPLES = """Examples:

    tl-scopes evaluate --data passages.jsonl --out run

    tl-scopes evaluate --data cimec/lambada --split test -n 200 --target gold --position -2 --out run

    tl-scopes evaluate --data texts.txt --methods semantic,fisher:4,random --leave-one-out zero --out run

    accelerate launch --multi_gpu -m tl_scopes.cli evaluate --data passages.parquet --out run
"""
_data = functools.partial(typer.Option, rich_help_panel="Prompts")
_measured = functools.partial(typer.Option, rich_help_panel="What is measured")
_output = functools.partial(typer.Option, rich_help_panel="Output")


def evaluate(
    data: Annotated[
        str,
        _data(
            help="A .txt (one prompt a line), .json, .jsonl or .parquet file, a folder that datasets "
            "saved, or the name of a data set on the Hugging Face hub.",
            metavar="FILE|NAME",
        ),
    ],
    out: Annotated[
        Path,
        _output(
            help="The folder of the run. Given again, the run goes on where it ended.",
            metavar="DIR",
        ),
    ],
    column: Annotated[
        str | None,
        _data(help="Where texts or token ids stand; text if left out.", metavar="NAME"),
    ] = None,
    config: Annotated[
        str | None, _data(help="Of a data set on the hub, where it has several.", metavar="NAME")
    ] = None,
    split: Annotated[
        str | None, _data(help="Of a data set, where it has several.", metavar="NAME")
    ] = None,
    # Short, too: torchrun and accelerate take --n for an abbreviation of options of theirs.
    n: Annotated[
        int | None, _data("-n", "--n", help="How many prompts; all if left out.", metavar="N")
    ] = None,
    skip: Annotated[int, _data(help="How many to leave out before.", metavar="N")] = 0,
    model: options.ModelName = DEFAULT_MODEL,
    backend: options.Backend = "auto",
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    prepend_bos: options.PrependBos = None,
    methods: Annotated[
        str,
        _measured(
            help=f"Of {', '.join(named.names())}; commas between. Some take a number: fisher:4, "
            "fisher:full, integrated-gradients:20.",
            metavar="METHODS",
        ),
    ] = evaluation.DEFAULT,
    target: Annotated[
        Literal["predicted", "gold"],
        _measured(
            help="Whose log-probability is measured, and explained by methods that have a target: the "
            "token that the model predicts, or gold, which follows the read position in the text.",
            metavar="TARGET",
        ),
    ] = "predicted",
    position: Annotated[
        int,
        _measured(
            help="The token whose next-token prediction is measured: -2 where the last one is the answer.",
            metavar="N",
        ),
    ] = -1,
    fractions: Annotated[
        str, _measured(help="Shares of the tokens to replace.", metavar="F,F")
    ] = "0.05,0.1,0.2",
    replacements: Annotated[
        str,
        _measured(
            help="By what: zero, pad, bos, mean, hide (from attention); commas between.",
            metavar="NAMES",
        ),
    ] = "zero",
    sufficiency: Annotated[
        bool, _measured("--sufficiency/--no-sufficiency", help="Also replace all other tokens.")
    ] = True,
    leave_one_out: Annotated[
        str | None,
        _measured(
            help="Also compare ranks with the effect of each token alone, replaced by this.",
            metavar="NAME",
        ),
    ] = None,
    area: Annotated[
        Literal["trapezoid", "mean"],
        _measured(
            help="Over the fractions: trapezoid (published) or mean (ERASER).", metavar="AREA"
        ),
    ] = "trapezoid",
    seed: Annotated[int, _measured(help="Of random and smoothgrad.", metavar="N")] = 0,
    unit: Annotated[
        int,
        _output(
            help="Most prompts that are measured and written together: what a killed run may lose.",
            metavar="N",
        ),
    ] = 4,
    html: Annotated[
        Path | None, _output(help="Write a self-contained report.", metavar="FILE")
    ] = None,
    as_json: Annotated[
        bool, _output("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Hold attribution methods against ablation over a whole data set.

    Writes rows.parquet, a row for each prompt, method and metric, and says the means.

    Killed and given again, it goes on; accelerate launch and torchrun split the prompts.
    """
    reports = attribute.outputs(html=html)
    asked = evaluation.Asked(
        model={
            "name": model,
            "backend": backend,
            "dtype": dtype,
            "device": device,
            "trust_remote_code": trust_remote_code,
        },
        source=data,
        data={"column": column, "config": config, "split": split, "n": n, "skip": skip},
        methods=methods,
        settings={
            "fractions": evaluation.numbers("--fractions", fractions),
            "replacements": evaluation.items("--replacements", replacements),
            "target": target,
            "sufficiency": sufficiency,
            "leave_one_out": leave_one_out,
            "area": area,
            "position": position,
            "prepend_bos": prepend_bos,
            "seed": seed,
        },
        out=out,
        unit=unit,
    )
    with attribute.quiet():
        with contextlib.redirect_stdout(sys.stderr):
            done = evaluation.evaluate(asked)
            if done is None:
                return
            for path in reports.values():
                done.card().to_html(path)
                say(f"wrote {path}")
        if as_json:
            typer.echo(evaluation.as_json(done))
        else:
            evaluation.print_summary(done)
