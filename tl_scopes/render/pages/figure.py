"""Web pages of results that one figure shows: effects of components, paths, verifications."""

from __future__ import annotations

from typing import Any

from tl_scopes.render import figure
from tl_scopes.render.figures.circuits import explained
from tl_scopes.render.pages.page import report_style, svg
from tl_scopes.results.circuits import CircuitResult


def view(result: CircuitResult, id: str, **options: Any) -> tuple[str, str]:
    """Title and HTML of `result`, drawn with the options of its figure."""
    title = f"What moves {explained(result)}"
    body = (
        f"{report_style()}"
        f'<section class="tls tls-card" id="{id}"><figure>{svg(figure(result, **options), title)}'
        "</figure></section>"
    )
    return title, body
