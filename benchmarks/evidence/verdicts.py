"""What the tests say, in sentences: for the report, and for the page of the docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.evidence import ranks, tables
from benchmarks.evidence.measured import (
    CONTRAST,
    ELSEWHERE,
    LAST,
    METHODS,
    RANDOM,
    RAREST,
    SEMANTIC,
    SHORTEST,
)
from benchmarks.evidence.ranks import BETTER, WORSE, Deeper, Ranks, Tested
from tl_scopes.results.statistics import LEVEL, Summary, summary

# With fewer items of a paradigm little can be significant after correction.
_ENOUGH = 20
# What the page shows; the report has all.
SHOWN = (
    SEMANTIC, CONTRAST, "Temperature", "Fisher k=1", "Input x gradient, contrast",
    "Input x gradient, contrast, signed", "IG", "Leave-one-out", "Leave-one-out, contrast", RANDOM, LAST,
    RAREST, SHORTEST,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tests:
    """Every test of the report. Each attribute is a family, or two, of its own."""

    models: Sequence[Ranks]
    chance: Mapping[tuple[str, str, str], Tested]
    controls: Mapping[str, Mapping[tuple[str, str], Tested]]
    right: Mapping[tuple[str, str], tuple[Summary, Summary, float]]
    effect: Mapping[tuple[str, str], tuple[float, float, float, float]]
    layers: Mapping[tuple[str, str], Deeper]

    @classmethod
    def of(cls, models: Sequence[Ranks]) -> Tests:
        return cls(
            models,
            ranks.against_chance(models),
            {name: ranks.against(models, name) for name in (LAST, RAREST, SHORTEST, ELSEWHERE)},
            ranks.by_right(models),
            ranks.by_effect(models),
            ranks.at_layers(models),
        )


def sentences(tests: Tests) -> Iterable[str]:
    fewest = min(int(own.within(p).sum()) for own in tests.models for p in own.listed)
    if fewest < _ENOUGH:
        yield (
            f"- **{fewest} items of some paradigms decide little there**: what is not significant is not refuted. The "
            "intervals say how far it is known. The command goes on with more (`--n`)."
        )
    yield from _random(tests)
    for own in tests.models:
        yield from _of_model(own, tests)
    yield _everywhere(tests)


def _random(tests: Tests) -> Iterable[str]:
    """Chance must be where it is said to be."""
    cells = [tests.chance[own.model, RANDOM, p] for own in tests.models for p in (*own.listed, "")]
    held = sum(each.value.low <= 0 <= each.value.high for each in cells if each.value.n > 1)
    far = sum(each.outcome != ranks.OPEN for each in cells)
    yield (
        f"- Random scores: chance lies within the 95% interval in {held} of {len(cells)} cells, and {far} differ "
        "from it after correction. Intervals of few items are too narrow."
    )


def _of_model(own: Ranks, tests: Tests) -> Iterable[str]:
    methods = [name for name in own.names if name in METHODS]
    means = {name: tests.chance[own.model, name, ""] for name in methods}
    known = [name for name in methods if means[name].value.n >= _ENOUGH] or methods
    best = min(known, key=lambda name: means[name].value.mean)
    worst = max(known, key=lambda name: means[name].value.mean)
    yield (
        f"- **{own.model}.** Over all paradigms {best} puts the deciding word highest ({_at(means[best])}), {worst} "
        f"lowest ({_at(means[worst])}); Semantic is at {_at(means[SEMANTIC]) if SEMANTIC in means else 'no'}."
    )
    yield f"  - Better than chance over all: {_names(means, BETTER)}. Worse: {_names(means, WORSE)}."
    for control, found in tests.controls.items():
        each = {name: found[own.model, name] for name in methods}
        yield f"  - Better than {_low(control)}: {_names(each, BETTER)}. Worse: {_names(each, WORSE)}."
    right = {name: tests.right[own.model, name] for name in methods}
    sooner = [n for n, (a, b, p) in right.items() if p < LEVEL and a.mean < b.mean]
    later = [n for n, (a, b, p) in right.items() if p < LEVEL and a.mean > b.mean]
    yield (
        f"  - The word comes sooner where the model gets the pair right: {_listed(sooner)}; later: {_listed(later)}."
    )
    effect = {name: tests.effect[own.model, name] for name in methods}
    more = [n for n, (value, *_, p) in effect.items() if p < LEVEL and value < 0]
    less = [n for n, (value, *_, p) in effect.items() if p < LEVEL and value > 0]
    yield (
        f"  - It comes sooner where exchanging it matters more: {_listed(more)}; later: {_listed(less)}."
    )
    deeper = {n: tests.layers[own.model, n] for n in methods if (own.model, n) in tests.layers}
    leads, beyond = (
        {n: getattr(d, what) for n, d in deeper.items()} for what in ("lead", "beyond")
    )
    yield (
        f"  - It comes sooner at a deeper site than at the embedding: {_names(leads, BETTER)}; later at the best of "
        f"them: {_names(leads, WORSE)}. Sooner there than for another word: {_names(beyond, BETTER)}."
    )


def _everywhere(tests: Tests) -> str:
    """Is any method good in every paradigm of every model?"""
    names = dict.fromkeys(n for own in tests.models for n in own.names if n in METHODS)
    outcomes = {
        name: [
            tests.chance[own.model, name, p].outcome
            for own in tests.models
            for p in own.listed
            if (own.model, name, p) in tests.chance and tests.chance[own.model, name, p].value.n
        ]
        for name in names
    }
    always = [name for name, own in outcomes.items() if own and set(own) == {BETTER}]
    most = max(outcomes, key=lambda name: outcomes[name].count(BETTER))
    count = outcomes[most].count(BETTER)
    told = f"; most often: {most}, in {count} of {len(outcomes[most])}" if count else ""
    return (
        "- Significantly better than chance in every paradigm, on every model: "
        f"{_listed(always)}; in some paradigm: {_listed(n for n, own in outcomes.items() if BETTER in own)}{told}."
    )


def page(tests: Tests, count: str, made: str) -> Iterable[str]:
    """The page of the docs."""
    yield _PAGE.format(samples=tables.SAMPLES, count=count)
    for own in tests.models:
        names = [name for name in SHOWN if name in own.names]
        yield f"\n**{own.model}**\n"
        yield tables.by_paradigm(own, tests, names)
    yield "\n## What holds\n"
    yield from sentences(tests)
    yield f"\n## So, when?\n\n{_rules(tests)}"
    yield (
        "\nEvery method, joining and layer, with all intervals and tests, is in "
        "[the full report](../../benchmarks/evidence/EVIDENCE.md). `make evidence` does the same on forty prefixes of "
        f"our own. {made}"
    )


_PAGE = """# When may I read a score as evidence?

A scope says which tokens can move a prediction when they change a little. It does not say that a token is the
reason for it. On some prefixes the reason is known: one word decides the next.

{samples}

Does that word have the highest score? The tables have its mean rank among the words of the prefix: 0 is always
first, 1 always last, 0.5 chance. {count}, from BLiMP. **Bold**: better than chance, *slanted*: worse (p < 0.05 after
Holm's correction). *Contrast* asks about the good word against a bad one. "The last word first" looks at nothing but
place."""


def _rules(tests: Tests) -> str:
    """What a reader may do, each with the numbers that it rests on."""
    lines = []
    for own in tests.models:
        spread = {}
        for p in own.listed:
            each = tests.chance.get((own.model, SEMANTIC, p))
            if each is not None and each.value.n:
                spread[tables.short(p)] = each.value.mean + ranks.CHANCE
        if spread:
            low, high = min(spread, key=spread.__getitem__), max(spread, key=spread.__getitem__)
            lines.append(
                f"- **Not from the rank alone.** On {own.model} Semantic ranks the deciding word from "
                f"{spread[low]:.2f} ({low}) to {spread[high]:.2f} ({high})."
            )
    for own in tests.models:
        both = own.normal(SEMANTIC), own.normal(ELSEWHERE)
        if np.isfinite(both[0]).any():
            a, b = (summary(each) for each in both)
            outcome = tests.controls[ELSEWHERE][own.model, SEMANTIC].outcome
            told = {BETTER: "sooner", WORSE: "later"}.get(
                outcome, "no sooner, as far as can be told"
            )
            lines.append(
                f"- **Ask about another word too.** Asked about a word that the prefix does not decide, Semantic ranks "
                f"it at {b.mean:.2f} on {own.model}; asked about the good word, at {a.mean:.2f}: {told}. What stays is "
                "about the place and the word, and no evidence for this prediction."
            )
    loo = "Leave-one-out, contrast"
    for own in tests.models:
        if np.isfinite(own.normal(loo)).sum() >= _ENOUGH:
            each = tests.chance[own.model, loo, ""]
            lines.append(
                f"- **Exchange it and look.** Leave-one-out of the contrast ranks it at {_at(each)} on {own.model}. "
                "Surer is what defines evidence here: run the prefix with the word exchanged, and compare."
            )
    return "\n".join(lines)


def _at(each: Tested) -> str:
    s = each.value
    if not s.n:
        return "no number"
    return f"{s.mean + ranks.CHANCE:.2f} [{s.low + ranks.CHANCE:.2f}, {s.high + ranks.CHANCE:.2f}]"


def _names(each: Mapping[str, Tested], outcome: str) -> str:
    return _listed(name for name, own in each.items() if own.outcome == outcome)


def _listed(names: Iterable[str]) -> str:
    found: list[Any] = list(names)
    return "; ".join(found) if found else "none"


def _low(control: str) -> str:
    return f"“{control}”" if control in (LAST, RAREST, SHORTEST) else control
