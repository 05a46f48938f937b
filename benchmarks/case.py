"""One row of the benchmarks: two callables whose ratio says something, with the bound we set ourselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """`a`, without its part `less` if there is one, over `b` at one length. `most` or `least`: the bound on
    the median ratio, if there is one.

    `needed`: multiply-adds that `a` cannot do without (0: not counted). `rounds`: at most so many,
    after one that does not count if `warm`.
    """

    what: str
    tokens: int
    a: Call
    b: Call
    over: str
    most: float | None = None
    least: float | None = None
    needed: float = 0.0
    rounds: int = 15
    warm: bool = True
    facts: Callable[[], dict[str, float]] = field(default=dict)
    less: Call | None = None

    @property
    def bound(self) -> str:
        if self.most is not None:
            return f"<= {self.most:g}"
        return "" if self.least is None else f">= {self.least:g}"

    def met(self, ratio: float) -> bool | None:
        if self.most is not None:
            return ratio <= self.most
        return None if self.least is None else ratio >= self.least
