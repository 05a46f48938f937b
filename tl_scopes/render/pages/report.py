"""The report as a web page, whole or as one notebook output."""

from __future__ import annotations

import html
import re

from tl_scopes.render.figures import card as figures
from tl_scopes.render.pages.page import asset, report_style, svg
from tl_scopes.render.report import sections
from tl_scopes.render.report.parts import Entry, Section, Table
from tl_scopes.render.report.words import subtitle, title, warnings
from tl_scopes.results.card import FaithfulnessCard

ALT = {
    "aopc": "AOPC of each method, with intervals",
    "curves": "Faithfulness by the share of tokens, a line a method",
    "agreement": "Agreement of each method with leave-one-out, with intervals",
    "comparisons": "Differences of all pairs of methods",
    "randomisation": "Similarity by the number of blocks randomised, a line a method",
    "stability": "Stability under noise, a line a method",
    "spectrum": "Eigenvalues of the Fisher information, and the share that the first k hold",
}


def view(card: FaithfulnessCard, id: str) -> tuple[str, str]:
    """Title and HTML of the report of `card`; `id` must be unique in the document."""
    drawn = set(figures.kinds(card))
    parts = sections.sections(card)
    links = "".join(f'<a href="#{id}-{part.id}">{html.escape(part.title)}</a>' for part in parts)
    body = "\n".join(_section(card, part, id, drawn) for part in parts)
    shown = (
        f"{report_style()}"
        f'<section class="tls tls-card" id="{id}">\n<header><h1>{html.escape(title(card))}</h1>'
        f"<p>{html.escape(subtitle(card))}</p></header>\n{_failed(warnings(card))}"
        f"<nav>{links}</nav>\n{body}\n</section>\n"
        f'<script type="module">\nconst root = document.getElementById("{id}");\n'
        f"{asset('faithfulness.js')}</script>"
    )
    return title(card), shown


def _failed(lines: list[str]) -> str:
    if not lines:
        return ""
    each = "".join(f"<li>{html.escape(line)}</li>" for line in lines[1:])
    return (
        f'<div class="tls-failed" role="note"><b>{html.escape(lines[0])}</b><ul>{each}</ul></div>\n'
    )


def _section(card: FaithfulnessCard, part: Section, id: str, drawn: set[str]) -> str:
    shown = "".join(f"<p>{html.escape(line)}</p>" for line in part.sentences)
    shown += "".join(written(each) for each in part.tables)
    shown += "".join(_figure(card, kind) for kind in part.figures if kind in drawn)
    for each in part.folded:
        caption = html.escape(each.caption.capitalize())
        shown += f"<details><summary>{caption}</summary>{written(each, titled=False)}</details>"
    return f'<article id="{id}-{part.id}"><h2>{html.escape(part.title)}</h2>{shown}</article>'


def _figure(card: FaithfulnessCard, kind: str) -> str:
    """An image, in which nothing runs and nothing is fetched, whatever a label says."""
    return f"<figure>{svg(figures.draw(card, kind=kind), ALT[kind])}</figure>"


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
