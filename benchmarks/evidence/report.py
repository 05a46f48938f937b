"""EVIDENCE.md, and the page of the docs that says when a score is evidence: both of the JSON of the runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence import items, tables, verdicts
from benchmarks.evidence.measured import DRAWS, STEPS
from benchmarks.evidence.ranks import Ranks

RESULTS = Path(__file__).parent.parent / "results"
REPORT = Path(__file__).with_name("EVIDENCE.md")
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "evidence.md"
NAME = REPORT.name

_OPENING = """# Where scores put the word that decided

In each prefix one word decides the next: *these* asks for "chairs" where *this* asks for "chair". Where does a
method rank that word among the words of the prefix? Here are {n} from `{data}` (SHA-256 `{digest}`), drawn with seed
{seed}, in {paradigms} paradigms.

{samples}

**Rank**: how many words of the prefix have a higher score, over how many others there are: 0 is first, 1 last, 0.5
chance. Ties count half. Words are parted by spaces; BOS is none of them, the last word is one. In brackets: 95%
bootstrap intervals over items. **Bold**: better than chance, *slanted*: worse (Wilcoxon's signed-rank test over
items, p < 0.05 after Holm's correction over all cells of that kind in this report).

**What is explained.** The good word: one token by its logit ("Semantic") or log-probability, several as a whole, as
their sum (`ContinuationScope`). *Contrast*: the good word against another. It is the bad word where the item has one.
Elsewhere a rule makes it: the other number of the noun after *this, that, these, those* (by English spelling, and a
list of irregular nouns); "never" for "ever"; "all" for "least" and "most", since "at all" is what the exchanged prefix
allows. The expletive *it* has none. Temperature, Fisher, entropy, leave-one-out by KL and rollout have no target.
Integrated gradients, the path and SmoothGrad take {steps} gradients. These, leave-one-out and rollout are slow, and
measured on fewer items: the tables over all paradigms say on how many. *Likely tokens* is `measure="tokens"`: a token's
score is the root mean square of what the tokens that the model expected there would change. *GIM*, and its parts one by
one, are gradient rules (`tl_scopes.rules`).

**Joining.** Tokens make words by the joining that is exact: root of the sum of squares for norms, sum for Fisher and
shares. Leave-one-out has none and is summed. All three joinings are compared below.

**Controls.** Random scores, one a word (one a token, joined, favours words of several tokens): ranks are means over
{draws} draws an item, so that the first of these rows must lie at chance. The last word first;
the rarest first (of more tokens, or with a later place in the vocabulary). The one with the shortest embedding first:
a model's first norm divides by that length, and a gradient at the embedding with it. *Semantic of another word*: the
same prefix, asked about a word of another paradigm. What ranks as high there is no evidence for the good word.

**The model gets the pair right** where the good word is likelier after its prefix than after the one whose deciding
word is exchanged, or likelier than the bad word. That difference of log-probabilities is the *effect*.
"""


def load(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("evidence-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def by_model(cells: Sequence[dict[str, Any]]) -> list[Ranks]:
    names = dict.fromkeys(cell["model"] for cell in cells)
    # Of the paradigms in the order of the tables.
    order = [*tables.SHORT]
    place = lambda cell: order.index(cell["paradigm"]) if cell["paradigm"] in order else len(order)  # noqa: E731
    return [Ranks.of(n, sorted((c for c in cells if c["model"] == n), key=place)) for n in names]


def written(folder: Path) -> str:
    """The report of all `evidence-*.json` of `folder`."""
    return text(load(folder))


def text(cells: Sequence[dict[str, Any]]) -> str:
    models = by_model(cells)
    tested = verdicts.Tests.of(models)
    parts = [
        _OPENING.format(
            n=_count(cells),
            data=cells[0]["data"],
            digest=cells[0]["sha256"][:12],
            seed=cells[0]["seed"],
            paradigms=len({cell["paradigm"] for cell in cells}),
            samples=tables.SAMPLES,
            steps=STEPS,
            draws=DRAWS,
        ),
        "## What holds\n",
        *verdicts.sentences(tested),
    ]
    for own in models:
        parts += [f"\n## {own.model}\n", *tables.of_model(own, tested)]
    parts += ["\n## How it was made\n", _made(cells)]
    return "\n".join(parts) + "\n"


def page(folder: Path) -> str:
    """The page of the docs."""
    cells = load(folder)
    models = by_model(cells)
    return "\n".join(verdicts.page(verdicts.Tests.of(models), _count(cells), _made(cells))) + "\n"


def _count(cells: Sequence[dict[str, Any]]) -> str:
    """Of items."""
    sizes: dict[int, list[str]] = {}
    for cell in cells:
        sizes.setdefault(len(cell["rows"]), []).append(cell["model"])
    each = sorted(sizes)
    span = str(each[0]) if len(each) == 1 else f"{each[0]} to {each[-1]}"
    return f"{span} items a paradigm and model"


def _made(cells: Sequence[dict[str, Any]]) -> str:
    versions: Iterable[str] = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in cell["versions"].items()) for cell in cells
    )
    n = max(len(cell["rows"]) for cell in cells)
    slow = max(sum("Leave-one-out" in row["ranks"] for row in cell["rows"]) for cell in cells)
    data = "" if cells[0]["data"] == items.OWN.name else f" --data {cells[0]['data']}"
    where = "--out benchmarks/results --report benchmarks/evidence/EVIDENCE.md --page docs/pages/evidence.md"
    return (
        f"`python -m benchmarks evidence{data} --n {n} --every {slow} {where}` measures it and writes the report and "
        "the page of the docs. It was stopped where a model or a paradigm has fewer items, and goes on from there. "
        f"Versions: {'; '.join(versions)}. Models in float32 on a CPU."
    )
