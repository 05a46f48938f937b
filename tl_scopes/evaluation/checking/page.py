"""What a check found, as a web page or a notebook output that fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Iterable

from tl_scopes.evaluation.checking.finding import Finding, ModelCheck
from tl_scopes.evaluation.checking.table import COST_HEADS, MARKS, cells
from tl_scopes.render.pages.page import report_style
from tl_scopes.results.escapes import message

_CLASSES = {"passed": "tls-pass", "failed": "tls-fail"}


def view(check: ModelCheck, id: str) -> tuple[str, str]:
    """Title and HTML of `check`."""
    return f"Check of {message(check.subject)}", _fragment(check, id)


def _fragment(check: ModelCheck, id: str) -> str:
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
        f"{report_style()}"
        f'<section class="tls tls-card" id="{id}"><header><h1>{_shown(check.subject)}</h1>'
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
