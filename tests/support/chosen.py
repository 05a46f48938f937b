"""Which cases of a cross are tested: all of them take half an hour, and most say what another one has said.

The rules choose the same cases on every run. `make test-all` asks for every case.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

EVERY_CASE = bool(os.environ.get("TL_SCOPES_EVERY_CASE"))
Case = TypeVar("Case")


def each(first: Iterable[Any], *others: Iterable[Any], times: int = 1) -> list[tuple[Any, ...]]:
    """Cases in which each value of each axis takes part: as many as the longest axis has values, or `times` as many,
    in which a value of the first axis has the next ones of the others."""
    lists = [list(axis) for axis in (first, *others)]
    if EVERY_CASE or not all(lists):
        return list(itertools.product(*lists))
    sizes = [len(axis) for axis in lists]
    turned = ((i, *[i + turn] * len(others)) for turn in range(times) for i in range(max(sizes)))
    places = dict.fromkeys(tuple(i % n for i, n in zip(case, sizes)) for case in turned)
    return [tuple(axis[i] for axis, i in zip(lists, case)) for case in places]


def pairs(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Cases in which each value of an axis meets each value of every other axis."""
    lists = [list(axis) for axis in axes]
    numbers = itertools.product(*(range(len(axis)) for axis in lists))
    chosen = covering(numbers, lambda case: itertools.combinations(enumerate(case), 2))
    return [tuple(axis[i] for axis, i in zip(lists, case)) for case in chosen]


def covering(cases: Iterable[Case], traits: Callable[[Case], Iterable[Any]]) -> list[Case]:
    """Some cases that have between them every trait that any has: the one that adds most is taken first."""
    had = {case: set(traits(case)) for case in cases}
    if EVERY_CASE:
        return list(had)
    missing: set[Any] = set().union(*had.values())
    chosen = []
    while missing:
        chosen.append(max(had, key=lambda case: len(had[case] & missing)))
        missing -= had[chosen[-1]]
    return [case for case in had if case in chosen]
