"""What the tests say, in sentences: for the report, and for the page of the docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.evidence import ranks, tables
from benchmarks.evidence.measured import (
    CONTRAST,
    DRAWS,
    ELSEWHERE,
    FISHER,
    LAST,
    METHODS,
    OF_GIM,
    RANDOM,
    RAREST,
    SEMANTIC,
    SHORTEST,
    TOKENS,
    VARIANTS,
)
from benchmarks.evidence.ranks import BETTER, CHANCE, WORSE, Deeper, Ranks, Tested
from tl_scopes.results.statistics import LEVEL, Summary, summary

# With fewer items of a paradigm little can be significant after correction.
_ENOUGH = 20
# What the page shows; the report has all.
SHOWN = (
    SEMANTIC, CONTRAST, TOKENS.format(SEMANTIC), OF_GIM.format(SEMANTIC), "Temperature", FISHER,
    TOKENS.format(FISHER), OF_GIM.format(FISHER), "Input x gradient, contrast",
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
    variants: Mapping[tuple[str, str], Tested]

    @classmethod
    def of(cls, models: Sequence[Ranks]) -> Tests:
        return cls(
            models,
            ranks.against_chance(models),
            {name: ranks.against(models, name) for name in (LAST, RAREST, SHORTEST, ELSEWHERE)},
            ranks.by_right(models),
            ranks.by_effect(models),
            ranks.at_layers(models),
            ranks.of_variants(models),
        )


def sentences(tests: Tests) -> Iterable[str]:
    fewest = min(int(own.within(p).sum()) for own in tests.models for p in own.listed)
    if fewest < _ENOUGH:
        yield (
            f"- **Some paradigms have {fewest} items, which decide little**: what is not significant is not refuted. "
            "The intervals say how far it is known. The command goes on with more (`--n`)."
        )
    yield _random(tests)
    for own in tests.models:
        yield from _of_model(own, tests)
    yield from _of_variants(tests)
    yield _everywhere(tests)


def _random(tests: Tests) -> str:
    """Chance must be where it is said to be."""
    cells = [tests.chance[own.model, RANDOM, p] for own in tests.models for p in (*own.listed, "")]
    held = sum(each.value.low <= 0 <= each.value.high for each in cells)
    off = [each.value.mean for each in cells]
    far, allowed = random_offset(tests)
    return (
        f"- Random scores, {DRAWS} draws an item, are at chance: their mean rank is from {min(off) + CHANCE:.3f} to "
        f"{max(off) + CHANCE:.3f} in the {len(cells)} cells of the tables, and chance lies in {held} of the 95% "
        f"intervals. The farthest cell is {far:.1f} standard errors off; of so many cells some one is beyond "
        f"{allowed:.1f} in one report of twenty."
    )


def random_offset(tests: Tests) -> tuple[float, float]:
    """By how many standard errors the farthest mean rank of random scores is from chance, and how many that may be with
    95% over all cells. The error is known: ranks of draws are uniform."""
    offsets = []
    for own in tests.models:
        # Of one of w words: (w^2 - 1) / 12, over (w - 1)^2.
        spread = np.array(
            [(row["words"] + 1) / (row["words"] - 1) / 12 / DRAWS for row in own.rows]
        )
        for chosen in (*(own.within(p) for p in own.listed), np.ones(len(own.rows), bool)):
            mean = own.normal(RANDOM)[chosen].mean() - CHANCE
            offsets.append(abs(mean) * chosen.sum() / np.sqrt(spread[chosen].sum()))
    return float(max(offsets)), float(stats.norm.isf(0.025 / len(offsets)))


def _of_model(own: Ranks, tests: Tests) -> Iterable[str]:
    methods = [name for name in own.names if name in METHODS]
    means = {name: tests.chance[own.model, name, ""] for name in methods}
    known = [name for name in methods if means[name].value.n >= _ENOUGH] or methods
    best = min(known, key=lambda name: means[name].value.mean)
    worst = max(known, key=lambda name: means[name].value.mean)
    semantic = "" if SEMANTIC in (best, worst) else f"; Semantic is at {_at(means[SEMANTIC])}"
    yield (
        f"- **{own.model}.** Over all paradigms {best} puts the deciding word highest ({_at(means[best])}), {worst} "
        f"lowest ({_at(means[worst])}){semantic}."
    )
    ranked = {"than chance": _sides(means)}
    for control, found in tests.controls.items():
        ranked[f"than {_low(control)}"] = _sides({name: found[own.model, name] for name in methods})
    right = {name: tests.right[own.model, name] for name in methods}
    shown = {name: a.mean - b.mean for name, (a, b, p) in right.items() if p < LEVEL}
    placed = {"where the model gets the pair right": _signs(shown)}
    effect = {name: tests.effect[own.model, name] for name in methods}
    shown = {name: value for name, (value, *_, p) in effect.items() if p < LEVEL}
    placed["where exchanging the word matters more"] = _signs(shown)
    deeper = {n: tests.layers[own.model, n] for n in methods if (own.model, n) in tests.layers}
    lead, beyond = ({n: getattr(d, w) for n, d in deeper.items()} for w in ("lead", "beyond"))
    placed["at the best deeper site than at the embedding"] = _sides(lead)
    placed["at that site than for another word there"] = _sides(beyond)
    none = []
    for words, facts in ((("better", "worse"), ranked), (("sooner", "later"), placed)):
        for fact, sides in facts.items():
            for word, names in zip(words, sides):
                if names:
                    yield f"  - {word.capitalize()} {fact}: {'; '.join(names)}."
        neither = [fact for fact, sides in facts.items() if not any(sides)]
        none += [f"{words[0]} or {words[1]} {', '.join(neither)}"] if neither else []
    if none:
        yield f"  - Shown of no method: {'; '.join(none)}."


def _of_variants(tests: Tests) -> Iterable[str]:
    """Do scores over likely tokens, or gradient rules, find it sooner than the plain scope?"""
    for own in tests.models:
        known = {
            n: tests.variants[own.model, n] for n in VARIANTS if (own.model, n) in tests.variants
        }
        if known:
            each = "; ".join(f"{n} {tables.lead(found)}" for n, found in known.items())
            better, worse = _sides(known)
            yield (
                f"- **Likely tokens and gradient rules, {own.model}.** Mean rank less that of the plain scope on the "
                f"same items: {each}. Better than the plain scope: {_listed(better)}; worse: {_listed(worse)}."
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
Holm's correction). *Contrast* asks about the good word against a bad one; *likely tokens* is `measure="tokens"`, *GIM*
the gradient rules `rules=GIM()`. "The last word first" looks at nothing but place."""


def _rules(tests: Tests) -> str:
    """What a reader may do, each with the numbers that it rests on."""
    spread, asked, exchanged = [], [], []
    for own in tests.models:
        known = {p: tests.chance.get((own.model, SEMANTIC, p)) for p in own.listed}
        means = {p: each.value.mean for p, each in known.items() if each and each.value.n}
        if means:
            low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
            ends = (f"{means[p] + CHANCE:.2f} ({tables.short(p)})" for p in (low, high))
            spread.append(f"{' to '.join(ends)} on {own.model}")
            outcome = tests.controls[ELSEWHERE][own.model, SEMANTIC].outcome
            told = {BETTER: "sooner", WORSE: "later"}.get(outcome, "no difference is shown")
            a, b = (summary(own.normal(name)).mean for name in (SEMANTIC, ELSEWHERE))
            asked.append(f"{a:.2f} and {b:.2f} on {own.model} ({told})")
        loo = tests.chance.get((own.model, _EXCHANGED, ""))
        if loo and loo.value.n >= _ENOUGH:
            exchanged.append(f"{_at(loo)} on {own.model}")
    trusted = _trusted(tests)
    told = (
        f"Here these do the first two: {'; '.join(trusted)}"
        if trusted
        else "Here no method does the first two"
    )
    lines = [
        "A high score may be read as evidence where three things hold. On prefixes of the same kind, whose evidence is "
        "known, the method ranks it better than chance and than place alone. Asked about another word, it ranks other "
        "words high. And exchanging the word really changes the prediction.\n",
        f"{told}, on every model and over all paradigms; and of a new kind of text nobody knows beforehand. So:\n",
        "- **Take a rank for a question, not for an answer.** From kind to kind Semantic ranks the deciding word from "
        f"{_and(spread)}.",
        "- **Ask about another word too.** Semantic ranks the deciding word, asked about the good word and about one "
        f"that the prefix does not decide, at {_and(asked)}. What is high both times belongs to the place and the "
        "word, not to this prediction.",
        "- **Exchange the word and look.** That is what defines evidence here. `substitutions(..., verified=True)` "
        "runs the prompt with other tokens in a word's place."
        + (f" Leave-one-out of the contrast ranks it at {_and(exchanged)}." if exchanged else ""),
    ]
    return "\n".join(lines)


_EXCHANGED = "Leave-one-out, contrast"


def _trusted(tests: Tests) -> list[str]:
    """Methods that are better than chance, than the last word first and than for another word, on every model."""
    found = []
    for name in dict.fromkeys(n for own in tests.models for n in own.names if n in METHODS):
        tested = [
            each
            for own in tests.models
            for each in (
                tests.chance.get((own.model, name, "")),
                *(tests.controls[control].get((own.model, name)) for control in (LAST, ELSEWHERE)),
            )
        ]
        if all(each is not None and each.outcome == BETTER for each in tested):
            found.append(name)
    return found


def _at(each: Tested) -> str:
    s = each.value
    if not s.n:
        return "no number"
    return f"{s.mean + CHANCE:.2f} [{s.low + CHANCE:.2f}, {s.high + CHANCE:.2f}]"


def _sides(each: Mapping[str, Tested]) -> tuple[list[str], list[str]]:
    """Those that are better, and those that are worse."""
    better, worse = ([n for n, own in each.items() if own.outcome == o] for o in (BETTER, WORSE))
    return better, worse


def _signs(each: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Those below zero, and those above."""
    return [n for n, x in each.items() if x < 0], [n for n, x in each.items() if x > 0]


def _listed(names: Iterable[str]) -> str:
    return "; ".join(names) or "none"


def _and(parts: Sequence[str]) -> str:
    *most, last = parts or ["no number"]
    return f"{', '.join(most)}, and {last}" if most else last


def _low(control: str) -> str:
    return f"“{control}”" if control in (LAST, RAREST, SHORTEST) else control
