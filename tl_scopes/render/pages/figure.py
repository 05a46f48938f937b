"""Web pages of results that one figure shows: effects of components, paths, verifications."""

from __future__ import annotations

from typing import Any

from tl_scopes.render import figure, wording
from tl_scopes.render.figures.circuits import explained
from tl_scopes.render.figures.substitutions import title
from tl_scopes.render.pages.page import report_style, svg
from tl_scopes.results.base import Result
from tl_scopes.results.circuit import Circuit
from tl_scopes.results.circuits import CircuitResult
from tl_scopes.results.faithfulness import Faithfulness
from tl_scopes.results.paired import PairedResult
from tl_scopes.results.substitutions import Substitutions


def view(result: CircuitResult, id: str, **options: Any) -> tuple[str, str]:
    """Title and HTML of `result`, drawn with the options of its figure."""
    return _drawn(f"What moves {explained(result)}", result, id, options)


def view_paired(result: PairedResult, id: str, **options: Any) -> tuple[str, str]:
    """The same of effects over pairs."""
    return _drawn(f"What moves {wording.explained(result.scope, None)}", result, id, options)


def view_circuit(result: Circuit, id: str, **options: Any) -> tuple[str, str]:
    """The same of a circuit."""
    return _drawn(f"A circuit of {len(result)} {result.of}", result, id, options)


def view_faithfulness(result: Faithfulness, id: str) -> tuple[str, str]:
    """The same of how much circuits keep."""
    return _drawn("What circuits keep", result, id, {})


def view_substitutions(result: Substitutions, id: str, **options: Any) -> tuple[str, str]:
    """The same of what other tokens would change."""
    return _drawn(title(result), result, id, options)


def _drawn(title: str, result: Result, id: str, options: dict[str, Any]) -> tuple[str, str]:
    body = (
        f"{report_style()}"
        f'<section class="tls tls-card" id="{id}"><figure>{svg(figure(result, **options), title)}'
        "</figure></section>"
    )
    return title, body
