"""The page of the docs that says how often the right sentence ranks first, and where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.answers.measured import HOW, SCOPES, SITES
from benchmarks.answers.questions import FACTS, questions
from tl_scopes.results.statistics import LEVEL, comparisons, holm, summary

RESULTS = Path(__file__).parent.parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "known-answers.md"
Rows = list[dict[str, Any]]
_CELLS = [(site, how) for site in SITES for how in HOW]
# What the whole answer is compared with, and what is compared.
_PAIRS = (("span", "first"), ("fisher", "fisher first"))
_SUBSETS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "the model writes the answer": lambda row: row["right"],
    "it writes something else": lambda row: not row["right"],
    "the answer's first word stands in one fact": lambda row: not row["shared"],
    "it begins another place too": lambda row: row["shared"],
    **{
        f"the fact is number {i + 1} of {FACTS}": lambda row, i=i: row["place"] == i
        for i in range(FACTS)
    },
}
_OPENING = """# Answers whose source is known

Does the sentence that holds an answer rank first? Here are {n} prompts whose right sentence is known: five
people, where each lives, and a question about one of them.

```text
{example}
```

The answer is `{answer}`. Names and places are drawn at random, and have several tokens. The right fact stands at
each of the five places equally often, so that chance, "always the first fact" and "always the last" are right
in 20% each. In half of the prompts the first word of the answer begins the place of one more fact: there the
first token alone does not tell whose place it is.

The score of a sentence is `found.group("sentence")`: `"norm"` is exact for `ContinuationScope` and `"sum"` for
`FisherScope`. The other joining is shown beside it. Only the five facts are ranked. *middle* is the residual
stream before the middle block. In brackets: 95% bootstrap intervals over prompts.{some}

`make answers` writes this page, from `benchmarks/results/answers-*.json`. Versions: {versions}.
"""


def write(path: Path = PAGE, folder: Path = RESULTS) -> None:
    path.write_text(written(folder), encoding="utf-8")


def written(folder: Path) -> str:
    """Of all `answers-*.json` of `folder`."""
    paths = sorted(folder.glob("answers-*.json"))
    return text([json.loads(path.read_text(encoding="utf-8")) for path in paths])


def text(tables: list[dict[str, Any]]) -> str:
    """The page of the models' results."""
    example = questions(4)[3]
    n = max(len(table["rows"]) for table in tables)
    versions = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in table["versions"].items())
        for table in tables
    )
    told = dict(n=n, example=example.prompt, answer=example.answer.strip())
    opening = _OPENING.format(**told, versions="; ".join(versions), some=_some(tables, n))
    parts = [opening, "## What came out\n", *_verdicts(tables)]
    for table in tables:
        parts += [f"\n## {table['model']}\n", *_of_model(table["rows"])]
    return "\n".join(parts) + "\n"


def hits(rows: Rows, scope: str, site: str, how: str, within: int = 1) -> list[bool]:
    """Whether the right sentence ranked first (or `within` so many), of the prompts where `scope` was measured."""
    ranks = [row["ranks"][scope][how] for row in rows if scope in row["ranks"]]
    return [each[SITES.index(site)] <= within for each in ranks]


def paired(rows: Rows, pair: tuple[str, str], site: str, how: str) -> dict[str, Any]:
    """Both of a pair of scopes: their difference with its interval, and McNemar's exact test.

    `p`: of a fair coin for the prompts where only one of the two is right.
    """
    own = [row for row in rows if all(scope in row["ranks"] for scope in pair)]
    a, b = (hits(own, scope, site, how) for scope in pair)
    only_a = sum(x and not y for x, y in zip(a, b))
    only_b = sum(y and not x for x, y in zip(a, b))
    (found,) = comparisons([(a, b)])
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "only_a": only_a,
        "only_b": only_b,
        "p": float(p),
        "chance": float(stats.binomtest(sum(a), len(a), 1 / FACTS, "greater").pvalue),
    }


def _verdicts(tables: list[dict[str, Any]]) -> Iterable[str]:
    """One family of tests each: all models, sites and joinings."""
    for pair in _PAIRS:
        rows = [table["rows"] for table in tables if hits(table["rows"], pair[0], *_CELLS[0])]
        if not rows:
            continue
        cells = [paired(own, pair, *cell) for own in rows for cell in _CELLS]
        corrected = holm([cell["p"] for cell in cells])
        ahead = sum(p < LEVEL and c["difference"] > 0 for p, c in zip(corrected, cells))
        behind = sum(p < LEVEL and c["difference"] < 0 for p, c in zip(corrected, cells))
        beyond = sum(holm([cell["chance"] for cell in cells]) < LEVEL)
        a, b = (SCOPES[scope] for scope in pair)
        yield (
            f"- {a}, over {b}: significantly more often first in **{ahead} of {len(cells)}** comparisons "
            f"(models, sites, joinings), less often in {behind}; above chance in {beyond} of {len(cells)}."
        )
    yield from map(_failures, tables)
    yield (
        "\nSignificant: p < 0.05 by McNemar's exact test (above chance: the binomial test), with Holm's "
        "correction over the comparisons of a line. Both scores are of the same prompts."
    )


def _some(tables: list[dict[str, Any]], n: int) -> str:
    """Which scopes are measured on fewer than `n` prompts."""
    few = min(len(hits(table["rows"], "versus", *_CELLS[0])) for table in tables)
    slower = "`versus` and Fisher, the slower ones,"
    return f"\n{slower} are measured on the first {few}." if 0 < few < n else ""


def _failures(table: dict[str, Any]) -> str:
    """How often the whole answer finds its sentence, where that is likely to fail, and elsewhere."""
    parts = []
    for where, fails in {
        "the fact is the first": lambda row: row["place"] == 0,
        "the answer's first word begins another place too": lambda row: row["shared"],
        "the model writes something else": lambda row: not row["right"],
    }.items():
        own, others = (
            [row for row in table["rows"] if fails(row) is holds] for holds in (True, False)
        )
        shares = (_share(hits(rows, "span", "embed", "norm")) for rows in (own, others))
        parts.append(f"{where}, {' against '.join(shares)} elsewhere")
    return f"- Where {table['model']} is right and where not (whole answer, embed, `norm`): {'; '.join(parts)}."


def _of_model(rows: Rows) -> Iterable[str]:
    right = summary([row["right"] for row in rows])
    lengths = sorted(row["tokens"] for row in rows)
    yield (
        f"It writes the answer, token by token, on {right.mean:.0%} ({right.low:.0%} to {right.high:.0%}) of "
        f"{len(rows)} prompts. Answers have {lengths[0]} to {lengths[-1]} tokens.\n"
    )
    yield _line("right sentence first", "prompts", *(f"{s}, `{h}`" for s, h in _CELLS))
    yield "|---|" + "---:|" * (len(_CELLS) + 1)
    for scope, name in SCOPES.items():
        count = len(hits(rows, scope, *_CELLS[0]))
        if count:
            yield _line(name, count, *(_share(hits(rows, scope, *cell)) for cell in _CELLS))
    yield _line("chance, always first, always last", len(rows), *["20%"] * len(_CELLS))
    if hits(rows, "versus", *_CELLS[0]):
        yield (
            "\nWith `versus`, the other person's fact matters as much by design. The right one is among the "
            "first two (chance: 40%) in "
            + ", ".join(
                f"{_share(hits(rows, 'versus', *cell, within=2))} ({cell[0]}, `{cell[1]}`)"
                for cell in _CELLS
            )
            + "."
        )

    yield (
        "\nThe whole answer less its first token, with how many prompts each alone gets right, and p of "
        "McNemar's test (before the correction):\n"
    )
    yield _line("difference", *(f"{s}, `{h}`" for s, h in _CELLS))
    yield "|---|" + "---:|" * len(_CELLS)
    for pair in _PAIRS:
        if hits(rows, pair[0], *_CELLS[0]):
            found = [paired(rows, pair, *cell) for cell in _CELLS]
            yield _line(SCOPES[pair[0]], *map(_difference, found))

    yield "\nWhere it is right and where not (`ContinuationScope`, joined by `norm`):\n"
    kinds = [(site, scope) for site in SITES for scope in ("span", "first")]
    named = {"span": "whole answer", "first": "first token"}
    yield _line("prompts where", "prompts", *(f"{site}, {named[scope]}" for site, scope in kinds))
    yield "|---|" + "---:|" * (len(kinds) + 1)
    for label, holds in _SUBSETS.items():
        own = [row for row in rows if holds(row)]
        shares = (_share(hits(own, scope, site, "norm")) for site, scope in kinds)
        yield _line(label, len(own), *shares)


def _share(found: list[bool]) -> str:
    if not found:
        return ""
    one = summary(found)
    spread = "" if len(found) < 2 else f" ({100 * one.low:.0f} to {100 * one.high:.0f})"
    return f"{one.mean:.0%}{spread}"


def _difference(cell: dict[str, Any]) -> str:
    low, high = 100 * cell["low"], 100 * cell["high"]
    sides = f"{cell['only_a']} : {cell['only_b']}"
    return f"{100 * cell['difference']:+.0f} ({low:+.0f} to {high:+.0f}); {sides}; {cell['p']:.1g}"


def _line(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"
