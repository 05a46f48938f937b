"""Units of pairs as they are measured: kept in a folder, so that a killed call can go on, or not kept."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_scopes.adapter.middle import tolerance
from tl_scopes.circuits.judging.curves import Curves
from tl_scopes.circuits.judging.judge import Judge, Measured, every
from tl_scopes.circuits.pairs.batch import PairBatch
from tl_scopes.errors import ScopesWarning
from tl_scopes.evaluation.runs import manifest
from tl_scopes.evaluation.runs.folders import held
from tl_scopes.evaluation.runs.parts import Parts
from tl_scopes.evaluation.runs.processes import Processes

CLEAN, CORRUPTED = "clean", "corrupted"


@dataclass(eq=False)
class UnitStore:
    """Rounds of measuring all units. `rounds`: how many there will be; `parts`: where they are kept."""

    judge: Judge
    rounds: int
    progress: bool | None
    parts: Parts | None = None
    _round: int = field(default=0, init=False)

    def measured(self, names: Sequence[str], kept: Bool[Tensor, "circuit candidate"]) -> Measured:
        """What every pair gives under each circuit, from a round of all units. `names`: of the circuits, in
        the table of the folder."""
        from tqdm import tqdm

        units = self.judge.units
        first = self._round * len(units)
        self._round += 1
        total = sum(map(len, units))
        hidden = not (sys.stderr.isatty() if self.progress is None else self.progress)
        told = f"round {self._round} of {self.rounds}" if self.rounds > 1 else None
        bar = tqdm(total=total, unit="pair", disable=hidden, dynamic_ncols=True, desc=told)

        def one_by_one() -> Iterator[tuple[PairBatch, Measured]]:
            done = set() if self.parts is None else self.parts.done()
            for i, unit in enumerate(units, first):
                if i in done:
                    assert self.parts is not None
                    yield unit, _measured(self.parts.rows(i, unit.numbers).to_pylist(), unit, names)
                else:
                    found = self.judge.measure(unit, kept)
                    if self.parts is not None:
                        self.parts.save(i, _rows(found, unit, names))
                    yield unit, found
                bar.update(len(unit))

        with bar:
            return every(one_by_one(), total)


@contextmanager
def opened(
    model: Any,
    judge: Judge,
    curves: Curves,
    rounds: int,
    settings: dict[str, Any],
    out: str | Path | None,
    progress: bool | None,
) -> Iterator[UnitStore]:
    """A store of `rounds` rounds, in the folder `out` if one is given, which is held meanwhile.

    Raises `RunError` for a folder that is in use, or holds a run made with something else.
    """
    if out is None:
        yield UnitStore(judge, rounds, progress)
        return
    folder = Path(out).expanduser()
    with held(folder, Processes()):
        mine = _manifest(model, judge, curves, settings)
        for text in manifest.settle(mine, folder):
            warnings.warn(
                f"{text}: rows of both agree to rounding only", ScopesWarning, stacklevel=4
            )
        units = judge.units
        parts = Parts(folder, rounds * len(units), manifest.digest(mine))
        parts.clean()
        yield UnitStore(judge, rounds, progress, parts)
        parts.assemble([], [unit.numbers for _ in range(rounds) for unit in units])


def _manifest(model: Any, judge: Judge, curves: Curves, settings: dict[str, Any]) -> dict[str, Any]:
    """All that decides the numbers."""
    units, candidates = judge.units, curves.candidates
    runs = {n: run for unit in units for n, run in zip(unit.numbers, unit.runs)}
    corrupted = {n: r.tolist() for unit in units for n, r in zip(unit.numbers, unit.corrupted)}
    pairs = sorted(runs)
    first = units[0].part([0])
    found = judge.measure(first, torch.zeros(0, len(candidates), dtype=torch.bool, device="cpu"))
    return manifest.of_run(
        model,
        {"started": datetime.now(timezone.utc).isoformat()},
        data={
            "pairs": len(pairs),
            "clean": manifest.prompts_hash([runs[n].ids for n in pairs]),
            "corrupted": manifest.prompts_hash([corrupted[n] for n in pairs]),
            "reads": manifest.prompts_hash([[runs[n].position, runs[n].span] for n in pairs]),
            "scopes": manifest.prompts_hash([manifest.described(runs[n].scope) for n in pairs]),
        },
        scores={
            "of": candidates.of,
            "candidates": len(candidates),
            "sha256": manifest.prompts_hash([*candidates.labels, candidates.strength.tolist()]),
        },
        settings={**settings, "sizes": curves.sizes.shares},
        units=[list(unit.numbers) for unit in units],
        **{
            manifest.OUTPUTS: {
                "allowed": tolerance(first.view.dtype),
                "the scalars of the first pair": [float(found.clean), float(found.corrupted)],
            }
        },
    )


def _rows(found: Measured, unit: PairBatch, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for i, number in enumerate(unit.numbers):
        values = [found.clean[i], found.corrupted[i], *found.circuits[i]]
        for name, value in zip([CLEAN, CORRUPTED, *names], values):
            rows.append(
                {
                    "index": number,
                    "tokens": unit.length,
                    "method": name,
                    "metric": "scalar",
                    "replacement": "",
                    "fraction": 1.0,
                    "value": float(value),
                    "error": "",
                }
            )
    return rows


def _measured(rows: list[dict[str, Any]], unit: PairBatch, names: Sequence[str]) -> Measured:
    """What `_rows` wrote."""
    values = {(row["index"], row["method"]): row["value"] for row in rows}
    every_name = [CLEAN, CORRUPTED, *names]
    table = torch.tensor(
        [[values[number, name] for name in every_name] for number in unit.numbers],
        dtype=torch.float64,
        device="cpu",
    )
    return Measured(table[:, 0], table[:, 1], table[:, 2:])
