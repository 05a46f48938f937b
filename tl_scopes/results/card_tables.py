"""Measurements cell by cell (a metric, a replacement, a share of tokens): summaries, paired tests, leaders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tl_scopes.results.metrics import METRICS, metric
from tl_scopes.results.statistics import LEVEL, comparisons, holm, summaries

if TYPE_CHECKING:
    import pandas as pd

Cell = tuple[str, str, float]
CELL = ("metric", "replacement", "fraction")


def tables(rows: pd.DataFrame, methods: Sequence[str]) -> dict[Cell, pd.DataFrame]:
    """The values of each cell, [index, method], in the order to show; methods without any are left out."""
    rows = rows.loc[(rows["metric"] != "error") & (rows["method"] != "")]
    names = list(dict.fromkeys([*METRICS, *rows["metric"]]))
    replacements = list(dict.fromkeys(rows["replacement"]))
    values = {}
    for key, cell in grouped(rows):
        table = cell.pivot(index="index", columns="method", values="value")
        values[key] = table.loc[:, [label for label in methods if label in table]]
    return dict(
        sorted(
            values.items(),
            key=lambda each: (
                names.index(each[0][0]), replacements.index(each[0][1]), each[0][2]
            ),
        )
    )  # fmt: skip


def summarise(cells: Mapping[Cell, pd.DataFrame], prompts: int) -> pd.DataFrame:
    """See `FaithfulnessCard.to_frame`."""
    import pandas as pd

    lines = []
    for key, table in cells.items():
        for label, s in zip(table, summaries(table[label].to_numpy() for label in table)):
            lines.append((label, *key, s.mean, s.sem, s.low, s.high, s.n, prompts - s.n))
    columns = ["method", *CELL, "mean", "sem", "low", "high", "n", "failed"]
    return pd.DataFrame(lines, columns=columns)


def compare(
    cells: Mapping[Cell, pd.DataFrame], methods: Sequence[str], reference: str | None
) -> pd.DataFrame:
    """See `FaithfulnessCard.comparisons`. Pairs of which one side was not measured are left out."""
    import pandas as pd

    if reference is None:
        pairs = list(combinations(methods, 2))
    else:
        pairs = [(label, reference) for label in methods if label != reference]
    lines = []
    for key, table in cells.items():
        here = [(a, b) for a, b in pairs if a in table and b in table]
        each = comparisons((table[a].to_numpy(), table[b].to_numpy()) for a, b in here)
        for (a, b), c in zip(here, each):
            agreement = c.difference * c.ranks
            lead = metric(key[0]).direction * c.difference if agreement > 0 else 0
            better = a if lead > 0 else b if lead < 0 else ""
            note = c.note or ("the mean and most pairs differ in sign" if agreement < 0 else "")
            lines.append((a, b, *key, c.difference, c.low, c.high, c.p, c.p, c.n, better, note))
    columns = ["method", "reference", *CELL, "difference", "low", "high", "p", "p_holm", "n",
               "better", "note"]  # fmt: skip
    frame = pd.DataFrame(lines, columns=columns)
    frame["p_holm"] = holm(frame["p"].to_numpy(dtype=float))
    frame["better"] = frame["better"].where(frame["p_holm"] < LEVEL, "")
    return frame


def lead(summaries: pd.DataFrame, tests: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """See `FaithfulnessCard.leaders`. `tests`: every pair in all cells of the metrics `names`."""
    import pandas as pd

    lines = []
    for key, rows in grouped(summaries):
        direction = metric(key[0]).direction
        means = direction * rows.set_index("method")["mean"].dropna()
        if key[0] not in names or not direction or len(means) < 2:
            continue
        first = means.idxmax()
        here = tests[in_cell(tests, key) & (tests["better"] == "")]
        undecided = {
            *here.loc[here["reference"] == first, "method"],
            *here.loc[here["method"] == first, "reference"],
        }
        tied = [label for label in means.index if label in undecided]
        lines += [(*key, label, bool(tied)) for label in (first, *tied)]
    return pd.DataFrame(lines, columns=[*CELL, "method", "tied"])


def grouped(frame: pd.DataFrame) -> Iterator[tuple[Cell, Any]]:
    """The rows of each cell, in the order of `frame`."""
    for key, own in frame.groupby(list(CELL), sort=False, dropna=False):
        name, replacement, fraction = key  # pyright: ignore[reportGeneralTypeIssues]
        yield (name, replacement, fraction), own


def in_cell(frame: pd.DataFrame, cell: Cell) -> pd.Series:
    """Which rows of a table with the columns of `CELL` belong to `cell`."""
    name, replacement, fraction = cell
    share = frame["fraction"].isna() if math.isnan(fraction) else frame["fraction"] == fraction
    return (frame["metric"] == name) & (frame["replacement"] == replacement) & share
