"""Which report a result has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tl_scopes.render.report import circuit_card, sections, stability
from tl_scopes.render.report.parts import Report
from tl_scopes.results.base import Result
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.circuit_card import CircuitCard
from tl_scopes.results.stability import CircuitStability

_MAKERS: dict[type, Callable[[Any], Report]] = {
    FaithfulnessCard: sections.report,
    CircuitCard: circuit_card.report,
    CircuitStability: stability.report,
}


def report(result: Result) -> Report:
    return _MAKERS[type(result)](result)
