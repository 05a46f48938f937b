"""What a check found, as a web page or a notebook output that fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

from tl_scopes.checking.finding import Finding, ModelCheck
from tl_scopes.checking.table import COST_HEADS, MARKS, cells
from tl_scopes.escapes import message
from tl_scopes.files import write_text
from tl_scopes.render.page import asset, document, style, themed

_CLASSES = {"passed": "tls-pass", "failed": "tls-fail"}


def page(check: ModelCheck, path: str | Path | None = None) -> str:
    """A whole document, written to `path` if given."""
    text = document(f"Check of {message(check.subject)}", fragment(check))
    if path is not None:
        write_text(path, text)
    return text


def fragment(check: ModelCheck) -> str:
    """The part of a document that shows it."""
    heads = ("Check", "State", "Measured", "Allowed")
    parts = [_table(heads, map(_row, check.findings), prose=True)]
    if check.costs:
        each = (f"<tr>{_cells(cells(cost))}</tr>" for cost in check.costs)
        parts += ["<h2>What a call takes</h2>", _table(COST_HEADS, each, prose=False)]
    if check.room:
        parts.append(f"<p>{_shown(check.room)}.</p>")
    made = check.provenance
    versions = {} if made is None else {**made.versions}
    facts = ", ".join(f"{k} {v}" for k, v in {**versions, **check.machine}.items())
    return (
        f"<style>{style()}\n{asset('faithfulness.css')}{themed('faithfulness_dark.css')}</style>\n"
        f'<section class="tls tls-card"><header><h1>{_shown(check.subject)}</h1>'
        f"<p>{_shown(check.verdict)}</p></header>\n{''.join(parts)}\n"
        f"<footer>{_shown(facts)}</footer></section>"
    )


def _table(heads: Iterable[str], rows: Iterable[str], prose: bool) -> str:
    top = "".join(f'<th scope="col"><b>{html.escape(head)}</b></th>' for head in heads)
    kind = " class=tls-prose" if prose else ""
    return (
        f'<div class="tls-wide"><table{kind}><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(found: Finding) -> str:
    mark = _CLASSES.get(found.state, "")
    below = f"<small>→ {_shown(found.remedy)}</small>" if found.remedy else ""
    return (
        f'<tr><th scope="row"><span>{_shown(found.name)}</span></th>'
        f'<td class="{mark}">{MARKS[found.state]} {found.state}</td>'
        f"<td>{_shown(found.measured)}{below}</td><td>{_shown(found.allowed)}</td></tr>"
    )


def _cells(texts: tuple[str, ...]) -> str:
    first, *others = (_shown(text) for text in texts)
    return f'<th scope="row"><span>{first}</span></th>' + "".join(f"<td>{x}</td>" for x in others)


def _shown(text: str) -> str:
    return html.escape(message(text))
