"""The replication under the control of place, in rounds of passages, each of which measures every cell.

Under the control the last tokens are spared, and AOPC is by how much it is greater than with a ranking
that the same method made of another passage: as many tokens at the same places. What is left of a lead
is one in content. Both ways are measured on the same passages, and share attributions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.replication import methods
from benchmarks.replication.cells import AOPC, READ, Cell, Sizes, part_of
from tl_scopes.evaluation import DataSet, Run, Settings, run
from tl_scopes.evaluation.ablations import Row, measure_under
from tl_scopes.evaluation.methods import AnyMethod
from tl_scopes.evaluation.runs import manifest

if TYPE_CHECKING:
    import pandas as pd

# Passages of a round, which lend each other their places.
EVERY = 4
SPARED, MATCHED = 4, 1
# One draw of more passages tells more than several of fewer.
DRAWS = 1
GAIN = f"{AOPC}_gain"
_CONTENT = "content "
_AGREEMENT = {"loo_spearman", "loo_kendall", "loo_jaccard", "loo_top_rank"}
_PLAIN = Settings(sufficiency=False, position=READ, draws=DRAWS)
_CONTROL = replace(_PLAIN, spare_last=SPARED, matched=MATCHED)


@dataclass(frozen=True)
class Shares:
    """How many passages: of the main table, of that with PAD and likely tokens, of rules and leave-one-out,
    and of higher ranks."""

    control: int
    likely: int
    rules: int
    ranks: int

    @classmethod
    def of(cls, n: int, *asked: int | None) -> Shares:
        """What is not given is a share of n; one passage alone has no other to lend it places."""
        shares = zip(asked, (0.2, 0.1, 0.1, 0.0))
        total, *others = (round(s * n) if own is None else own for own, s in shares)
        total = min(n, max(2, total)) if total else 0
        return cls(total, *(min(total, max(2, own)) if own else 0 for own in others))


@dataclass(frozen=True, eq=False)
class Measured:
    """One cell as far as it is measured: `counts` passages of each part; `rules`: rows of Scopes by gradient rules."""

    cell: Cell
    rules: pd.DataFrame
    counts: Mapping[str, int]

    def seen(self, content: bool, likely: bool = False) -> Cell:
        """The cell as claims read it: AOPC as published, or what it gains over other passages' rankings;
        with likely tokens in the place of zero."""
        return replace(
            self.cell,
            rows=_seen(self.cell.rows, content, likely),
            ranks=_seen(self.cell.ranks, content),
        )

    def spared(self) -> Cell:
        """With the last tokens spared alone."""
        return replace(self.cell, rows=_seen(self.cell.rows, True, kept=AOPC))

    def ruled(self, content: bool) -> Cell:
        """The same of Scopes under gradient rules."""
        return replace(self.cell, rows=_seen(self.rules, content))


def _seen(rows: Any, content: bool, likely: bool = False, kept: str = GAIN) -> pd.DataFrame:
    """`kept`: what is read as AOPC under the control."""
    own = rows[rows["metric"].str.startswith(_CONTENT) == content]
    if content:
        own = own.assign(metric=own["metric"].str.removeprefix(_CONTENT))
        own = own[~own["metric"].isin({AOPC, GAIN} - {kept})].replace({"metric": {kept: AOPC}})
    if likely:
        own = own[own["replacement"].isin(("likely", ""))]
        own = own.replace({"replacement": {"likely": "zero"}})
    return own


def rounds(
    names: Sequence[str], sets: Sequence[tuple[str, DataSet]], shares: Shares, out: Path
) -> Iterator[list[Measured]]:
    """All cells after each part of a round that had to be measured, and in the end. Raises what `run` raises."""
    from tl_scopes import models

    loaded = {name: models.load(name, progress=False) for name in names}
    cells = {
        (name, label): _Gathered(name, loaded[name], label, data, out / label / name)
        for name in names
        for label, data in sets
    }
    most = min(shares.control, max(len(data) for _, data in sets))
    parts = {"main": shares.control, "likely": shares.likely, "rules": shares.rules}
    reached = dict.fromkeys(parts, 0)
    # One passage alone has no other to lend it places: it joins the round before, or waits for the next one.
    for end in (*range(EVERY, most - 1, EVERY), most):
        for part, n in parts.items():
            start, reach = reached[part], min(most, end) * n // shares.control
            if reach - start < (2 if end < most else 1):
                continue
            reached[part] = reach
            fresh = [cell.measure(part, start, reach) for cell in cells.values()]
            if any(fresh):
                yield [cell.measured(shares) for cell in cells.values()]
    if shares.ranks:
        for cell in cells.values():
            cell.measure("ranks", 0, shares.ranks)
    yield [cell.measured(shares) for cell in cells.values()]


class _Gathered:
    """The runs of one cell."""

    def __init__(self, name: str, model: Any, label: str, data: DataSet, out: Path) -> None:
        self.name, self.model, self.label, self.data, self.out = name, model, label, data, out
        self.frames: dict[str, list[pd.DataFrame]] = {part: [] for part in _ASKED}
        self.runs: dict[str, Run] = {}
        self.seconds: dict[str, float] = {}
        self.counts = dict.fromkeys(_ASKED, 0)

    def measure(self, part: str, start: int, end: int) -> bool:
        """Whether it was not there yet."""
        chosen = part_of(self.data, start, end)
        self.counts[part] = start + len(chosen)
        if not len(chosen):
            return False
        folder = self.out / part / f"{start:04}-{end:04}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = self._before(part, folder, chosen)
        if done is None:
            print(f"{self.name}, {self.label}: {part} {start} to {end}", flush=True)
            before = time.process_time()
            # The Scopes stand for all methods where a folder is compared: these cost least.
            named = {name: methods.main()[name] for name in methods.SCOPES}
            done = run(self.model, chosen, named, _PLAIN, out=folder, unit=EVERY, progress=False,
                       measure=_ASKED[part])  # fmt: skip
            if done.measured == done.prompts:
                self.seconds[part] = (time.process_time() - before) / done.prompts
        self.runs.setdefault(part, done)
        self.frames[part].append(done.to_frame())
        return done.measured > 0

    def _before(self, part: str, folder: Path, chosen: DataSet) -> Run | None:
        """A round that is finished, and made as this call's first one was, which `run` itself compared."""
        first, done = self.runs.get(part), Run(folder, len(chosen), 0, 0)
        if first is None or not done.rows.exists():
            return None
        mine, theirs = done.manifest, first.manifest
        parted = ("data", manifest.OUTPUTS, manifest.NOTED)
        alike = all(mine[key] == theirs[key] for key in theirs if key not in parted)
        same = mine["data"]["sha256"] == manifest.prompts_hash(chosen.prompts)
        return done if alike and same else None

    def measured(self, shares: Shares) -> Measured:
        import pandas as pd

        nothing: Any = self.frames["main"][0][:0]
        gathered: dict[str, Any] = {
            part: pd.concat([nothing, *frames], ignore_index=True)
            for part, frames in self.frames.items()
        }
        ruled, likely = gathered["rules"], gathered["likely"]
        agreement = ruled[ruled["metric"].str.contains("loo_") | (ruled["error"] != "")]
        likely = likely[~likely["metric"].str.endswith("correct")]
        rows = pd.concat([gathered["main"], likely, agreement], ignore_index=True)
        cell = Cell(
            model=self.name,
            data=self.label,
            sizes=Sizes(shares.control, shares.rules, shares.ranks, 0),
            rows=rows,
            ranks=gathered["ranks"],
            spectra=nothing,
            randomised=nothing,
            runs=self.runs,
            seconds=self.seconds,
        )
        return Measured(cell, ruled, dict(self.counts))


def _rows(
    model: Any,
    ids: list[list[int]],
    named: Mapping[str, AnyMethod],
    *asked: tuple[Sequence[str], Settings],
) -> list[Row]:
    """What is looked at later; metrics under the control have a word before them."""
    rows = []
    for (_, settings), own in zip(asked, measure_under(model, ids, named, asked)):
        prefix = _CONTENT if settings.spare_last else ""
        metrics = (
            _AGREEMENT if len(settings.fractions) == 1 else {"correct", AOPC, GAIN, *_AGREEMENT}
        )
        for row in own:
            if row["error"]:
                rows.append(row)
            elif row["metric"] in metrics:
                rows.append({**row, "metric": prefix + row["metric"]})
    return rows


def _both_ways(
    model: Any, ids: list[list[int]], named: Mapping[str, AnyMethod], *replacements: Any
) -> list[Row]:
    ways = (replace(way, replacements=replacements) for way in (_PLAIN, _CONTROL))
    return _rows(model, ids, named, *((list(named), way) for way in ways))


def of_main(model: Any, ids: list[list[int]], *_: Any) -> list[Row]:
    return _both_ways(model, ids, methods.main(), "zero")


def of_likely(model: Any, ids: list[list[int]], *_: Any) -> list[Row]:
    return _both_ways(model, ids, methods.main(), "pad", "likely")


def of_rules(model: Any, ids: list[list[int]], *_: Any) -> list[Row]:
    """With leave-one-out, whose passes all methods share."""
    ruled, compared = methods.rules(), methods.agreement()
    others = [name for name in compared if name not in ruled]
    alone: Any = {"fractions": (0.05,), "area": "mean", "leave_one_out": "zero"}
    return _rows(
        model,
        ids,
        ruled | compared,
        (list(ruled), _PLAIN),
        (list(ruled), replace(_CONTROL, leave_one_out="zero")),
        (list(compared), replace(_PLAIN, **alone)),
        (others, replace(_CONTROL, **alone, matched=0)),
    )


def of_ranks(model: Any, ids: list[list[int]], *_: Any) -> list[Row]:
    return _both_ways(model, ids, methods.ranks(), "zero")


_ASKED = {"main": of_main, "likely": of_likely, "rules": of_rules, "ranks": of_ranks}
