"""`python -m benchmarks answers`: the questions on each model, as JSON, and the page that says what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from benchmarks.answers import measured, page
from benchmarks.answers.questions import questions
from benchmarks.rows import versions, write
from tl_scopes import models

MODELS = ("gemma-3-270m", "smollm2-135m-instruct")


def answers(
    n: Annotated[int, typer.Option(min=10, help="Questions; a multiple of 10 is balanced.")] = 200,
    every: Annotated[int, typer.Option(help="So many with versus and Fisher too.")] = 80,
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder of answers-MODEL.json.")] = page.RESULTS,
    report: Annotated[Path, typer.Option(help="The page to write.")] = page.PAGE,
) -> None:
    """Does the sentence that holds an answer rank first? On questions whose sentence is known.

    Goes on where it was stopped; remove the JSON to begin anew.
    """
    torch.set_num_threads(threads)
    for name in model or MODELS:
        path = out / f"answers-{name}.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        rows = before.get("rows", [])[:n]
        wanted = questions(n)[len(rows) :]
        loaded = models.load(name, progress=False) if wanted else None
        for question in tqdm(wanted, desc=name, unit="question"):
            rows.append(measured.row(loaded, question, len(rows) < every))
            if len(rows) % 10 == 0 or len(rows) == n:
                write(path, {"model": name, "versions": versions()}, rows)
    page.write(report, out)
    print(f"Written to {report}")
