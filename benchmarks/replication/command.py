"""`python -m benchmarks replication` and `python -m benchmarks evaluation`."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.replication.sources import HELP, OWN, named
from tl_scopes.errors import ScopesError
from tl_scopes.evaluation import DataSet

MODELS = ("gemma-3-270m", "smollm2-135m-instruct")

Data = Annotated[list[str] | None, typer.Option(help=HELP)]


def replication(
    data: Data = None,
    n: Annotated[int, typer.Option(min=2, help="Passages of each data set.")] = 20,
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    loo_n: Annotated[int | None, typer.Option(min=2, help="For leave-one-out; 0.3 n.")] = None,
    rank_n: Annotated[int | None, typer.Option(min=2, help="For higher ranks; 0.1 n.")] = None,
    randomisation_n: Annotated[
        int | None, typer.Option(min=2, help="Predicted right, for random weights; at most 0.3 n.")
    ] = None,
    control_n: Annotated[
        int | None, typer.Option(min=0, help="Under the control of place; 0.2 n; 0: without.")
    ] = None,
    likely_n: Annotated[
        int | None, typer.Option(min=0, help="Of these with PAD and likely tokens; 0.1 n.")
    ] = None,
    rules_n: Annotated[
        int | None,
        typer.Option(min=0, help="Of these with gradient rules and leave-one-out; 0.1 n."),
    ] = None,
    control_rank_n: Annotated[
        int | None, typer.Option(min=0, help="Of these with higher ranks; none.")
    ] = None,
    control_only: Annotated[
        bool, typer.Option("--control-only", help="Write CONTROL.md alone.")
    ] = False,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 2,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs, which go on where they were stopped.")
    ] = Path("replication"),
    report: Annotated[
        Path | None, typer.Option(help="Folder of both reports and the figures; default: --out.")
    ] = None,
) -> None:
    """Repeat the published evaluation on the bundled models, and report which claims hold.

    REPLICATION.md: as it was published. CONTROL.md: which claims hold in content, not only for where tokens
    stand; written after each part of a round of passages, in which all cells have their turn.
    """
    import torch

    from benchmarks.replication.cells import Sizes
    from benchmarks.replication.control import Shares

    torch.set_num_threads(threads)
    started = time.perf_counter()
    sizes = Sizes.of(n, loo_n, rank_n, randomisation_n)
    shares = Shares.of(n, control_n, likely_n, rules_n, control_rank_n)
    names = model or list(MODELS)
    asked = _command(data, names, n, threads, None if control_only else sizes, shares)
    try:
        sets = data_sets(data, n)
        if not control_only:
            cells = measured(names, sets, sizes, out)
            print(f"Written to {_write(cells, report or out, started, asked)}")
        if shares.control:
            print(f"Written to {_controlled(names, sets, shares, out, report or out, asked)}")
    except ScopesError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def evaluation(
    data: Data = None,
    n: Annotated[int, typer.Option(min=2, help="Passages.")] = 8,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each side.")] = 3,
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Time the evaluation of six methods against the loop that the published scripts run."""
    import torch

    from benchmarks.replication import timing

    torch.set_num_threads(threads)
    try:
        sets = data_sets(data, n)
        timing.run(model or list(MODELS), sets, rounds, threads, out)
    except ScopesError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def data_sets(asked: list[str] | None, n: int) -> list[tuple[str, DataSet]]:
    """By name. Raises `DataError`."""
    return [named(option, n) for option in asked or [f"passages={OWN}"]]


def measured(names: list[str], sets: list[tuple[str, DataSet]], sizes: Any, out: Path) -> list[Any]:
    """Every model on every data set."""
    from benchmarks.replication.cells import measure_cell
    from tl_scopes import models

    cells = []
    for name in names:
        loaded = models.load(name, progress=False)
        for label, data in sets:
            folder = out / "runs" / label / name
            cells.append(measure_cell(name, loaded, (label, data), sizes, folder, progress=True))
        del loaded
    return cells


def _write(cells: list[Any], folder: Path, started: float, command: str) -> Path:
    from benchmarks.replication import report

    return report.write(cells, folder, command, (time.perf_counter() - started) / 60)


def _controlled(
    names: list[str],
    sets: list[tuple[str, DataSet]],
    shares: Any,
    out: Path,
    folder: Path,
    command: str,
) -> Path:
    """The path of the last report."""
    from benchmarks.replication import control, control_report

    path = folder
    for each in control.rounds(names, sets, shares, out / "control"):
        path = control_report.write(each, folder, command, shares)
    return path


def _command(
    data: list[str] | None, names: list[str], n: int, threads: int, sizes: Any, shares: Any
) -> str:
    """What was asked for in full, files by their name alone."""
    words = ["python", "-m", "benchmarks", "replication"]
    for option in data or []:
        name, _, source = option.partition("=")
        shown = Path(source).name if Path(source).exists() else source
        words += ["--data", f"{name}={shown}"]
    for name in names if tuple(names) != MODELS else ():
        words += ["--model", name]
    words += ["--n", str(n)]
    if sizes is None:
        words += ["--control-only"]
    else:
        words += ["--loo-n", str(sizes.agreement), "--rank-n", str(sizes.ranks)]
        words += ["--randomisation-n", str(sizes.randomised)]
    words += ["--control-n", str(shares.control)]
    if shares.control:
        words += ["--likely-n", str(shares.likely), "--rules-n", str(shares.rules)]
        words += ["--control-rank-n", str(shares.ranks)]
    return shlex.join([*words, "--threads", str(threads)])
