"""`python -m benchmarks architectures`: every architecture in a process of its own, as text and as JSON."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a tiny model never needs the hub

import torch
import torch._dynamo  # transformers asks for it late: once here, not in every process
import typer
from tqdm import tqdm

from benchmarks.architectures import checks, models, page
from benchmarks.architectures.tables import OTHERS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SECONDS = 300  # one architecture takes two
Row = dict[str, dict[str, dict[str, Any]]]  # by dtype, by column


def architectures(
    third: Annotated[bool, typer.Option(help="Every third by name.")] = False,
    only: Annotated[str, typer.Option(help="Those whose name contains this.")] = "",
    failed: Annotated[bool, typer.Option(help="What failed last time; the rest is kept.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes at once.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Hold every decoder-only architecture of transformer-lens against an untouched Hugging Face copy.

    Exits with 1 where anything is neither equal nor refused by name.
    """
    release = version("transformer-lens")
    wanted = [model for model in models.listed() if only.lower() in " ".join(model).lower()]
    wanted = wanted[::3] if third else wanted
    path = page.RESULTS / f"architectures-{'.'.join(release.split('.')[:2])}.json"
    before = page.load().get(path.stem.partition("-")[2], {}).get("rows", {}) if failed else {}
    if failed:
        kept = [name for name, row in before.items() if not failures({name: row})]
        wanted = [model for model in wanted if named(model) not in kept]
    with ThreadPoolExecutor(jobs) as pool:
        rows = dict(
            tqdm(pool.map(_apart, wanted), total=len(wanted), desc=release, unit="architecture")
        )
    packages = ("transformer-lens", "transformers", "torch")
    table = {
        "versions": {name: version(name) for name in packages},
        "rows": dict(sorted((before | {named(model): row for model, row in rows.items()}).items())),
        "others": {name: OTHERS[name] for name in models.known() if name in OTHERS},
    }
    whole = not (third or only)
    if out or whole:
        (out or path).write_text(page.packed(table), encoding="utf-8")
    if whole and not out:
        page.write()
    bad = failures(table["rows"])
    for line in bad:
        print(line)
    print(summary(table["rows"]), f"{len(bad)} failures" if bad else "all passed")
    raise typer.Exit(bool(bad))


def named(model: models.Model) -> str:
    return f"{model[0]}, {model[1]}" if model[1] else model[0]


def _apart(model: models.Model) -> tuple[models.Model, Row]:
    """One row, from a process that no other row shares."""
    there, here = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_row, args=(model, here))
    process.start()
    here.close()
    try:
        found = there.recv() if there.poll(SECONDS) else f"it took more than {SECONDS} s"
    except EOFError:
        found = "the process ended"
    process.kill()
    process.join()
    if isinstance(found, str):
        found = {dtype: {"all": {"crash": found}} for dtype in DTYPES}
    return model, found


def _row(model: models.Model, answer: Any) -> None:
    # The thread that draws the bar may have held the lock when this process was forked.
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: Row = {}
    for name, dtype in DTYPES.items():
        try:
            if not models.exists(model[0]):
                raise LookupError("unknown: add a builder, or a reason to tables.OTHERS")
            found[name] = checks.cells(model, dtype)
        except Exception as error:
            found[name] = {"all": {"crash": checks.said(error)}}
    answer.send(found)


def failures(rows: dict[str, Row]) -> list[str]:
    """What is neither equal nor refused by name, a line each."""
    return [
        f"{name} {dtype} {column}: {key.upper()} {value}"
        for name, row in rows.items()
        for dtype, cells in row.items()
        for column, cell in cells.items()
        for key, value in cell.items()
        if key in ("wrong", "crash")
    ]


def summary(rows: dict[str, Row]) -> str:
    cells = [(d, c) for row in rows.values() for d, each in row.items() for c in each.values()]
    worst = ", ".join(
        f"{dtype} within {max((c['error'] for d, c in cells if d == dtype and 'error' in c), default=0.0):.2g}"
        for dtype in DTYPES
    )
    refused = sum("refused" in c for _, c in cells)
    return f"{len(rows)} rows: {len(cells)} cells, {refused} refused by name, equal in {worst};"
