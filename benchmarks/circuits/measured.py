"""One cell: a task on a model, how well the model does it, and what circuits by each method keep of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.circuits import found
from benchmarks.circuits.pairs_of import of_task
from tl_scopes import circuits
from tl_scopes.results.faithfulness import Faithfulness

# Beside the circuits of scores: so many random ones, at every size.
RANDOM = {"nodes": 3, "edges": 1}
# Pairs on which a model is right or not, beside those of the circuits.
ASKED = 100
LEAST = 0.75
Cell = dict[str, Any]


def cell(
    model: Any,
    task: str,
    n: int,
    methods: Sequence[str],
    kinds: Sequence[str],
    before: Cell,
    save: Callable[[Cell], None],
) -> Cell:
    """Measures what `before` lacks, and saves it after each method. `n`: pairs to attribute, and as many others to
    judge."""
    pairs = of_task(model, task, max(ASKED, 2 * n))
    made = dict(before)
    if "right" not in made:
        metrics = _clean(model, pairs)
        made |= {"task": task, "n": n, "tokens": len(model.to_tokens(pairs.clean[0])[0])}
        made |= {"right": [int(m > 0) for m in metrics], "curves": {"nodes": {}, "edges": {}}}
        save(made)
    if not does(made):
        return made
    find, judge = pairs[:n], pairs[n : 2 * n]
    for method, lacked in lacking(made, methods, kinds).items():
        for kind, got in found.find(model, find, task, method, lacked).items():
            _judge(model, judge, made, kind, method, got)
            save(made)
    return made


def lacking(made: Cell, methods: Sequence[str], kinds: Sequence[str]) -> dict[str, list[str]]:
    """What is still to be measured: kinds, by method."""
    left = {
        method: [k for k in kinds if method in found.KINDS[k] and method not in made["curves"][k]]
        for method in methods
    }
    return {method: own for method, own in left.items() if own}


def _judge(
    model: Any, judge: circuits.Pairs, made: Cell, kind: str, method: str, got: found.Found
) -> None:
    """What circuits of one kind by one method keep, beside random ones where they are the first of the kind."""
    first = not made["curves"][kind]
    judged = circuits.faithfulness(
        model, judge, got.scores, random=RANDOM[kind] * first, progress=False
    )
    if first:
        made.update(_ends(judged))
        made[f"{kind}_sizes"] = [*judged.sizes]
        made[f"{kind}_shares"], made[f"{kind}_all"] = [*judged.shares], judged.candidates
        for i, metrics in enumerate(judged.random):
            made["curves"][kind][f"random {i}"] = {"metrics": _rounded(metrics)}
    made["curves"][kind][method] = {
        "pairs": got.pairs,
        "seconds": round(got.seconds, 1),
        "kept": [*judged.kept],
        "metrics": _rounded(judged.metrics),
    }


def does(made: Cell) -> bool:
    """Whether the model does the task: on so many pairs the right answer is ahead."""
    return sum(made["right"]) >= LEAST * len(made["right"])


@torch.no_grad()
def _clean(model: Any, pairs: circuits.Pairs) -> list[float]:
    """The metric on each clean prompt."""
    metrics = [0.0] * len(pairs)
    for batch in pairs.batches(model):
        with batch.locked():
            values = torch.stack([answer.read.value for answer in batch.answers])[:, None]
            for number, metric in zip(batch.numbers, batch.scalars(values, range(len(batch)))):
                metrics[number] = float(metric)
    return metrics


def _ends(judged: Faithfulness) -> dict[str, list[float]]:
    return {name: _rounded(getattr(judged, name)) for name in ("clean", "corrupted")}


def _rounded(values: torch.Tensor) -> list[Any]:
    """Four digits: a table is read by people too."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.4g}") for value in values.tolist()]
