"""The command `tl-scopes evaluate`: attribution methods against ablation, over a whole data set."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tl_scopes.baselines import named
from tl_scopes.cli import options
from tl_scopes.cli.options import bad
from tl_scopes.cli.terminal import print_table, quiet, write
from tl_scopes.errors import LostProcessError, RunError, ScopeParameterError, ScopesError
from tl_scopes.models import DEFAULT_MODEL
from tl_scopes.models.quiet import say
from tl_scopes.results.escapes import message

if TYPE_CHECKING:
    import pandas as pd

    from tl_scopes.evaluation import Run

EXAMPLES = """Examples:

    tl-scopes evaluate --data passages.jsonl --out run

    tl-scopes evaluate --data cimec/lambada --split test -n 200 --target gold --position -2 --out run

    tl-scopes evaluate --data texts.txt --methods semantic,fisher:4,random --leave-one-out zero --out run

    accelerate launch --multi_gpu -m tl_scopes.cli evaluate --data passages.parquet --out run
"""
DEFAULT = "semantic,temperature,fisher,input-x-gradient,integrated-gradients,random"
_data = functools.partial(typer.Option, rich_help_panel="Prompts")
_measured = functools.partial(typer.Option, rich_help_panel="What is measured")


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
        options.output(
            help="The folder of the run. Given again, the run goes on where it ended.",
            metavar="DIR",
        ),
    ],
    column: Annotated[
        str | None,
        _data(help="Where texts or token ids stand; text if left out.", metavar="NAME"),
    ] = None,
    continuations: Annotated[
        str | None, _data(help="Where what follows each prompt stands.", metavar="NAME")
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
    ] = DEFAULT,
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
            help="By what: zero, pad, bos, mean, hide (from attention), likely (tokens); commas between.",
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
    spare_last: Annotated[
        int,
        _measured(help="So many tokens up to the read position are never replaced.", metavar="N"),
    ] = 0,
    matched: Annotated[
        int,
        _measured(
            help="Also say what each method gains over its rankings of N other prompts, whose tokens "
            "stand in the same places; of those in the same unit.",
            metavar="N",
        ),
    ] = 0,
    area: Annotated[
        Literal["trapezoid", "mean"],
        _measured(
            help="Over the fractions: trapezoid (published) or mean (ERASER).", metavar="AREA"
        ),
    ] = "trapezoid",
    seed: Annotated[int, _measured(help="Of random, smoothgrad, likely.", metavar="N")] = 0,
    draws: Annotated[int, _measured(help="Of likely tokens, averaged.", metavar="N")] = 5,
    unit: Annotated[
        int,
        options.output(
            help="Most prompts that are measured and written together: what a killed run may lose.",
            metavar="N",
        ),
    ] = 4,
    html: options.Html = None,
    as_json: options.Json = False,
) -> None:
    """Hold attribution methods against ablation over a whole data set.

    Writes rows.parquet, a row for each prompt, method and metric, and says the means.

    Killed and given again, it goes on; accelerate launch and torchrun split the prompts.
    """
    outputs = options.outputs(html=html)
    if matched and unit < 2:
        raise bad("--matched", "other prompts are those of the same unit: give --unit 2 or more")
    settings = {
        "fractions": options.numbers("--fractions", fractions),
        "replacements": options.items("--replacements", replacements),
        "target": target,
        "sufficiency": sufficiency,
        "leave_one_out": leave_one_out,
        "area": area,
        "position": position,
        "prepend_bos": prepend_bos,
        "seed": seed,
        "spare_last": spare_last,
        "matched": matched,
        "draws": draws,
    }
    where = dict(config=config, split=split, n=n, skip=skip)
    with quiet():
        with contextlib.redirect_stdout(sys.stderr):
            done = _run(
                dict(name=model, backend=backend, dtype=dtype, trust_remote_code=trust_remote_code),
                device,
                dict(source=data, column=column, continuations=continuations, **where),
                methods,
                settings,
                out,
                unit,
            )
            if done is None:
                return
            if outputs:
                write(done.card(), outputs)
        if as_json:
            typer.echo(summary_json(done))
        else:
            print_summary(done)


def _run(
    model: dict[str, Any],
    device: str | None,
    data: dict[str, Any],
    methods: str,
    settings: dict[str, Any],
    out: Path,
    unit: int,
) -> Run | None:
    """Measure in this process and those launched with it. None in all but the main one.

    `model`, `data` and `settings`: arguments of `models.load`, `evaluation.read` and `Settings`.
    """
    texts = [item.lower().replace("_", "-") for item in options.items("--methods", methods)]
    for text in texts:
        try:
            named.maker(text.partition(":")[0])
        except ScopeParameterError as error:
            raise bad("--methods", str(error)) from None
    gold = settings["target"] == "gold"
    if gold and settings["position"] == -1:
        raise bad("--target", "gold is the token after the read position: add --position -2")

    from tl_scopes.evaluation import Settings, read, run
    from tl_scopes.evaluation.runs.processes import processes
    from tl_scopes.models import load
    from tl_scopes.scopes.base import NEXT_TOKEN

    checked = Settings(**settings)
    arguments = {"target": NEXT_TOKEN if gold else None, "seed": checked.seed}
    compared = {text: named.made(text, arguments) for text in texts}
    team = processes(cpu=device == "cpu")  # says itself where it cannot join the others
    where = options.device(device or team.device)
    if not team.is_main:
        warnings.simplefilter("ignore")  # the main process gives them; `quiet` puts this back

    def loader() -> Any:
        if team.is_main and sys.stderr.isatty():
            say(f"loading {model['name']} ...")
        return load(**model, device=where, progress=team.is_main)

    try:
        with team.together():
            prompts = read(**data)
        done = run(loader, prompts, compared, checked, out=out, unit=unit)
        team.leave()
    except KeyboardInterrupt:
        if team.is_main and out.is_dir():
            say(f"what is finished stays in {out}; the same command goes on from there")
        raise
    except (ScopesError, OSError) as error:
        if team.is_main or isinstance(error, LostProcessError):
            raise
        # The main process says it, and first: as soon as one has ended, launchers end the others.
        time.sleep(2)
        raise typer.Exit(2) from None
    if not team.is_main:
        return None
    if done.failed == done.prompts:
        first = done.to_frame()["error"].iloc[0]
        raise RunError(f"every prompt failed, the first with {first} (all: {done.rows})")
    return done


def summary(done: Run) -> pd.DataFrame:
    """Mean, standard error and count of the metrics that tell most, by method and replacement."""
    from tl_scopes.results.card_tables import summarise, tables
    from tl_scopes.results.metrics import MAIN

    rows = done.to_frame()
    cells = tables(rows.loc[rows["metric"].isin(MAIN)], done.manifest["order"])
    return summarise(cells, done.prompts)


def print_summary(done: Run) -> None:
    """Print the summary as a table, a row for each method."""
    from rich.table import Column
    from rich.text import Text

    from tl_scopes.results.metrics import metric

    frame = summary(done)
    several = frame["replacement"].nunique() > 1
    columns = [Column("METHOD", no_wrap=True)]
    keys = list(dict.fromkeys(zip(frame["metric"], frame["replacement"])))
    arrows = {1: " ↑", -1: " ↓"}
    for name, replacement in keys:
        measure = metric(name)
        heading = measure.label + (f" ({replacement})" if several and replacement else "")
        heading += arrows.get(measure.direction, "")
        columns.append(Column(Text(message(heading)), justify="right"))
    values = frame.set_index(["method", "metric", "replacement"])
    rows = []
    for method in done.manifest["order"]:
        cells = [values.loc[(method, *key)] for key in keys]
        rows.append([method, *(_number(cell["mean"], cell["sem"]) for cell in cells)])
    print_table(columns, rows)
    counts = f"{done.prompts} prompts" + (f", {done.failed} of them failed" if done.failed else "")
    typer.echo("\n" + message(f"{counts}; mean ± standard error over prompts. Rows: {done.rows}"))


def _number(mean: float, sem: float) -> str:
    if math.isnan(mean):
        return "-"
    digits = 4 if abs(mean) < 1 else 3
    return f"{mean:.{digits}f}" + ("" if math.isnan(sem) else f" ± {sem:.{digits}f}")


def summary_json(done: Run) -> str:
    """One line of valid JSON: where the files are, what failed, and the summary."""
    rows = summary(done).to_dict("records")
    clean = [{k: None if v != v else v for k, v in row.items()} for row in rows]
    return json.dumps(
        {
            "out": str(done.out),
            "rows": str(done.rows),
            "prompts": done.prompts,
            "failed": done.failed,
            "summary": clean,
        },
        allow_nan=False,
    )
