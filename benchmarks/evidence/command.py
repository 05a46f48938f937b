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
# So many items are measured between two writes.
EVERY = 5


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
    loaded = None
    for paradigm, wanted in chosen.items():
        path = out / f"evidence-{name}-{paradigm}.json"
        head = {"model": name, "paradigm": paradigm, "versions": versions(), **about}
        rows = _before(path, head)
        left = [
            (i, item, asked)
            for i, item in enumerate(wanted)
            if (asked := _left(item, i, rows, methods, slow)) or not _controlled(rows[i : i + 1])
        ]
        loaded = loaded or (models.load(name, progress=False) if left else None)
        for done, (i, item, asked) in enumerate(tqdm(left, desc=f"{name} {paradigm}"), 1):
            other = items.elsewhere(every, item, about["seed"])
            known = rows[i] if i < len(rows) else None
            rows[i : i + 1] = [measured.row(loaded, item, other, asked, about["seed"], known)]
            if done % EVERY == 0 or done == len(left):
                write(path, head, rows)


def _left(
    item: items.Item, i: int, rows: list[dict[str, Any]], methods: list[str], slow: int
) -> list[str]:
    """What is still to be measured of item i; the slow methods of the first `slow` only."""
    wanted = [name for name in methods if i < slow or name in measured.FAST]
    return measured.lacking(item, wanted, rows[i] if i < len(rows) else None)


def _controlled(row: list[dict[str, Any]]) -> bool:
    """Whether the row is there, with all controls."""
    return bool(row) and set(measured.ALWAYS) <= set(row[0]["ranks"])


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
