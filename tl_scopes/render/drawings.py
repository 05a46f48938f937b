"""Which drawing a result has, and the options that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from tl_scopes.errors import RenderError
from tl_scopes.render.answer import Answer, lay_out, speaks
from tl_scopes.render.others import beside
from tl_scopes.render.picture import Picture, build
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.circuit import Circuit
from tl_scopes.results.circuit_card import CircuitCard
from tl_scopes.results.circuits import CircuitResult, Components, Verification
from tl_scopes.results.faithfulness import Faithfulness
from tl_scopes.results.flows import Flow, FlowPath, HeadPaths
from tl_scopes.results.paired import PairedResult
from tl_scopes.results.stability import CircuitStability
from tl_scopes.results.substitutions import Substitutions

# What draws each kind of result: a function in a module below this package, or anywhere, by its whole
# name. An attribution is laid out as a `Picture` first, which is what its drawings take; on a page, one of
# several reads, of a continuation or of a conversation as an `Answer`.
FIGURES: dict[type, str] = {
    Picture: "figures.tokens:draw",
    Components: "figures.heads:draw_components",
    HeadPaths: "figures.heads:draw_head_paths",
    Flow: "figures.flow:draw_flow",
    FlowPath: "figures.flow_path:draw_flow_path",
    Verification: "figures.verification:draw_verification",
    Substitutions: "figures.substitutions:draw_substitutions",
    PairedResult: "figures.paired:draw_paired",
    Circuit: "figures.circuit_graph:draw_circuit",
    Faithfulness: "figures.faithfulness_curve:draw_faithfulness",
    FaithfulnessCard: "figures.card:draw",
    CircuitCard: "figures.circuit_card:draw",
    CircuitStability: "figures.circuit_stability:draw",
}
# Given the result and an id that is unique in the document: the title in plain text, and the HTML.
PAGES: dict[type, str] = {
    Picture: "pages.page:view",
    Answer: "pages.answer:view",
    Flow: "pages.flows:view",
    HeadPaths: "pages.flows:view",
    CircuitResult: "pages.figure:view",
    Substitutions: "pages.figure:view_substitutions",
    PairedResult: "pages.figure:view_paired",
    Circuit: "pages.figure:view_circuit",
    Faithfulness: "pages.figure:view_faithfulness",
    FaithfulnessCard: "pages.report:view",
    CircuitCard: "pages.report:view",
    CircuitStability: "pages.report:view",
}
TERMINALS: dict[type, str] = {
    Picture: "console:show",
    CircuitResult: "console:show_table",
    Substitutions: "console:show_substitutions",
    PairedResult: "console:show_paired",
    Circuit: "console:show_circuit",
    Faithfulness: "console:show_faithfulness",
    FaithfulnessCard: "report.markdown:show",
    CircuitCard: "report.markdown:show",
    CircuitStability: "report.markdown:show",
}


def drawing(
    drawings: dict[type, str], result: Any, options: Mapping[str, Any]
) -> Callable[..., Any]:
    """The function that draws `result`, with the result and its options in it. Raises `RenderError`."""
    subject = result
    if isinstance(result, (Attribution, SequenceAttribution)):
        layout: Callable[..., Any] = lay_out if Answer in drawings and speaks(result) else build
        own = drawings is PAGES and isinstance(result, Attribution)
        others = options.get("substitutions") if own else None
        kept = {k: v for k, v in options.items() if not own or k != "substitutions"}
        subject, options = layout(result, **_given(build, result, kept).keywords), {}
        if others is not None and isinstance(result, Attribution):
            subject = beside(subject, result, others)
    for kind in type(subject).__mro__:
        if kind in drawings:
            module, name = drawings[kind].split(":")
            whole = module if module.startswith("tl_scopes.") else f"{__package__}.{module}"
            draw = getattr(import_module(whole), name)
            return _given(draw, subject, options)
    names = sorted(kind.__name__ for kind in drawings if kind not in (Picture, Answer))
    raise RenderError(
        f"got a {type(result).__name__}; only a result of this package can be drawn (Attribution, "
        f"SequenceAttribution, {', '.join(names)}): pass what tl_scopes.attribute or another call returned"
    )


def _given(draw: Callable[..., Any], result: Any, options: Mapping[str, Any]) -> partial[Any]:
    parameters = inspect.signature(draw).parameters.values()
    allowed = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    handed_on = any(each.kind is each.VAR_KEYWORD for each in parameters)
    unknown = [name for name in options if name not in allowed and not handed_on]
    if unknown:
        kind = type(result).__name__
        article = "an" if kind[0] in "AEIOU" else "a"
        takes = f"it takes {', '.join(allowed)}: pass some of these" if allowed else "leave it out"
        raise RenderError(
            f"{unknown[0]}={options[unknown[0]]!r} is no option for {article} {kind}; {takes}"
        )
    return partial(draw, result, **options)
