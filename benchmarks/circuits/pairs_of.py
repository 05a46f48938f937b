"""The pairs of each task, and what else than the task's own metric gradients may be taken of."""

from __future__ import annotations

from typing import Any

import tl_scopes as ts
from tl_scopes.circuits import Pairs, tasks
from tl_scopes.scopes.base import Scope

TASKS = {
    "indirect_object": "indirect object",
    "greater_than": "greater-than",
    "agreement": "subject-verb agreement",
    "repeated_list": "repeated lists",
}
# Gradients of a task's own metric, of the prediction's Fisher information, of the answer's log-probability.
OF = ("difference", "fisher", "span")


def of_task(model: Any, task: str, n: int) -> Pairs:
    """`n` of them, with the task's own metric."""
    return getattr(tasks, task)(model, n=n)


def explaining(pairs: Pairs, task: str, of: str) -> Pairs:
    """The same prompts, with another scope each."""
    if of == "difference":
        return pairs
    if of == "fisher":
        scopes: list[Scope] = [ts.FisherScope(rank=1)] * len(pairs)
    else:
        scopes = [ts.ContinuationScope(answer) for answer in answers(pairs, task)]
    return Pairs(pairs.clean, pairs.corrupted, scopes, prepend_bos=pairs.prepend_bos)


def answers(pairs: Pairs, task: str) -> list[str]:
    """A right continuation of each clean prompt: name, verb, rest of the list, a year ten later."""
    prompts = [str(clean) for clean in pairs.clean]
    if task == "greater_than":
        # "... from the year 1742 to the year 17": the first number's last two digits, and ten more.
        years = [int(next(w for w in clean.split() if w.isdigit())[2:]) for clean in prompts]
        return [f"{min(year + 10, 99)}" for year in years]
    if task == "repeated_list":
        return [_rest(clean) for clean in prompts]
    return [scope.a for scope in pairs.scopes]  # pyright: ignore[reportAttributeAccessIssue]


def _rest(prompt: str) -> str:
    """Of "Words: a b c d. Words: a b": " c d"."""
    first, again = (part.split() for part in prompt.removeprefix("Words: ").split(". Words: "))
    return " " + " ".join(first[len(again) :])
