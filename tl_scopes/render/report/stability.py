"""The report of how stable lists of nodes or edges are, and its sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tl_scopes.render.colours import number, percent
from tl_scopes.render.report.parts import Entry, Report, Section, Table, plain, records, table
from tl_scopes.render.report.words import HOW, interval, name
from tl_scopes.render.wording import DOT, counted
from tl_scopes.results.stability import SAME, STABLE, CircuitStability

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MARKS = {"same": "pass", "stable": "pass", "differs": "fail", "not stable": "fail"}
ALT = {"stability": "How alike lists of the largest are, by their length"}
# Results with a word for each: what it is of, where there are several.
Named = list[tuple[str, CircuitStability]]


def report(result: CircuitStability) -> Report:
    def draw(kind: str) -> Figure:
        from tl_scopes.render.figures import circuit_stability

        return circuit_stability.draw(result)

    title = f"Are the top {result.k} {result.of} stable?"
    pairs = [counted(n, "pair") for n in result.pairs]
    if len(pairs) > 1:
        pairs = [f"{name(own)}: {n}" for own, n in zip(result.names, pairs)]
    facts = [name(result.provenance.model), *pairs, f"{len(result.labels)} {result.of}"]
    sections = (verdicts([("", result)]), compared([("", result)]), _members(result))
    return Report(title, DOT.join(facts), (), sections, draw, ALT)


def verdicts(stable: Named) -> Section:
    rows = []
    for label, own in stable:
        for row in records(own.verdicts()):
            whom = f"{name(row.first)}, {name(row.second)}" if row.second else name(row.first)
            whom = whom if len(own.names) > 1 else ""
            which = ", ".join(filter(None, (label, whom))) or own.of
            rows.append(
                [Entry(which), Entry(row.kind, None, _MARKS.get(row.kind, "")), Entry(row.text)]
            )
    k = stable[0][1].k
    sentences = (
        f"Lists of the {k} largest of two halves of the pairs that share none, split at random. Same: a mean "
        f"Jaccard of at least {SAME:g}; stable: at least {STABLE:g}, which is three quarters of each list; core: "
        "shorter lists are the same. Halves have half as many pairs, so lists of as many other pairs would be "
        "more alike.",
    )
    columns = ["lists", "verdict", "in words"]
    return Section("verdicts", "Is it stable?", sentences, ("stability",), (table(columns, rows),))


def compared(stable: Named) -> Section:
    rows = []
    for label, own in stable:
        for row in records(own.comparisons()):
            both = (
                [name(row.first)]
                if row.first == row.second
                else [name(row.first), name(row.second)]
            )
            what = f"{' and '.join(both)}: " if len(own.names) > 1 else ""
            which = ": ".join(filter(None, (label, f"{what}{HOW[row.how]}")))
            rows.append([
                Entry(which), Entry(f"{row.shared:.1f} of {own.k}", row.shared),
                Entry(f"{number(row.jaccard)} {interval(row.low, row.high)}", row.jaccard, "",
                      f"chance {number(row.chance)}"),
                Entry(f"{number(row.ranks)} {interval(row.ranks_low, row.ranks_high)}", row.ranks),
            ])  # fmt: skip
    sentences = (
        "Jaccard: the share of two lists that both have, of what either has. Rank agreement: Spearman's, of the "
        "magnitudes of all rows. Means over draws, with the middle 95% of the draws. Resamples share pairs, so that "
        "even lists of noise look somewhat alike.",
    )
    columns = ["lists", "shared", "Jaccard", "rank agreement"]
    return Section(
        "agreement", "How alike", sentences, (), (), (table(columns, rows, "all comparisons"),)
    )


def _members(result: CircuitStability) -> Section:
    tables = [
        largest(result.members(label), result.of, name(label) if len(result.names) > 1 else "")
        for label in result.names
    ]
    return Section("members", f"Largest {result.of}", (), (), (tables[0],), tuple(tables[1:]))


def largest(members: pd.DataFrame, of: str, caption: str) -> Table:
    signs = "sign_share" in members
    rows = [
        [
            Entry(name(row.label)), plain(row.effect), Entry(interval(row.low, row.high), row.low),
            *([Entry(percent(row.sign_share), row.sign_share)] if signs else []),
            Entry(percent(row.stays), row.stays),
        ]
        for row in records(members)
    ]  # fmt: skip
    columns = [of[:-1], "effect", "95% interval", *["same sign"] * signs, "stays"]
    return table(columns, rows, caption)
