"""What a report is made of: entries, tables, sections; and how numbers become entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tl_scopes.render.colours import number
from tl_scopes.render.report.words import MISSING, SIGNS, name, plus_minus
from tl_scopes.results.card import FaithfulnessCard

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Entry:
    """What a cell shows, what it sorts by, its mark ("best", "tied", "pass", "fail", ""), and what
    stands below."""

    text: str
    value: float | None = None
    mark: str = ""
    below: str = ""

    @property
    def sign(self) -> str:
        """What stands behind it where there are no colours."""
        return SIGNS.get(self.mark, "")

    @property
    def shown(self) -> str:
        """All of it on one line, without the mark."""
        return f"{self.text} {self.below}".rstrip()


@dataclass(frozen=True)
class Table:
    """`columns`: heads, each with a second line ("" for none). The first column names the rows."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Entry, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with text, tables, figures (kinds of `tl_scopes.render.figure`) and folded tables."""

    id: str
    title: str
    sentences: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a page, Markdown and a terminal say of a result.

    `warnings`: what a reader must know first. `draw`: the figure of a kind, None where the result holds
    nothing of it. `alt`: of each kind, for those who do not see it.
    """

    title: str
    subtitle: str
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    draw: Callable[[str], Figure | None]
    alt: Mapping[str, str]


def table(
    columns: Sequence[str | tuple[str, str]], rows: Sequence[Sequence[Entry]], caption: str = ""
) -> Table:
    """`columns`: heads, with a second line where they are pairs."""
    heads = tuple((head, "") if isinstance(head, str) else head for head in columns)
    return Table(heads, tuple(map(tuple, rows)), caption)


def by_method(card: FaithfulnessCard) -> tuple[list[str | tuple[str, str]], list[list[Entry]]]:
    """The first column of a table with a row for each method: its head, and the rows to add to."""
    return ["method"], [[Entry(name(label))] for label in card.methods]


def mean(row: Any, mark: str = "") -> Entry:
    """Of a row of the card's summary, or of None."""
    if row is None or math.isnan(row["mean"]):
        return Entry(MISSING)
    return Entry(plus_minus(row["mean"], row["sem"]), float(row["mean"]), mark)


def plain(value: float) -> Entry:
    return Entry(MISSING) if math.isnan(value) else Entry(number(value), value)


def leaders(card: FaithfulnessCard) -> dict[tuple[str, str, str], str]:
    """The mark of a metric, a replacement and a method: "best", "tied" where others are as good."""
    return {
        (row.metric, row.replacement, row.method): "tied" if row.tied else "best"
        for row in records(card.leaders())
    }


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """Rows with their columns as attributes."""
    return iter(frame.itertuples(index=False))
