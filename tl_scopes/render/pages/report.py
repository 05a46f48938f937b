"""The report as a web page, whole or as one notebook output."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from tl_scopes.render.pages.page import asset, report_style, svg
from tl_scopes.render.report.made import report
from tl_scopes.render.report.parts import Entry, Report, Section, Table
from tl_scopes.results.base import Result


def view(result: Result, id: str) -> tuple[str, str]:
    """Title and HTML of the report of `result`; `id` must be unique in the document."""
    made = report(result)
    parts = made.sections
    links = "".join(f'<a href="#{id}-{part.id}">{html.escape(part.title)}</a>' for part in parts)
    body = "\n".join(_section(made, part, id) for part in parts)
    shown = (
        f"{report_style()}"
        f'<section class="tls tls-card" id="{id}">\n<header><h1>{html.escape(made.title)}</h1>'
        f"<p>{html.escape(made.subtitle)}</p></header>\n{_failed(made.warnings)}"
        f"<nav>{links}</nav>\n{body}\n</section>\n"
        f'<script type="module">\nconst root = document.getElementById("{id}");\n'
        f"{asset('faithfulness.js')}</script>"
    )
    return made.title, shown


def _failed(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    each = "".join(f"<li>{html.escape(line)}</li>" for line in lines[1:])
    return (
        f'<div class="tls-failed" role="note"><b>{html.escape(lines[0])}</b><ul>{each}</ul></div>\n'
    )


def _section(made: Report, part: Section, id: str) -> str:
    shown = "".join(f"<p>{html.escape(line)}</p>" for line in part.sentences)
    shown += "".join(written(each) for each in part.tables)
    shown += "".join(_figure(made, kind) for kind in part.figures)
    for each in part.folded:
        caption = html.escape(each.caption.capitalize())
        shown += f"<details><summary>{caption}</summary>{written(each, titled=False)}</details>"
    return f'<article id="{id}-{part.id}"><h2>{html.escape(part.title)}</h2>{shown}</article>'


def _figure(made: Report, kind: str) -> str:
    """An image, in which nothing runs and nothing is fetched, whatever a label says."""
    figure = made.draw(kind)
    return "" if figure is None else f"<figure>{svg(figure, made.alt[kind])}</figure>"


def written(table: Table, titled: bool = True, sorts: bool = True) -> str:
    """A table in HTML. `titled`: with its caption. `sorts`: with heads for the script of the report."""
    start, end = ('<button type="button">', "</button>") if sorts else ("<b>", "</b>")
    heads = "".join(
        f'<th scope="col">{start}{_unbroken(head)}'
        f"{f'<small>{html.escape(below)}</small>' if below else ''}{end}</th>"
        for head, below in table.columns
    )
    rows = "".join(
        f'<tr><th scope="row"><span>{_broken(row[0].text)}</span></th>{"".join(map(_entry, row[1:]))}</tr>'
        for row in table.rows
    )
    caption = (
        f"<caption>{html.escape(table.caption.capitalize())}</caption>"
        if titled and table.caption
        else ""
    )
    numeric = any(entry.value is not None for row in table.rows for entry in row)
    return (
        f'<div class="tls-wide"><table{"" if numeric else " class=tls-prose"}>{caption}'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _broken(label: str) -> str:
    """A long label breaks before its parameters rather than inside a word."""
    return html.escape(label).replace("(", "(<wbr>")


def _unbroken(head: str) -> str:
    """An arrow stays with the word before it."""
    return re.sub(" (?=[↑↓])", "&nbsp;", html.escape(head))


def _entry(entry: Entry) -> str:
    mark = f' class="tls-{entry.mark}"' if entry.mark else ""
    value = "" if entry.value is None else f' data-value="{float(entry.value)}"'
    below = f"<small>{html.escape(entry.below)}</small>" if entry.below else ""
    return f"<td{mark}{value}><span>{html.escape(entry.text)}{entry.sign}</span>{below}</td>"
