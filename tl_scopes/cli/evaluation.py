"""Behind `tl-scopes evaluate`: what its options mean, and the table that it prints."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tl_scopes.baselines import named
from tl_scopes.cli import attribute
from tl_scopes.errors import LostProcessError, RunError, ScopeParameterError, ScopesError
from tl_scopes.models.quiet import say
from tl_scopes.results.escapes import message

if TYPE_CHECKING:
    import pandas as pd

    from tl_scopes.evaluation import Run

DEFAULT = "semantic,temperature,fisher,input-x-gradient,integrated-gradients,random"


@dataclass(frozen=True)
class Asked:
    """The options of one command. Those of `data` and `settings` by their names in the package."""

    model: Mapping[str, Any]
    source: str
    data: Mapping[str, Any]
    methods: str
    settings: Mapping[str, Any]
    out: Path
    unit: int


def _bad(option: str, message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=f"'{option}'")


def items(option: str, text: str) -> list[str]:
    """`"a, b"` as a list. Raises BadParameter for an empty entry, or one given twice."""
    found = [item.strip() for item in text.split(",")]
    if not all(found):
        raise _bad(option, f"{text!r} has an empty entry; put one comma between two")
    twice = next((item for item in found if found.count(item) > 1), None)
    if twice is not None:
        raise _bad(option, f"{twice!r} is given twice; give it once")
    return found


def numbers(option: str, text: str) -> list[float]:
    try:
        return [float(item) for item in items(option, text)]
    except ValueError:
        raise _bad(option, f"{text!r} is not allowed; give numbers such as 0.05,0.1,0.2") from None


def check_names(text: str) -> list[str]:
    """The methods' names, which say themselves what each takes. Raises `ScopeParameterError`."""
    texts = [item.lower().replace("_", "-") for item in items("--methods", text)]
    for each in texts:
        try:
            named.maker(each.partition(":")[0])
        except ScopeParameterError as error:
            raise _bad("--methods", str(error)) from None
    return texts


def methods(texts: list[str], gold: bool, seed: int) -> dict[str, Any]:
    """The methods by the names they were asked for by. `gold`: they explain the token that follows."""
    from tl_scopes.scopes.base import NEXT_TOKEN

    options = {"target": NEXT_TOKEN if gold else None, "seed": seed}
    return {text: named.made(text, options) for text in texts}


def evaluate(asked: Asked) -> Run | None:
    """Run it, in this process and those launched with it. None in all but the main one."""
    names = check_names(asked.methods)
    gold = asked.settings["target"] == "gold"
    if gold and asked.settings["position"] == -1:
        raise _bad("--target", "gold is the token after the read position: add --position -2")

    from tl_scopes.evaluation import Settings, read, run
    from tl_scopes.evaluation.runs.processes import processes
    from tl_scopes.models import load

    settings = Settings(**asked.settings)
    chosen = methods(names, gold, settings.seed)
    where = asked.model["device"]
    team = processes(cpu=where == "cpu")  # says itself where it cannot join the others
    where = attribute.device(where or team.device)
    if not team.is_main:
        warnings.simplefilter("ignore")  # the main process gives them; `_cli.quiet` puts this back

    def loader() -> Any:
        if team.is_main and sys.stderr.isatty():
            say(f"loading {asked.model['name']} ...")
        return load(**{**asked.model, "device": where}, progress=team.is_main)

    try:
        with team.together():
            data = read(asked.source, **asked.data)
        done = run(loader, data, chosen, settings, out=asked.out, unit=asked.unit)
        team.leave()
    except KeyboardInterrupt:
        if team.is_main and asked.out.is_dir():
            say(f"what is finished stays in {asked.out}; the same command goes on from there")
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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tl_scopes.results.metrics import metric

    frame = summary(done)
    several = frame["replacement"].nunique() > 1
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("METHOD", no_wrap=True)
    keys = list(dict.fromkeys(zip(frame["metric"], frame["replacement"])))
    arrows = {1: " ↑", -1: " ↓"}
    for name, replacement in keys:
        known = metric(name)
        heading = known.label + (f" ({replacement})" if several and replacement else "")
        heading += arrows.get(known.direction, "")
        table.add_column(Text(message(heading)), justify="right")
    values = frame.set_index(["method", "metric", "replacement"])
    for method in done.manifest["order"]:
        cells = []
        for name, replacement in keys:
            own = values.loc[(method, name, replacement)]
            cells.append(_number(own["mean"], own["sem"]))
        table.add_row(Text(message(method)), *cells)
    # A pipe has no width: one line a method.
    Console(width=None if sys.stdout.isatty() else 400, highlight=False).print(table)
    told = f"{done.prompts} prompts" + (f", {done.failed} of them failed" if done.failed else "")
    typer.echo("\n" + message(f"{told}; mean ± standard error over prompts. Rows: {done.rows}"))


def _number(mean: float, sem: float) -> str:
    if math.isnan(mean):
        return "-"
    digits = 4 if abs(mean) < 1 else 3
    return f"{mean:.{digits}f}" + ("" if math.isnan(sem) else f" ± {sem:.{digits}f}")


def as_json(done: Run) -> str:
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
