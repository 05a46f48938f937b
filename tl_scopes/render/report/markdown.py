"""The report as Markdown, and its main table in a terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from tl_scopes.render.report.made import report
from tl_scopes.render.report.parts import Entry, Table
from tl_scopes.results.base import Result

# What Markdown dialects read as markup; an underscore inside a word is none, nor is a lone bracket.
_MARKUP = re.compile(r"[\\`*|$~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])")
_TAGS = re.compile(r"<(?=[a-zA-Z/!?])|&(?=#?\w+;)")
_SHOWN = {"best": "**{} ★**", "tied": "{} ≈", "fail": "**{}**"}
_STYLES = {"best": "bold", "fail": "red", "pass": "green"}


def markdown(result: Result) -> str:
    made = report(result)
    parts = [f"# {literal(made.title)}", literal(made.subtitle)]
    failed = made.warnings
    if failed:
        parts.append(
            "\n".join([f"> **{literal(failed[0])}**", *(f"> - {literal(x)}" for x in failed[1:])])
        )
    for section in made.sections:
        if not section.tables and not section.folded:
            continue  # its figures show what stands in other tables
        parts.append(f"## {literal(section.title)}")
        parts += [literal(each) for each in section.sentences]
        for each in (*section.tables, *section.folded):
            if each.caption:
                parts.append(f"**{literal(each.caption.capitalize())}**")
            parts.append(_table(each))
    return "\n\n".join(parts) + "\n"


def literal(text: str) -> str:
    """`text` that every Markdown dialect shows as it is."""
    marked = _MARKUP.sub(lambda match: f"\\{match.group()}", text)
    return _TAGS.sub(lambda match: html.escape(match.group()), marked)


def _table(table: Table) -> str:
    heads = [literal(", ".join(filter(None, head))) for head in table.columns]
    lines = [heads, ["---" if i == 0 else "---:" for i in range(len(heads))]]
    if not any(entry.value is not None for row in table.rows for entry in row):
        lines[1] = ["---"] * len(heads)
    lines += [[_entry(entry) for entry in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _entry(entry: Entry) -> str:
    return _SHOWN.get(entry.mark, "{}").format(literal(entry.shown))


def show(result: Result, console: Console | None = None) -> None:
    """Print the main table, what it says, and the verdicts."""
    made, out = report(result), console or Console()
    out.print(Text(made.title, style="bold"))
    out.print(Text(made.subtitle, style="dim"))
    for line in made.warnings:
        out.print(Text(line, style="yellow"))
    shown = [s for s in made.sections if s.id in ("main", "randomisation", "verdicts")]
    for section in shown:
        for table in section.tables:
            prose = all(entry.value is None for row in table.rows for entry in row)
            for part in [table] if prose else _fitting(table, out.width):
                out.print(_grid(part, out.width, prose))
        for line in section.sentences:
            out.print(Text(line, style="dim"))


def _fitting(table: Table, width: int) -> Iterator[Table]:
    """`table` as tables of some of its columns, each with the first, that a console can hold."""
    first, *wide = (
        max(map(len, [*table.columns[i], *(row[i].shown + row[i].sign for row in table.rows)])) + 3
        for i in range(len(table.columns))
    )
    start = 1
    while start < len(table.columns):
        end, left = start + 1, width - min(first, width // 3) - wide[start - 1]
        while end < len(table.columns) and wide[end - 1] <= left:
            left -= wide[end - 1]
            end += 1
        rows = tuple((row[0], *row[start:end]) for row in table.rows)
        yield Table((table.columns[0], *table.columns[start:end]), rows)
        start = end


def _grid(table: Table, width: int, prose: bool) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(table.columns):
        text = Text("\n".join(filter(None, head)))
        if i:
            grid.add_column(text, justify="left" if prose else "right", no_wrap=not prose)
        else:
            most = max(cell_len(row[0].text) for row in table.rows)
            grid.add_column(text, overflow="fold", min_width=min(most, width // 3 - 3))
    for row in table.rows:
        grid.add_row(*(Text(e.shown + e.sign, style=_STYLES.get(e.mark, "")) for e in row))
    return grid
