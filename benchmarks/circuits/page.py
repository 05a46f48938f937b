"""The page of the docs that says which circuits keep most of what a model does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.circuits import found
from benchmarks.circuits.areas import WHAT, Standing, members_of, standings
from benchmarks.circuits.measured import ASKED, LEAST, does
from benchmarks.circuits.pairs_of import TASKS
from tl_scopes.results.statistics import summary

RESULTS = Path(__file__).parent.parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "circuits-compared.md"
_OF = {
    "difference": "of the task's metric",
    "fisher": "of `FisherScope(rank=1)`",
    "span": "of `ContinuationScope(answer)`",
}
_OTHERS = {
    "head_paths": "heads by `head_paths`, MLPs as by EAP",
    "exact": "exact patching, node by node",
    "random": "random",
}
NAMES = {
    name: f"{name.split()[0]} {_OF[of]}" for name, (_, of) in found.GRADIENTS.items()
} | _OTHERS

_OPENING = """# Circuits compared

Which way of finding a circuit keeps most of what a model does? Four tasks, on {pairs} pairs of a clean and a
corrupted prompt to find a circuit on, and as many others to judge it by.
[Circuits](circuits.md#select-and-judge) says what is measured: f is the share of the task's metric that is left when
all but the circuit comes from the corrupted prompt. CPR is the area under f over circuits of growing size (more
is better), CMD the area under |1 - f| (0 is best). Sizes are MIB's, 0.1% to all of the nodes or edges.

| task | metric | a clean prompt ends in |
|---|---|---|
| indirect object | logit of the right name less that of the other | "... Mary and John ..., John gave a drink to" |
| greater-than | log odds of later against earlier decades | "... from the year 1742 to the year 17" |
| subject-verb agreement | logit of the right verb less that of the wrong one | "The keys near the cabinet ..." |
| repeated lists | logit of the next word less that of another | "Words: lamp horse seven [...]. Words: lamp" |

Circuits are judged by the task's metric, whatever gradients are taken of. *EAP* takes them on the clean prompt,
*EAP-IG* their mean over five steps from the corrupted one: `circuits.edges(model, pairs, steps=5)`. Nodes are scored
by `components`, which has no steps. With steps a node's score is the sum over its edges. With one step that would be
the same number on SmolLM2; on Gemma an edge has a head's share of what the norm behind attention writes, `components`
the gradient through that norm. Of Fisher with steps there is none for nodes, since edges are squared. The answer of a
span is the name, the verb, a year ten later, or the rest of the list. `head_paths` is asked about the tokens where the
prompts differ. It says nothing of MLPs, which keep the ranks that EAP gives them. *Exact* takes each node alone from
the corrupted run.

A task counts where the model's metric is above zero on {least:.0%} of {asked} clean prompts. In brackets: 95% bootstrap
intervals over the pairs that judge, with the pairs to find a circuit on as they are. Those of differences to the best
method are of the same resampled pairs. Tasks count alike. They are not corrected for their number. Seconds are of
finding, on one thread of a busy machine.

`make circuits` writes this page, from `benchmarks/results/circuits-*.json`. Versions: {versions}.
"""


def write(path: Path = PAGE, folder: Path = RESULTS) -> None:
    path.write_text(written(folder), encoding="utf-8")


def written(folder: Path) -> str:
    """Of all `circuits-*.json` of `folder`."""
    paths = sorted(folder.glob("circuits-*.json"))
    return text([json.loads(path.read_text(encoding="utf-8")) for path in paths])


def text(cells: list[dict[str, Any]]) -> str:
    """The page of the cells: a task on a model each."""
    cells = sorted(cells, key=lambda cell: [*TASKS].index(cell["task"]))
    versions = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in cell["versions"].items()) for cell in cells
    )
    pairs = sorted({cell["n"] for cell in cells})
    opening = _OPENING.format(
        pairs=" or ".join(map(str, pairs)), least=LEAST, asked=ASKED, versions="; ".join(versions)
    )
    names = sorted({cell["model"] for cell in cells})
    per_model = {name: [cell for cell in cells if cell["model"] == name] for name in names}
    tables = {
        (name, kind): {what: ranked(own, kind, what) for what in WHAT}
        for name, own in per_model.items()
        for kind in found.KINDS
    }
    parts = [opening, "## Who wins\n", *verdicts(tables)]
    for name, own in per_model.items():
        parts += [f"\n## {name}\n", *_of_tasks(own)]
        for kind in found.KINDS:
            if any(tables[name, kind].values()):
                parts += ["", *_table(kind, usable(own, kind), tables[name, kind])]
    return "\n".join(parts) + "\n"


def usable(cells: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Those whose task the model does, as far as they are measured."""
    return [cell for cell in cells if does(cell) and cell["curves"][kind]]


def ranked(cells: Sequence[dict[str, Any]], kind: str, what: str) -> list[Standing]:
    """Of the methods that all usable cells have."""
    own = usable(cells, kind)
    names = [
        name
        for name in (*found.KINDS[kind], "random")
        if all(set(members_of(cell, kind, name)) & {*cell["curves"][kind]} for cell in own)
    ]
    return standings(own, kind, what, names) if own and names else []


def verdicts(tables: dict[tuple[str, str], dict[str, list[Standing]]]) -> Iterable[str]:
    """Who is best, who cannot be told from it, and who is neither."""
    first, within, count = Counter(), Counter(), 0
    for (name, kind), of in tables.items():
        for what, places in of.items():
            if not places:
                continue
            count += 1
            best = places[0]
            tied = [own for own in places[1:] if own.tied]
            first[best.name] += 1
            within.update(own.name for own in (best, *tied))
            other = (
                f"not told from it: {', '.join(f'{NAMES[own.name]} ({own.mean:.2f})' for own in tied)}"
                if tied
                else "all others are significantly behind"
            )
            yield (
                f"- {name}, {kind}, {what.upper()}: **{NAMES[best.name]}** ({best.mean:.2f}); {other}."
            )
    if not count:
        return
    told = ", ".join(f"{NAMES[name]} in {times}" for name, times in first.most_common())
    yield f"\nBest, of {count} comparisons: {told}."
    told = ", ".join(
        f"{NAMES[name]} in {within[name]}" for name in NAMES if name in {*within, *first}
    )
    yield f"Best or not told from the best: {told}."


def _of_tasks(cells: Sequence[dict[str, Any]]) -> Iterable[str]:
    yield _line("task", "right", "tokens", "metric, clean", "corrupted", "")
    yield "|---|---:|---:|---:|---:|---|"
    for cell in cells:
        right = summary(cell["right"])
        share = f"{right.mean:.0%} ({100 * right.low:.0f} to {100 * right.high:.0f})"
        ends = [
            f"{sum(cell[side]) / len(cell[side]):.2f}" if side in cell else ""
            for side in ("clean", "corrupted")
        ]
        note = "" if does(cell) else "not used: the model does not do it"
        yield _line(TASKS[cell["task"]], share, cell["tokens"], *ends, note)


def _table(kind: str, cells: Sequence[dict[str, Any]], of: dict[str, list[Standing]]) -> list[str]:
    sizes = cells[0][f"{kind}_all"]
    headings = [TASKS[cell["task"]] for cell in cells]
    rows = [
        f"{kind.capitalize()} ({sizes:,}), CPR / CMD:\n",
        _line("method", "pairs", "s a pair", *headings, "mean CPR", "behind", "mean CMD", "behind"),
        "|---|" + "---:|" * (len(headings) + 6),
    ]
    cmd = {own.name: own for own in of["cmd"]}
    for own in of["cpr"]:
        other = cmd[own.name]
        curves = [cell["curves"][kind].get(own.name, {}) for cell in cells]
        seconds = [c["seconds"] / c["pairs"] for c in curves if c]
        each = [f"{a:.2f} / {b:.2f}" for a, b in zip(own.areas, other.areas)]
        rows.append(
            _line(
                NAMES[own.name],
                curves[0].get("pairs", ""),
                f"{sum(seconds) / len(seconds):.1f}" if seconds else "",
                *each,
                f"{own.mean:.2f}",
                _behind(own),
                f"{other.mean:.2f}",
                _behind(other),
            )
        )
    left = [NAMES[name] for name in found.KINDS[kind] if name not in cmd]
    return [*rows, f"\nNot measured on all of these tasks: {'; '.join(left)}."] if left else rows


def _behind(own: Standing) -> str:
    if own.low is None or own.high is None:
        return "best"
    return f"{own.behind:.3f} ({own.low:.3f} to {own.high:.3f})"


def _line(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"
