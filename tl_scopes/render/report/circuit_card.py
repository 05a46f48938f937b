"""The report of a circuit card."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tl_scopes.render import wording
from tl_scopes.render.colours import number, percent
from tl_scopes.render.report import stability
from tl_scopes.render.report.checks import settings
from tl_scopes.render.report.parts import Entry, Report, Section, records, table
from tl_scopes.render.report.stability import compared, largest, verdicts
from tl_scopes.render.report.words import MISSING, interval, name, plus_minus
from tl_scopes.render.wording import DOT, counted
from tl_scopes.results.circuit_card import CircuitCard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sizes that a table names, of those that were judged.
_TOLD = 4
# Share of pairs that a metric must tell apart before circuits are worth a look.
_DONE = 0.75
ALT = {
    "faithfulness": "What circuits keep by their size, a line a scope, beside random ones",
    "nodes": "The largest nodes, with intervals",
    "edges": "The largest edges, with intervals",
    **stability.ALT,
}


def report(card: CircuitCard) -> Report:
    found, judged = len(card.nodes[0].clean), len(card.node_curves[0].clean)
    apart = f"judged on {judged} others" if card.judged_apart else "judged on the same"
    facts = [counted(found, "pair"), apart, counted(len(card.names), "scope")]
    facts += [counted(len(card.paraphrases), "paraphrase")] if card.paraphrases else []
    title = (
        f"Circuits of {name(card.provenance.model)}: {wording.explained(card.nodes[0].scope, None)}"
    )
    stable = [
        (f"{of} by {name(label)}" if len(card.names) > 1 else of, card.stability(of, label))
        for label in card.names
        for of in ("nodes", "edges")
    ]
    sections = (
        _metrics(card), _kept(card), _members(card, "nodes"), _members(card, "edges"),
        verdicts(stable), compared(stable), settings(card),
    )  # fmt: skip

    def draw(kind: str) -> Figure:
        from tl_scopes.render.figures import circuit_card

        return circuit_card.draw(card, kind=kind)

    return Report(title, DOT.join(facts), _warnings(card), sections, draw, ALT)


def _warnings(card: CircuitCard) -> tuple[str, ...]:
    lines = []
    if not card.judged_apart:
        lines.append(
            "circuits are judged on the pairs that they were found on, which flatters them"
        )
    lines += [
        f"the metric tells clean from corrupted in only {percent(row.apart)} of the pairs ({_set(row.set)}): "
        "circuits explain little of a task that the model does not do"
        for row in records(card.metrics())
        if row.apart < _DONE
    ]
    return ("Before you read on:", *lines) if lines else ()


def _metrics(card: CircuitCard) -> Section:
    rows = [
        [
            Entry(_set(row.set)), Entry(str(row.pairs), row.pairs),
            Entry(plus_minus(row.clean, row.clean_error), row.clean),
            Entry(plus_minus(row.corrupted, row.corrupted_error), row.corrupted),
            Entry(percent(row.apart), row.apart), Entry(percent(row.above_zero), row.above_zero),
        ]
        for row in records(card.metrics())
    ]  # fmt: skip
    columns = [
        "pairs", "number", ("metric", "clean"), ("metric", "corrupted"), "told apart",
        "clean above 0",
    ]  # fmt: skip
    scope = card.nodes[0].scope
    by = f" ({wording.method(scope)})" if scope.parameters else ""
    sentences = (
        f"The metric is {wording.explained(scope, None)}{by}, in its own units; mean ± standard error over pairs. Told "
        "apart: the share of pairs in which it is higher on the clean prompt (lower, of a squared change from "
        "that). Of a difference of two logits, the share of clean prompts above 0 is the model's accuracy.",
    )
    return Section("main", "What the model does", sentences, (), (table(columns, rows),))


def _kept(card: CircuitCard) -> Section:
    rows, frame = [], card.to_frame()
    for row in records(frame):
        curve = card.curve(row.of, row.scope)
        own = [Entry(f"{row.of} by {name(row.scope)}")]
        for what in ("cpr", "cmd"):
            value, random = getattr(row, what), getattr(row, f"{what}_random")
            low, high = getattr(row, f"{what}_low"), getattr(row, f"{what}_high")
            beside = MISSING if math.isnan(random) else number(random)
            own.append(
                Entry(f"{number(value)} {interval(low, high)}", value, "", f"random {beside}")
            )
        for i in _chosen(len(curve.sizes)):
            size = f"{curve.sizes[i]} of {curve.candidates}"
            own.append(Entry(number(float(curve.f[i])), float(curve.f[i]), "", size))
        rows.append(own)
    n = len(card.node_curves[0].sizes)
    shares = [
        {percent(c.shares[i]) for c in (*card.node_curves, *card.edge_curves)} for i in range(n)
    ]
    sizes = [
        ("f", shares[i].copy().pop() if len(shares[i]) == 1 else f"size {i + 1} of {n}")
        for i in _chosen(n)
    ]
    sentences = (
        "f is the share of the metric's change from corrupted to clean that a circuit of so many keeps when all "
        "else is taken from the corrupted prompt. CPR: the area under f over the share that is kept (more is "
        "better); CMD: the area between f and 1 (less is better). 95% bootstrap intervals over pairs.",
    )
    columns = ["circuits", "CPR ↑", "CMD ↓", *sizes]
    return Section(
        "kept", "What circuits keep", sentences, ("faithfulness",), (table(columns, rows),)
    )


def _chosen(count: int) -> list[int]:
    """Of sizes, smallest first: a few, evenly, with both ends."""
    return sorted({round(i * (count - 1) / (_TOLD - 1)) for i in range(_TOLD)})


def _members(card: CircuitCard, of: Any) -> Section:
    tables = []
    for label in card.names:
        caption = f"by {name(label)}" if len(card.names) > 1 else ""
        tables.append(largest(card.members(of, label), of, caption))
    first = card.stability(of)
    sentences = (
        f"The {first.k} largest of {len(first.labels)} {of} by the magnitude of the mean first-order effect on "
        "the scope's scalar (of the clean write less the corrupted one), with 95% bootstrap intervals over pairs. "
        f"Stays: the share of resamples in which one is among the {first.k} largest.",
    )
    return Section(of, f"Largest {of}", sentences, (of,), (tables[0],), tuple(tables[1:]))


def _set(label: str) -> str:
    return label if label in ("found on", "judged on") else name(label)
