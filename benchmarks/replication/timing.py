"""How long the evaluation takes, against the loop of the published scripts, on the same passages by turns."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.replication import methods
from benchmarks.replication.cells import READ
from benchmarks.replication.loop import PublishedLoop
from tl_scopes import models
from tl_scopes.adapter.prompts import encode
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines import LeaveOneOut
from tl_scopes.evaluation import DataSet, Settings
from tl_scopes.evaluation import measure as measure_rows
from tl_scopes.models import bundled

_UNIT = 8


@dataclass(frozen=True)
class Contest:
    """What both compute. `theirs` runs the published loop, `ours` the package."""

    what: str
    ours: Callable[[], object]
    theirs: Callable[[], object]


def run(
    names: list[str], sets: list[tuple[str, DataSet]], rounds: int, threads: int, out: Path | None
) -> None:
    """Print passages a minute of both and their ratio; to `out` as JSON too."""
    found: list[dict[str, Any]] = []
    for name in names:
        ours = models.load(name, progress=False)
        theirs = _published(name, ours)
        for label, data in sets:
            ids: list[list[int]] = [encode(view_of(ours), p, None) for p in data.prompts]
            for contest in contests(ours, theirs, ids):
                timing = measure.interleaved(
                    contest.theirs, contest.ours, rounds, budget_s=float("inf"), warm=False
                )
                minute = [60 * len(ids) / statistics.median(each) for each in (timing.b, timing.a)]
                found.append(
                    {
                        "model": name,
                        "data": label,
                        "passages": len(ids),
                        "tokens": sum(map(len, ids)) / len(ids),
                        "what": contest.what,
                        "ours_per_minute": minute[0],
                        "published_per_minute": minute[1],
                        "ratio": timing.ratio,
                        "lowest": timing.spread[0],
                        "highest": timing.spread[1],
                    }
                )
                print(_line(found[-1]), flush=True)
    print(f"{threads} threads, {rounds} turns each; medians over turns")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def contests(ours: Any, theirs: PublishedLoop, ids: list[list[int]]) -> list[Contest]:
    """Zero ablation alone; with PAD as the two scripts do it, and as one script would; leave-one-out alone."""

    def measured(*kinds: Any) -> Callable[[], object]:
        settings = Settings(replacements=kinds, sufficiency=False, position=READ)
        return lambda: [
            measure_rows(ours, ids[i : i + _UNIT], methods.main(), settings)
            for i in range(0, len(ids), _UNIT)
        ]

    both = measured("zero", "pad")
    return [
        Contest("zero", measured("zero"), lambda: theirs.zero(ids)),
        Contest("zero and PAD, two scripts", both, lambda: (theirs.zero(ids), theirs.pad(ids))),
        Contest("zero and PAD, attributed once", both, lambda: theirs.both(ids)),
        Contest(
            "leave-one-out",
            lambda: [LeaveOneOut().attribute(ours, row, position=READ) for row in ids],
            lambda: theirs.leave_one_out(ids),
        ),
    ]


def _published(name: str, ours: Any) -> PublishedLoop:
    from transformers import AutoModelForCausalLM

    folder = bundled.ensure(name, progress=False)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return PublishedLoop(model.float().eval(), ours.tokenizer.pad_token_id, ours.tokenizer)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['model']}, {row['data']} ({row['passages']} of {row['tokens']:.0f} tokens), {row['what']}: "
        f"ours {row['ours_per_minute']:.1f} passages a minute, published {row['published_per_minute']:.1f}, "
        f"ratio {row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})"
    )
