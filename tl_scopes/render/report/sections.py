"""Sections of a report about the measurements, and the whole report in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tl_scopes.render.colours import number
from tl_scopes.render.report.checks import meanings, randomised, settings, spread, stable
from tl_scopes.render.report.parts import (
    Entry,
    Report,
    Section,
    Table,
    by_method,
    leaders,
    mean,
    records,
    table,
)
from tl_scopes.render.report.words import (
    MISSING,
    head,
    interval,
    name,
    one_line,
    probability,
    subtitle,
    title,
    warnings,
)
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.card_tables import grouped
from tl_scopes.results.metrics import AOPC, CURVES, LOO, MAIN
from tl_scopes.results.statistics import LEVEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Longer tables are folded in a page.
LONG = 15


ALT = {
    "aopc": "AOPC of each method, with intervals",
    "curves": "Faithfulness by the share of tokens, a line a method",
    "agreement": "Agreement of each method with leave-one-out, with intervals",
    "comparisons": "Differences of all pairs of methods",
    "randomisation": "Similarity by the number of blocks randomised, a line a method",
    "stability": "Stability under noise, a line a method",
    "spectrum": "Eigenvalues of the Fisher information, and the share that the first k hold",
}


def report(card: FaithfulnessCard) -> Report:
    """Sections in order; those that the card holds nothing of are left out."""
    makers: Sequence[Callable[[FaithfulnessCard], Section | None]] = (
        main, shares, agreement, compared, randomised, stable, spread, meanings, settings,
    )  # fmt: skip
    made = tuple(section for make in makers if (section := make(card)) is not None)

    def draw(kind: str) -> Figure | None:
        from tl_scopes.render.figures import card as figures

        return figures.draw(card, kind=kind) if kind in figures.kinds(card) else None

    return Report(title(card), subtitle(card), tuple(warnings(card)), made, draw, ALT)


def main(card: FaithfulnessCard) -> Section | None:
    cells = [(key, values) for key, values in grouped(card.to_frame()) if key[0] in MAIN]
    if not cells:
        return None
    marks = leaders(card)
    columns, rows = by_method(card)
    counts, short = [int(values["n"].max()) for _, values in cells], []
    for key, values in cells:
        columns.append(head(key))
        values = values.set_index("method")
        for label, row in zip(card.methods, rows):
            summary = values.loc[label] if label in values.index else None
            row.append(mean(summary, marks.get((*key[:2], label), "")))
            if summary is not None and summary["n"] < max(counts):
                short.append(f"{name(label)}, {one_line(key)} ({summary['n']:.0f})")
    tests = card.comparisons(None, [m for m in MAIN if m in {key[0] for key, _ in cells}])
    sentences = [f"Mean ± standard error over {max(counts)} prompts; arrows: which way is better."]
    if len(card.methods) > 1:
        sentences.append(
            f"★: better than every other method of its column by a paired Wilcoxon test (p < {LEVEL} "
            f"after Holm's correction over the {int(tests['p'].notna().sum())} tests between all methods in "
            "all columns). ≈: the best, and those that the test does not tell from it."
        )
        least = 2.0 ** (1 - max(counts)) * len(tests)
        if least >= LEVEL:
            sentences.append(
                f"With {max(counts)} prompts no difference can be significant among so many tests."
            )
    if short:
        more = f" and {len(short) - 8} more" if len(short) > 8 else ""
        sentences.append(f"Fewer prompts have a value of: {'; '.join(short[:8])}{more}.")
    figures = tuple(kind for kind in ("aopc",) if any(key[0] in AOPC for key, _ in cells))
    return Section("main", "Main results", tuple(sentences), figures, (table(columns, rows),))


def shares(card: FaithfulnessCard) -> Section | None:
    """By share of tokens: one table a measure and replacement."""
    means, tables, figures = card.to_frame(), [], []
    titles = {"curves": "log-probability", "kl": "divergence", "flip": "top prediction"}
    for kind, names in CURVES.items():
        drawn = means.loc[means["metric"].isin(names)]
        if len(drawn):
            figures.append(kind)
        for replacement, part in drawn.groupby("replacement", sort=False):
            columns, rows = by_method(card)
            for key, cell in grouped(part):
                columns.append((head((key[0], "", key[2]))[0], f"{100 * key[2]:g}%"))
                cell = cell.set_index("method")
                for label, row in zip(card.methods, rows):
                    row.append(mean(cell.loc[label] if label in cell.index else None))
            tables.append(
                table(columns, rows, f"{titles[kind]}, replaced by {name(str(replacement))}")
            )
    if not tables:
        return None
    sentences = (
        "Mean ± standard error over prompts, by the share of tokens that are replaced (comprehensiveness) "
        "or kept (sufficiency).",
    )
    return Section("shares", "By share of tokens", sentences, tuple(figures[:1]), (), tuple(tables))


def agreement(card: FaithfulnessCard) -> Section | None:
    if not set(LOO) & set(card.rows["metric"]):
        return None
    sentences = (
        "Numbers are those of the main table; intervals are 95% bootstrap intervals of the mean.",
    )
    return Section("agreement", "Agreement with leave-one-out", sentences, ("agreement",))


def compared(card: FaithfulnessCard) -> Section | None:
    tests = card.comparisons()
    if tests.empty:
        return None
    pairs = _pairs(card, None)
    many = len(pairs.rows) > LONG
    tables = [_pairs(card, card.reference)] if card.reference is not None else []
    tables += [] if many or card.reference is not None else [pairs]
    sentences = (
        "Mean of the paired differences with its 95% bootstrap interval, over the prompts that both have; p: "
        "Wilcoxon's signed-rank test, two-sided, after Holm's correction over all tests of its table.",
        *dict.fromkeys(f"Note: {note}." for note in tests["note"] if note),
    )
    folded = (pairs,) if pairs not in tables else ()
    return Section("tests", "Paired tests", sentences, ("comparisons",), tuple(tables), folded)


def _pairs(card: FaithfulnessCard, reference: str | None) -> Table:
    tests = card.comparisons(reference)
    n = int(tests["p"].notna().sum())
    columns: list[str | tuple[str, str]] = (
        ["method"] if reference is not None else ["method", "against"]
    )
    lines: dict[tuple[str, str], list[Entry]] = {}
    for pair in zip(tests["method"], tests["reference"]):
        lines.setdefault(pair, [Entry(name(label)) for label in pair[: len(columns)]])
    for key, differences in grouped(tests):
        columns.append(head(key))
        each = {(row.method, row.reference): row for row in records(differences)}
        for pair, row in lines.items():
            row.append(_difference(each.get(pair)))
    against = f"against {name(reference)}" if reference is not None else "every pair"
    return table(columns, list(lines.values()), f"{against} ({n} tests)")


def _difference(row: Any) -> Entry:
    if row is None or math.isnan(row.difference):
        return Entry(MISSING)
    won = row.better == row.method
    verdict = "" if not row.better else ", better" if won else ", worse"
    text = f"{number(row.difference)} {interval(row.low, row.high)}"
    mark = "" if not row.better else "pass" if won else "fail"
    return Entry(text, row.difference, mark, probability(row.p_holm) + verdict)
