"""`python -m benchmarks evidence`: each paradigm on each model, as JSON a cell, and the report of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from benchmarks.evidence import items, measured
from benchmarks.rows import versions, write
from tl_scopes import models
from tl_scopes.errors import DataError, ScopesError

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
# So many items share their passes; all are written after them.
TOGETHER = 16


def evidence(
    data: Annotated[
        Path,
        typer.Option(
            help="Prefixes by paradigm, as JSON; default: forty of our own. The published pairs are those of BLiMP "
            "(github.com/alexwarstadt/blimp, CC BY 4.0), which is not shipped."
        ),
    ] = items.OWN,
    n: Annotated[int, typer.Option(min=2, help="Items a paradigm, drawn by the seed.")] = 5,
    every: Annotated[
        int,
        typer.Option(
            min=0, help="So many of them with the slow methods too, such as leave-one-out."
        ),
    ] = 0,
    paradigm: Annotated[list[str] | None, typer.Option(help="Only these paradigms.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of random scores.")] = 0,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder of evidence-MODEL-PARADIGM.json.")] = Path(
        "evidence"
    ),
    report: Annotated[
        Path | None, typer.Option(help="The report to write; default: EVIDENCE.md in --out.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="The page of the docs to write too.")] = None,
) -> None:
    """Do scores find the word that decides the next one? On prefixes where it is known.

    Goes on where it was stopped, and with more items where n is greater; remove the JSON to begin anew.
    """
    from benchmarks.evidence import report as reports

    torch.set_num_threads(threads)
    try:
        listed, digest = items.read(data)
        for given, known in ((paradigm, listed), (model, MODELS), (method, measured.METHODS)):
            if unknown := set(given or ()) - set(known):
                raise DataError(f"{min(unknown)!r} is not there; allowed: {', '.join(known)}")
        chosen = items.drawn(listed, n, seed)
        about = {"sha256": digest, "data": data.name, "seed": seed}
        wanted = [name for name in measured.METHODS if name in (method or measured.METHODS)]
        for name in model or MODELS:
            own = {p: chosen[p] for p in paradigm or listed}
            _measure(name, own, listed, about, wanted, every, out)
    except ScopesError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    path = report or out / reports.NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reports.written(out), encoding="utf-8")
    if page is not None:
        page.write_text(reports.page(out), encoding="utf-8")
    print(f"Written to {path}")


def _measure(
    name: str,
    chosen: dict[str, list[items.Item]],
    every: dict[str, list[items.Item]],
    about: dict[str, Any],
    methods: list[str],
    slow: int,
    out: Path,
) -> None:
    """What is missing of one model. Raises `DataError` where the folder holds results of something else."""
    heads = {p: {"model": name, "paradigm": p, "versions": versions(), **about} for p in chosen}
    paths = {paradigm: out / f"evidence-{name}-{paradigm}.json" for paradigm in chosen}
    rows = {paradigm: _before(paths[paradigm], heads[paradigm]) for paradigm in chosen}
    left = []
    for paradigm, wanted in chosen.items():
        for i, item in enumerate(wanted):
            row = rows[paradigm][i] if i < len(rows[paradigm]) else None
            asked = [name for name in methods if i < slow or name in measured.FAST]
            if row is None or measured.lacking(item, asked, row):
                other = items.elsewhere(every, item, about["seed"])
                left.append((i, paradigm, measured.Task(item, other, asked, row)))
    if not left:
        return
    # The first of each paradigm, then the second: wherever it is stopped, paradigms are level.
    left.sort(key=lambda each: each[0])
    loaded = models.load(name, progress=False)
    with tqdm(total=len(left), desc=name, unit="item") as bar:
        for start in range(0, len(left), TOGETHER):
            some = left[start : start + TOGETHER]
            made = measured.rows(loaded, [task for *_, task in some], about["seed"])
            for (i, paradigm, _), row in zip(some, made):
                rows[paradigm][i : i + 1] = [row]
            for paradigm in {paradigm for _, paradigm, _ in some}:
                write(paths[paradigm], heads[paradigm], rows[paradigm])
            bar.update(len(some))


def _before(path: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    cell = json.loads(path.read_text(encoding="utf-8"))
    rows = cell.pop("rows")
    differs = [key for key in head if cell.get(key) != head[key]]
    if differs:
        raise DataError(
            f"{path.name} is of other {', '.join(differs)} than what is asked for: give another --out, or remove it"
        )
    return rows
