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
    rank_n: Annotated[int | None, typer.Option(min=2, help="For higher ranks; 0.2 n.")] = None,
    randomisation_n: Annotated[
        int | None, typer.Option(min=2, help="Predicted right, for random weights; at most 0.3 n.")
    ] = None,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 2,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs, which go on where they were stopped.")
    ] = Path("replication"),
    report: Annotated[
        Path | None, typer.Option(help="Folder of REPLICATION.md and its figures; default: --out.")
    ] = None,
) -> None:
    """Repeat the published evaluation on the bundled models, and report which claims hold."""
    import torch

    from benchmarks.replication.cells import Sizes

    torch.set_num_threads(threads)
    started = time.perf_counter()
    sizes = Sizes.of(n, loo_n, rank_n, randomisation_n)
    names = model or list(MODELS)
    try:
        cells = measured(names, data_sets(data, n), sizes, out)
        path = _write(cells, report or out, started, _command(data, names, sizes, threads))
    except ScopesError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"Written to {path}")


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


def _command(data: list[str] | None, names: list[str], sizes: Any, threads: int) -> str:
    """What was asked for in full, files by their name alone."""
    words = ["python", "-m", "benchmarks", "replication"]
    for option in data or []:
        name, _, source = option.partition("=")
        shown = Path(source).name if Path(source).exists() else source
        words += ["--data", f"{name}={shown}"]
    for name in names if tuple(names) != MODELS else ():
        words += ["--model", name]
    words += ["--n", str(sizes.n), "--loo-n", str(sizes.agreement), "--rank-n", str(sizes.ranks)]
    words += ["--randomisation-n", str(sizes.randomised), "--threads", str(threads)]
    return shlex.join(words)
