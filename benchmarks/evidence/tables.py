"""The report's tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.evidence.measured import ELSEWHERE, LAST, RANDOM, RAREST, SHORTEST, WORD
from benchmarks.evidence.ranks import BETTER, CHANCE, WORSE, Ranks, Tested
from benchmarks.replication.tables import table
from tl_scopes.render.report.words import probability
from tl_scopes.results.joining import HOW
from tl_scopes.results.statistics import LEVEL, Summary, summary

if TYPE_CHECKING:
    from benchmarks.evidence.verdicts import Tests

# By paradigm of BLiMP: how the tables call it, and a sentence of our own.
SHORT = {
    "determiner_noun_agreement_with_adj_2": ("determiner", "Nina photographs **these** beautiful | birds"),
    "determiner_noun_agreement_with_adj_irregular_2": (
        "determiner, irregular", "Nobody invited **those** rude | men"
    ),
    "only_npi_licensor_present": ("only", "**Only** my sister | ever"),
    "superlative_quantifiers_2": ("superlative", "**The** baker has sold at | least"),
    "expletive_it_object_raising": ("expletive it", "Helen **found** it to be | obvious"),
    "distractor_agreement_relational_noun": ("distractor", "The **sisters** of the mayor | are"),
    "anaphor_gender_agreement": ("gender", "**Susan** has hidden | herself"),
    "anaphor_number_agreement": ("number", "The **pilots** had surprised | themselves"),
}  # fmt: skip
SAMPLES = "\n".join(f"- {name}: {sample.replace(' |', ' ...')}" for name, sample in SHORT.values())
_DEPTHS = (0, 0.25, 0.5, 0.75)


def short(paradigm: str) -> str:
    return SHORT.get(paradigm, (paradigm, ""))[0]


def of_model(own: Ranks, tested: Tests) -> Iterable[str]:
    right = summary(own.right.astype(float))
    yield (
        f"{len(own.rows)} items; the model gets {right.mean:.0%} ({right.low:.0%} to {right.high:.0%}) of the pairs "
        f"right. The good word is one token in {np.mean([r['tokens'] == 1 for r in own.rows]):.0%}.\n"
    )
    yield "**Mean rank, by paradigm**\n"
    yield by_paradigm(own, tested)
    yield "\n**Over all paradigms**\n"
    yield _overall(own, tested)
    yield "\n**By joining** (in bold: the one that is exact)\n"
    yield _joinings(own)
    yield "\n**Where the model gets the pair right, and where not; and by effect**\n"
    yield _conditions(own, tested)
    yield (
        "\np: of Mann-Whitney's test of both sides, each rank less the mean of its paradigm. Correlation: Spearman's, "
        "of the effect and the rank, both within their paradigm; below zero where the word comes sooner when it "
        "matters more. Both p after Holm's correction.\n"
    )
    yield "**At every layer**\n"
    yield _layers(own, tested)
    yield (
        "\nShares are of the model's depth, at the residual stream before the block there. The deeper site is the best "
        "on every second item, judged on the others, paired with the embedding, and with what the "
        "same site says of another word: below zero the deciding word comes sooner."
    )


def by_paradigm(own: Ranks, tested: Tests, names: Iterable[str] | None = None) -> str:
    heads = ["", *map(short, own.listed), "all"]
    rows = []
    for name in names or own.names:
        cells = [tested.chance[own.model, name, p] for p in (*own.listed, "")]
        rows.append([name, *map(_marked, cells)])
    counts = [int(own.within(p).sum()) for p in own.listed]
    return table(heads, [*rows, ["items", *map(str, counts), str(sum(counts))]])


def _overall(own: Ranks, tested: Tests) -> str:
    first, reciprocal = own.chances()
    heads = [
        "",
        "items",
        "first",
        "MRR",
        f"less {LAST}",
        f"less {RAREST}",
        f"less {SHORTEST}",
        f"less {ELSEWHERE}",
    ]
    rows = []
    for name in own.names:
        count = int(np.isfinite(own.normal(name)).sum())
        row = [
            name,
            str(count),
            _share(summary(own.first(name))),
            f"{summary(own.reciprocal(name)).mean:.2f}",
        ]
        for found in tested.controls.values():
            each = found.get((own.model, name))
            row.append("" if each is None else lead(each))
        rows.append(row)
    return table(
        heads,
        [*rows, ["chance", "", f"{first:.0%}", f"{reciprocal:.2f}", *[""] * len(tested.controls)]],
    )


def _joinings(own: Ranks) -> str:
    rows = []
    for name in own.names:
        known = next(row["ranks"][name] for row in own.rows if name in row["ranks"])
        if WORD in known:
            if name == RANDOM:
                rows.append([name, *[_mean(summary(own.normal(name)))] * len(HOW)])
            continue
        exact = next(iter(known))
        cells = (_mean(summary(own.normal(name, how))) for how in HOW)
        rows.append([name, *(f"**{c}**" if how == exact else c for how, c in zip(HOW, cells))])
    return table(["", *HOW], rows)


def _conditions(own: Ranks, tested: Tests) -> str:
    heads = ["", "right", "not right", "p", "correlation with the effect", "p"]
    rows = []
    for name in own.names:
        a, b, p = tested.right[own.model, name]
        value, low, high, q = tested.effect[own.model, name]
        told = "" if np.isnan(value) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
        if q < LEVEL:
            told = f"**{told}**" if value < 0 else f"*{told}*"
        rows.append([name, _mean(a), _mean(b), _p(p), told, _p(q)])
    known = [int(own.right.sum()), int((~own.right).sum())]
    return table(heads, [*rows, ["items", *map(str, known), "", str(sum(known)), ""]])


def _layers(own: Ranks, tested: Tests) -> str:
    heads = [
        "",
        *(f"{d:.0%}" if d else "embed" for d in _DEPTHS),
        "deeper site",
        "less embed",
        "less another word",
    ]
    rows = []
    for name in own.names:
        found = tested.layers.get((own.model, name))
        if found is None:
            continue
        at = [round(d * len(found.means)) for d in _DEPTHS]
        means = [f"{found.means[i]:.2f}" for i in at]
        rows.append(
            [name, *means, f"resid({found.site - 1})", lead(found.lead), lead(found.beyond)]
        )
    return table(heads, rows)


def _marked(each: Tested) -> str:
    # The test is of the difference to chance.
    return _styled(_told(each.value, "", CHANCE), each.outcome)


def lead(each: Tested) -> str:
    return _styled(_told(each.value, "+"), each.outcome)


def _styled(text: str, outcome: str) -> str:
    return {BETTER: f"**{text}**", WORSE: f"*{text}*"}.get(outcome, text)


def _mean(s: Summary) -> str:
    return _told(s, "")


def _told(s: Summary, sign: str, more: float = 0.0) -> str:
    """Nothing of no items, and no interval of one."""
    if not s.n:
        return ""
    mean, low, high = (f"{round(x + more, 2) + 0.0:{sign}.2f}" for x in (s.mean, s.low, s.high))
    return mean if s.n < 2 else f"{mean} [{low}, {high}]"


def _share(s: Summary) -> str:
    if not s.n:
        return ""
    return f"{s.mean:.0%}" + (f" [{100 * s.low:.0f}, {100 * s.high:.0f}]" if s.n > 1 else "")


def _p(p: float) -> str:
    return "" if np.isnan(p) else probability(p)
