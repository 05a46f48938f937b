"""The report's tables, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from benchmarks.replication import methods, paper
from benchmarks.replication.cells import DEPTHS, Cell
from benchmarks.replication.claims_ablation import best_pairs, grid
from benchmarks.replication.methods import AGREEMENT, BASELINES, MAIN, SCOPES
from benchmarks.replication.paired import AGAINST, FOR, Claim, Evidence, differences
from tl_scopes.render.colours import number
from tl_scopes.render.report.words import MISSING, probability
from tl_scopes.results.statistics import Summary, summary

_LOO = ("loo_spearman", "loo_kendall", "loo_jaccard", "loo_top_rank")
_ALIKE = ("similarity", "overlap")
_TOP = 0.05
_LOO_HEADS = (
    "", "Spearman", "Kendall tau-b", "Jaccard of the top 10%", "rank of the top token", "in the top 5%"
)  # fmt: skip


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, all others to the right."""
    lines = [list(heads), ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ablation(cells: Sequence[Cell], replacement: str, right: bool = False) -> str:
    """AOPC by method and cell, with the paper's range."""
    ranges = {"pad": paper.PAD}.get(replacement, paper.CORRECT if right else paper.ZERO)
    means, found = _means(cells, replacement, right)
    digits = 2 if replacement == "pad" else 3
    rows = [[*row, _range(ranges[row[0]], digits)] for row in means]
    counts = ["passages", *(str(found[MAIN[0], c.name].n) for c in cells), "1,000"]
    told = ["predicted right", *(f"{c.accuracy:.0%}" for c in cells)]
    rows += [["passages", *counts[1:-1], "about 720"]] if right else [counts]
    rows += (
        []
        if right or replacement == "pad"
        else [[*told, " to ".join(f"{x:.0%}" for x in paper.ACCURACY)]]
    )
    return table(["", *(c.name for c in cells), "paper"], rows)


def plain_ablation(cells: Sequence[Cell]) -> str:
    """AOPC by method and cell alone."""
    rows, found = _means(cells, "zero", False)
    counts = ["passages", *(str(found[MAIN[0], c.name].n) for c in cells)]
    return table(["", *(c.name for c in cells)], [*rows, counts])


def _means(
    cells: Sequence[Cell], replacement: str, right: bool
) -> tuple[list[list[str]], dict[tuple[str, str], Summary]]:
    """Mean ± standard error; the best mean of a cell in bold."""
    found: dict[tuple[str, str], Summary] = {}
    for cell in cells:
        for name in MAIN:
            found[name, cell.name] = summary(cell.aopc(name, replacement, right).to_numpy())
    tops = {c.name: max((found[m, c.name].mean for m in MAIN), default=math.nan) for c in cells}
    rows = []
    for name in MAIN:
        row = [name]
        for cell in cells:
            s = found[name, cell.name]
            text = _mean(s, 3)
            row.append(f"**{text}**" if s.mean == tops[cell.name] else text)
        rows.append(row)
    return rows, found


def agreement(cell: Cell) -> str:
    """With leave-one-out, by method; below each of the paper's methods its range."""
    rows = []
    for name in AGREEMENT:
        row = [name]
        for metric in _LOO:
            last = metric == _LOO[-1]
            values = (100 if last else 1) * cell.of(name, metric).to_numpy()
            row.append(_mean(summary(values), 0 if last else 3) + ("%" if last else ""))
        top = cell.of(name, _LOO[-1])
        row.append(f"{(top <= _TOP).mean():.0%}" if len(top) else MISSING)
        rows.append(row)
        if name in paper.AGREEMENT:
            *first, rank, share = paper.AGREEMENT[name]
            shown = [*map(_range, first), _range(rank, 0) + "%"]
            rows.append(["paper", *shown, " to ".join(f"{x:.0%}" for x in share)])
    return table(_LOO_HEADS, [[_quiet(x) for x in r] if r[0] == "paper" else r for r in rows])


def randomisation(cells: Sequence[Cell]) -> str:
    """Spearman and Jaccard with the intact model's scores."""
    steps = [{0.25: "a quarter", 0.5: "half", 1.0: "all"}[depth] for depth in DEPTHS]
    rows = []
    for cell in cells:
        for name in methods.randomised():
            row = [f"{cell.name}: {name}"]
            for depth in DEPTHS:
                both = (summary(cell.after(name, depth, m).to_numpy()) for m in _ALIKE)
                row.append(" / ".join(_mean(s, 2) for s in both))
            rows.append([*row, str(len(cell.after(name, DEPTHS[0])))])
    for name, steps_of in paper.RANDOMISED.items():
        shown = (" / ".join(_range(x, 2) for x in pair) for pair in steps_of)
        rows.append([_quiet(f"paper: {name}"), *map(_quiet, shown), _quiet("200")])
    return table(["blocks with random weights", *steps, "passages"], rows)


def significance(cells: Sequence[Cell]) -> str:
    """Every Scope against each baseline, and the best of each: three columns, each with its own Holm."""

    def columns(pairs: Callable[..., list]) -> list[list[Evidence]]:
        asked = (("zero", False), ("zero", True), ("pad", False))
        return [differences(pairs(*each)) for each in asked]

    all_pairs = columns(lambda kind, right: grid(cells, SCOPES, BASELINES, kind, right))
    bests = columns(lambda kind, right: best_pairs(cells, kind, right))
    rows = []
    for each in zip(*all_pairs):
        what = each[0].what.removesuffix(", predicted right")
        rows.append([f"{each[0].cell}: {what}", *map(difference, each)])
    for each in zip(*bests):
        shown = [f"{e.what}: {difference(e)}" for e in each]
        rows.append([f"{each[0].cell}: best Scope − best baseline", *shown])
    return table(["", "zero", "zero, predicted right", "PAD"], rows)


def claim_rows(claims: Sequence[Claim]) -> str:
    rows = []
    for i, claim in enumerate(claims, 1):
        rows.append([f"{i}. {claim.text}", claim.paper, counted(claim), f"**{claim.verdict}**"])
    return table(["claim", "paper", "here", "verdict"], rows).replace("---:", "---")


def counted(claim: Claim) -> str:
    """How much of the evidence is for a claim, and how far its values go."""
    outcomes = [e.outcome for e in claim.evidence]
    told = [f"{outcomes.count(FOR)} of {len(outcomes)} for"]
    told += [f"{outcomes.count(AGAINST)} against"] if AGAINST in outcomes else []
    values = [e.value for e in claim.evidence if math.isfinite(e.value)]
    span = ""
    if values:
        low, high = (f"{x:+.3f}" for x in (min(values), max(values)))
        span = f"; {claim.unit} {low}" + (f" to {high}" if high != low else "")
    return ", ".join(told) + span


def costs(cells: Sequence[Cell]) -> str | None:
    """Seconds a passage of each part, where this call measured it."""
    parts = list(dict.fromkeys(part for c in cells for part in c.seconds))
    if not parts:
        return None
    rows = [
        [c.name, *(number(c.seconds[p]) if p in c.seconds else MISSING for p in parts)]
        for c in cells
    ]
    return table(["seconds a passage", *parts], rows)


def difference(e: Evidence) -> str:
    if not math.isfinite(e.value):
        return MISSING
    text = f"{e.value:+.3f} [{e.low:.3f}, {e.high:.3f}] {probability(e.p)}"
    return {FOR: f"**{text}**", AGAINST: f"**{text} (worse)**"}.get(e.outcome, text)


def _mean(s: Summary, digits: int) -> str:
    """With its standard error, where there is one; no minus sign before what rounds to zero."""
    if not math.isfinite(s.mean):
        return MISSING
    error = f" ± {s.sem:.{digits}f}" if math.isfinite(s.sem) else ""
    return f"{round(s.mean, digits) + 0.0:.{digits}f}{error}"


def _range(pair: tuple[float, float], digits: int = 3) -> str:
    return " to ".join(f"{round(x, digits) + 0.0:.{digits}f}" for x in pair)


def _quiet(text: str) -> str:
    return f"*{text}*"
