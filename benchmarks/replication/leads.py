"""Leads of one method over another in all cells together: are they in content, or in place?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.replication.cells import AOPC, Cell
from benchmarks.replication.control import Measured
from benchmarks.replication.methods import (
    BASELINES,
    FISHER,
    IG,
    IXG,
    MAIN,
    OVER_TOKENS,
    RANDOM,
    RULES,
    SCOPES,
    SEMANTIC,
    TEMPERATURE,
    ruled,
)
from benchmarks.replication.paired import AGAINST, FOR, Evidence, differences

if TYPE_CHECKING:
    import pandas as pd

CONTENT, PLACE, REVERSED, UNCLEAR = "content", "place", "the other way", "open"
EVERY_CELL = "all cells"
PAIRS = [
    *((name, RANDOM) for name in MAIN if name != RANDOM),
    *((scope, baseline) for scope in SCOPES for baseline in BASELINES),
    (FISHER, SEMANTIC),
    (FISHER, TEMPERATURE),
    (IXG, IG),
]
CHANGES = {
    (ruled(scope, change), scope): (scope, change)
    for scope in SCOPES
    for change in (*RULES, OVER_TOKENS)
}


@dataclass(frozen=True)
class Lead:
    """Of the first method over the second: as published, under the control, and how much the control takes.

    `kind`: `CONTENT` where the first one leads under the control too; `REVERSED` where it is behind there;
    `PLACE` where it leads as published, not under the control, and the control takes something; all by
    p < 0.05 after Holm's correction over all leads of a table. Else `UNCLEAR`.
    """

    plain: Evidence
    content: Evidence
    taken: Evidence

    @property
    def what(self) -> str:
        return self.plain.what

    @property
    def kind(self) -> str:
        if self.content.outcome in (FOR, AGAINST):
            return CONTENT if self.content.outcome == FOR else REVERSED
        gone = self.plain.outcome == FOR and self.taken.outcome == FOR
        return PLACE if gone else UNCLEAR


def of_methods(measured: Sequence[Measured], likely: bool) -> list[Lead]:
    """Of the main table's methods, with zero or with likely tokens."""
    return _leads(PAIRS, *([m.seen(way, likely) for m in measured] for way in (False, True)))


def of_rules(measured: Sequence[Measured]) -> list[Lead]:
    """Of each Scope by a rule, or over likely tokens, over the plain one."""
    return _leads(list(CHANGES), *([m.ruled(way) for m in measured] for way in (False, True)))


def agreement_of_rules(measured: Sequence[Measured]) -> list[Evidence]:
    """By how much their ranks agree better with leave-one-out; the last tokens spared."""
    cells = [m.ruled(True) for m in measured]
    values = {name: _over(cells, name, "loo_spearman") for pair in CHANGES for name in pair}
    return differences((EVERY_CELL, f"{a} − {b}", values[a], values[b]) for a, b in CHANGES)


def _leads(
    pairs: Sequence[tuple[str, str]], plain: Sequence[Cell], content: Sequence[Cell]
) -> list[Lead]:
    names = dict.fromkeys(name for pair in pairs for name in pair)
    sides = [{name: _over(cells, name) for name in names} for cells in (plain, content)]
    asked = []
    for a, b in pairs:
        own = [(values[a], values[b]) for values in sides]
        asked.append((f"{a} − {b}", *own, [x - y for x, y in own]))
    columns = (
        differences((EVERY_CELL, what, *column[k]) for what, *column in asked) for k in range(3)
    )
    return [Lead(*each) for each in zip(*columns)]


def _over(cells: Sequence[Cell], method: str, metric: str = AOPC) -> pd.Series:
    """By passage, the mean over models: one passage, however many models read it, is one number."""
    import pandas as pd

    frames = [
        pd.DataFrame({"value": cell.of(method, metric)}).reset_index().assign(data=cell.data)
        for cell in cells
    ]
    values: Any = pd.concat(frames).groupby(["data", "index"])["value"]
    return values.mean()
