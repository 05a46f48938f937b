"""What a check found, as tables: in the terminal, and for a page."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from tl_scopes.checking.finding import Cost, Finding, ModelCheck
from tl_scopes.render.colours import number
from tl_scopes.render.report.parts import Entry
from tl_scopes.results.escapes import message

MARKS = {"passed": "✓", "failed": "✗", "refused": "–", "skipped": "·"}
_STYLES = {"passed": "green", "failed": "bold red", "refused": "yellow", "skipped": "dim"}
COST_HEADS = ("Scope", "Tokens", "Seconds", "Bare passes", "MiB at the peak")


def show(check: ModelCheck, console: Console | None = None) -> None:
    # A pipe has no width: one line a finding.
    out = console or Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    out.print(Text(message(check.subject), style="bold"))
    out.print(_findings(check))
    if check.costs:
        out.print(_costs(check))
    if check.room:
        out.print(Text(check.room))
    out.print(Text(check.verdict, style="green" if check.passed else "bold red"))


def cells(cost: Cost) -> list[Entry]:
    """A row of the table of costs, under `COST_HEADS`."""
    first = [Entry(cost.scope), Entry(f"{cost.tokens:,}", cost.tokens)]
    if cost.seconds is None or cost.passes is None:
        return [*first, Entry("refused"), Entry(""), Entry("")]
    mib = Entry("?" if cost.mib is None else f"{cost.mib:,.0f}", cost.mib)
    taken = Entry(number(cost.seconds), cost.seconds)
    return [*first, taken, Entry(f"{cost.passes:.1f}", cost.passes), mib]


def _findings(check: ModelCheck) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("", no_wrap=True)
    grid.add_column("Check", no_wrap=True)
    grid.add_column("Measured", overflow="fold")
    grid.add_column("Allowed", justify="right", no_wrap=True)
    for each in check.findings:
        style = _STYLES[each.state]
        grid.add_row(
            Text(f"{MARKS[each.state]} {each.state}", style=style),
            Text(each.name),
            _said(each),
            Text(each.allowed),
        )
    return grid


def _said(finding: Finding) -> Text:
    """What was measured; below it, what to do."""
    measured = Text(message(finding.measured))
    if finding.remedy:
        measured.append(f"\n→ {message(finding.remedy)}", style="italic")
    return measured


def _costs(check: ModelCheck) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(COST_HEADS):
        grid.add_column(head, justify="right" if i else "left", no_wrap=True)
    for each in check.costs:
        grid.add_row(*(Text(entry.text) for entry in cells(each)))
    return grid
