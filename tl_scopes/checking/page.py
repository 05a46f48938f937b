"""What a check found, as a web page or a notebook output that fetches nothing."""

from __future__ import annotations

import html

from tl_scopes.checking.finding import Finding, ModelCheck
from tl_scopes.checking.table import COST_HEADS, MARKS, cells
from tl_scopes.render.pages.page import report_style
from tl_scopes.render.pages.report import written
from tl_scopes.render.report.parts import Entry, table
from tl_scopes.results.escapes import message

_HEADS = ("Check", "State", "Measured", "Allowed")
_MARKED = {"passed": "pass", "failed": "fail"}


def view(check: ModelCheck, id: str) -> tuple[str, str]:
    """Title and HTML of `check`."""
    return f"Check of {message(check.subject)}", _fragment(check, id)


def _fragment(check: ModelCheck, id: str) -> str:
    findings = table(_HEADS, [_row(each) for each in check.findings])
    parts = [written(findings, sorts=False)]
    if check.costs:
        costs = table(COST_HEADS, [cells(cost) for cost in check.costs])
        parts += ["<h2>What a call takes</h2>", written(costs, sorts=False)]
    if check.room:
        parts.append(f"<p>{_shown(check.room)}.</p>")
    versions = {} if check.provenance is None else {**check.provenance.versions}
    facts = ", ".join(f"{k} {v}" for k, v in {**versions, **check.machine}.items())
    return (
        f"{report_style()}"
        f'<section class="tls tls-card" id="{id}"><header><h1>{_shown(check.subject)}</h1>'
        f"<p>{_shown(check.verdict)}</p></header>\n{''.join(parts)}\n"
        f"<footer>{_shown(facts)}</footer></section>"
    )


def _row(finding: Finding) -> list[Entry]:
    state = Entry(f"{MARKS[finding.state]} {finding.state}", mark=_MARKED.get(finding.state, ""))
    remedy = f"→ {message(finding.remedy)}" if finding.remedy else ""
    measured = Entry(message(finding.measured), below=remedy)
    return [Entry(message(finding.name)), state, measured, Entry(message(finding.allowed))]


def _shown(text: str) -> str:
    return html.escape(message(text))
