"""`python -m benchmarks circuits`: each task on each model, as JSON a cell, and the page that says who wins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from benchmarks.circuits import found, measured, page
from benchmarks.circuits.pairs_of import TASKS
from tl_scopes import models

MODELS = ("gemma-3-270m", "smollm2-135m-instruct")


def circuits(
    n: Annotated[int, typer.Option(min=2, help="Pairs to attribute, and as many to judge.")] = 100,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only nodes, or only edges.")] = None,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder of circuits-MODEL-TASK.json.")] = page.RESULTS,
    report: Annotated[Path, typer.Option(help="The page to write.")] = page.PAGE,
) -> None:
    """Which circuits keep most of what a model does? Nodes and edges by every method, on four tasks.

    Goes on where it was stopped; remove the JSON to begin anew, or give another n.
    """
    for given, known in (
        (task, TASKS),
        (model, MODELS),
        (method, found.METHODS),
        (kind, found.KINDS),
    ):
        if unknown := set(given or ()) - set(known):
            raise typer.BadParameter(f"{min(unknown)!r}; allowed: {', '.join(known)}")
    torch.set_num_threads(threads)
    for name in model or MODELS:
        loaded = None
        for own in tqdm(task or TASKS, desc=name, unit="task"):
            path = out / f"circuits-{name}-{own}.json"
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            before = before if before.get("n") == n else {}
            wanted = method or found.METHODS, kind or [*found.KINDS]
            if complete(before, *wanted):
                continue
            loaded = loaded or models.load(name, progress=False)
            about = {
                "model": name,
                "versions": {p: version(p) for p in ("transformer-lens", "torch")},
            }
            measured.cell(loaded, own, n, *wanted, about | before, lambda c, p=path: _write(p, c))
    page.write(report, out)
    print(f"Written to {report}")


def complete(cell: measured.Cell, methods: Sequence[str], kinds: Sequence[str]) -> bool:
    """Whether nothing of it is left to measure."""
    return bool(cell) and not (measured.does(cell) and measured.lacking(cell, methods, kinds))


def _write(path: Path, cell: measured.Cell) -> None:
    """A line a curve: what changed shows. Whole at any moment."""
    rest = {name: value for name, value in cell.items() if name != "curves"}
    kinds = []
    for kind, curves in cell["curves"].items():
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(own)}" for name, own in curves.items())
        kinds.append(f'"{kind}": {{\n{lines}\n}}')
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(
        f'{json.dumps(rest)[:-1]}, "curves": {{\n{", ".join(kinds)}}}}}\n', encoding="utf-8"
    )
    half.replace(path)
