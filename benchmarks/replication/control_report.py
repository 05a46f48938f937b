"""CONTROL.md: which of the claims are about content. Everything in it is computed from the runs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.replication import claims_ablation, claims_checks, leads, report, tables
from benchmarks.replication.cells import Cell
from benchmarks.replication.control import DRAWS, SPARED, Measured, Shares
from benchmarks.replication.leads import CHANGES, CONTENT, PLACE, REVERSED, Lead
from benchmarks.replication.paired import AGAINST, FOR, Claim, Evidence, verdict
from tl_scopes.results.files import write_text

NAME, NUMBERS = "CONTROL.md", "control.csv"
_MAKERS = (*claims_ablation.CLAIMS, *claims_checks.CLAIMS)
# Neither of ablation nor of agreement: of random weights.
_APART = {i for i, make in enumerate(_MAKERS, 1) if make in claims_checks.OF_WEIGHTS}
# How a claim is read: in the report's words, and under which settings of `Measured.seen`.
_WAYS = {
    "published way": (False, False),
    "in content": (True, False),
    "likely tokens": (False, True),
    "likely tokens, in content": (True, True),
}
Claims = dict[int, Claim]


@dataclass(frozen=True)
class _Found:
    """Claims by way of reading and number; leads, with zero and with likely tokens; what rules change."""

    judged: dict[str, Claims]
    held: dict[bool, list[Lead]]
    ruled: list[Lead]
    agreement: list[Evidence]


def write(measured: Sequence[Measured], folder: Path, command: str, asked: Shares) -> Path:
    """The report and `control.csv` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = _Found(
        {way: _claims([m.seen(*how) for m in measured]) for way, how in _WAYS.items()},
        {likely: leads.of_methods(measured, likely) for likely in (False, True)},
        leads.of_rules(measured),
        leads.agreement_of_rules(measured),
    )
    write_text(folder / NUMBERS, _numbers(found))
    before = _before(folder / "evidence.csv", found.judged["published way"])
    path = folder / NAME
    write_text(path, _text(measured, found, before, command, asked))
    return path


def _claims(cells: Sequence[Cell]) -> Claims:
    return {i: make(cells) for i, make in enumerate(_MAKERS, 1) if i not in _APART}


def _text(
    measured: Sequence[Measured],
    found: _Found,
    before: dict[int, str],
    command: str,
    asked: Shares,
) -> str:
    def cells(way: str) -> list[Cell]:
        return [m.seen(*_WAYS[way]) for m in measured]

    likely = measured[0].counts["likely"]
    parts = [
        "# Leads in content, and leads in place",
        f"Made by `{command}`, text and all: change the code, not this file. The same command goes on where it was "
        "stopped.",
        "AOPC rewards methods that favour late tokens, which matter much whatever they say. Here the claims of "
        "[the replication](REPLICATION.md) are judged again on the same passages without that: the last "
        f"{SPARED} tokens up to the read position are spared, and AOPC is the gain over a ranking that the same method "
        "made of another passage, whose tokens stand at the same places. Leave-one-out spares these tokens too. What "
        "stays of a lead is one **in content**; what goes is one in place.",
        _counted(measured, asked),
        "## Claims",
        _claim_rows(found.judged, before),
        _said(found.judged),
        "## Leads",
        "Mean paired differences over the passages of all cells, 95% bootstrap intervals, Holm's correction over the "
        "rows of a column. A passage is one number, the mean over the models. A lead is in content where it is "
        "significant under the control, the other way where its reverse is; in place where it is significant as "
        "published, not under the control, and the control takes a significant part of it; else open. Bold: p < 0.05. "
        "With tokens spared there is less to lose: compare signs rather than sizes.",
        "**Tokens replaced by zero**",
        _lead_rows(found.held[False]),
        _kinds(found.held[False]),
    ]
    if likely:
        parts += [
            "**Tokens replaced by likely ones** (drawn from the model's own prediction, seeded; draws: "
            f"{DRAWS})",
            _lead_rows(found.held[True]),
            _kinds(found.held[True]),
        ]
    parts += [
        "## The main table",
        "AOPC, nats × share of tokens: mean ± standard error over passages; bold: the highest mean.",
    ]
    for way in list(_WAYS)[: 4 if likely else 2]:
        parts += [f"**{way[0].upper()}{way[1:]}**", tables.plain_ablation(cells(way))]
    spared = tables.plain_ablation([m.spared() for m in measured])
    parts += [f"**As published, but with the last {SPARED} tokens spared**", spared]
    if measured[0].counts["rules"]:
        parts += [
            "## Gradient rules, and scores over likely tokens",
            'Each rule of `tl_scopes.rules` alone, GIM (all of them together), and `measure="tokens"`, against the '
            "plain scope: AOPC with zero, as published and in content, and Spearman's correlation with leave-one-out, "
            "the last tokens spared.",
            _rule_rows(found.ruled, found.agreement),
            _rule_kinds(found.ruled, found.agreement),
        ]
    parts += [
        "## How it was made",
        *report.made([m.cell for m in measured], None),
    ]
    return "\n\n".join(parts) + "\n"


def _counted(measured: Sequence[Measured], asked: Shares) -> str:
    counts = measured[0].counts
    words = {
        "main": ("the main table", asked.control),
        "likely": ("PAD and likely tokens", asked.likely),
        "rules": ("gradient rules and leave-one-out", asked.rules),
        "ranks": ("higher ranks", asked.ranks),
    }
    told = [f"{what} {counts[part]} of {n}" for part, (what, n) in words.items()]
    return (
        f"Cells: {'; '.join(m.cell.name for m in measured)}. Passages measured of those asked for, in each cell: "
        f"{', '.join(told)}. Few passages decide little: what is not decided, or open, is not refuted."
    )


def _claim_rows(judged: dict[str, Claims], before: dict[int, str]) -> str:
    heads = ["claim", *(["REPLICATION.md"] if before else []), *judged]
    rows = []
    for i, claim in judged["published way"].items():
        row = [f"{i}. {claim.text}", *([before.get(i, "")] if before else [])]
        for claims in judged.values():
            own = claims[i]
            row.append(
                f"**{own.verdict}** ({tables.counted(own)})"
                if _is_measured(own)
                else "not measured"
            )
        rows.append(row)
    return tables.table(heads, rows).replace("---:", "---")


def _is_measured(claim: Claim) -> bool:
    return any(e.n for e in claim.evidence)


def _said(judged: dict[str, Claims]) -> str:
    plain, content = judged["published way"], judged["in content"]
    known = [i for i, claim in content.items() if _is_measured(claim)]
    held = [i for i in known if plain[i].verdict == "holds"]
    kept = [i for i in held if content[i].verdict == "holds"]
    lost = [i for i in held if content[i].verdict == "does not hold"]
    rest = [i for i in held if i not in (*kept, *lost)]
    return (
        f"Rules and wording are those of the replication. Of the claims that hold on these passages as published "
        f"({_listed(held)}), these hold in content too: {_listed(kept)}; these do not: {_listed(lost)}; these are not "
        f"decided any more: {_listed(rest)}. Claims {_listed(sorted(_APART))} are about random weights, neither about "
        "ablation nor about agreement: the control cannot change them, and they are not repeated. With likely "
        "tokens only claims about zero ablation can be read, since likely tokens stand in its place."
    )


def _listed(numbers: Sequence[object]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _lead_rows(own: Sequence[Lead]) -> str:
    rows = [
        [each.what, tables.difference(each.plain), tables.difference(each.content),
         str(each.content.n), each.kind]
        for each in own
    ]  # fmt: skip
    return tables.table(["lead", "published way", "in content", "passages", "where it is"], rows)


def _kinds(own: Sequence[Lead]) -> str:
    def those(kind: str) -> str:
        return "; ".join(each.what for each in own if each.kind == kind) or "none"

    return (
        f"Leads in content: {those(CONTENT)}. In place, as far as can be told: {those(PLACE)}. The other way in "
        f"content: {those(REVERSED)}. The rest is open."
    )


def _rule_rows(ruled: Sequence[Lead], agreement: Sequence[Evidence]) -> str:
    rows = [
        [f"{scope}: {change}", tables.difference(each.plain), tables.difference(each.content),
         tables.difference(alike), str(each.content.n), each.kind]
        for (scope, change), each, alike in zip(CHANGES.values(), ruled, agreement)
    ]  # fmt: skip
    heads = ["", "AOPC", "AOPC in content", "leave-one-out", "passages", "where the gain is"]
    return tables.table(heads, rows)


def _rule_kinds(ruled: Sequence[Lead], agreement: Sequence[Evidence]) -> str:
    named = [f"{change} ({scope})" for scope, change in CHANGES.values()]

    def those(chosen: Callable[[Lead, Evidence], bool]) -> str:
        return ", ".join(n for n, a, e in zip(named, ruled, agreement) if chosen(a, e)) or "none"

    return (
        f"Raise AOPC as published: {those(lambda a, _: a.plain.outcome == FOR)}. Of these in content: "
        f"{those(lambda a, _: a.plain.outcome == FOR and a.kind == CONTENT)}; only in place, as far as can be told: "
        f"{those(lambda a, _: a.kind == PLACE)}. Lower it as published: "
        f"{those(lambda a, _: a.plain.outcome == AGAINST)}; in content: "
        f"{those(lambda a, _: a.kind == REVERSED)}. Agree better with leave-one-out: "
        f"{those(lambda _, e: e.outcome == FOR)}; worse: {those(lambda _, e: e.outcome == AGAINST)}. "
        "What is named nowhere here showed no difference that these passages can tell."
    )


def _before(path: Path, claims: Claims) -> dict[int, str]:
    """The verdicts that the replication's own `evidence.csv` beside the report gives, with its passages."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    found = {}
    for i, claim in claims.items():
        own = [row for row in listed if int(row["claim"]) == i]
        outcomes = [Evidence("", "", 0, 0, 0, int(row["n"]), outcome=row["outcome"]) for row in own]
        most = max((e.n for e in outcomes), default=0)
        found[i] = f"**{verdict(outcomes, claim.need)}** (up to {most} passages a cell)"
    return found


def _numbers(found: _Found) -> str:
    """Every number that a verdict rests on, as CSV."""
    rows = [
        {"of": f"claim {i}", "way": way, **asdict(e)}
        for way, claims in found.judged.items()
        for i, claim in claims.items()
        for e in claim.evidence
    ]
    for of, own, ways in (
        ("lead", found.held[False], ("published way", "in content")),
        ("lead", found.held[True], ("likely tokens", "likely tokens, in content")),
        ("rule", found.ruled, ("published way", "in content")),
    ):
        for way, side in zip((*ways, "what the control takes"), ("plain", "content", "taken")):
            rows += [{"of": of, "way": way, **asdict(getattr(each, side))} for each in own]
    rows += [{"of": "rule", "way": "leave-one-out", **asdict(e)} for e in found.agreement]
    return report.as_csv([row for row in rows if row["n"]])
