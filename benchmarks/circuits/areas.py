"""Areas under curves of faithfulness, and paired differences between methods, over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import trapezoid

from tl_scopes.results.statistics import RESAMPLES

WHAT = ("cpr", "cmd")
Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """A method: its area on each task, their mean, and by how much the best method is ahead of it, with the 95%
    interval `low`, `high` (None of the best itself)."""

    name: str
    areas: tuple[float, ...]
    mean: float
    behind: float
    low: float | None
    high: float | None

    @property
    def tied(self) -> bool:
        """Whether the interval holds zero: nothing tells it from the best."""
        return self.low is None or (self.low <= 0 <= (self.high or 0.0))


def standings(cells: Sequence[Cell], kind: str, what: str, names: Sequence[str]) -> list[Standing]:
    """Of the methods that every cell has, the best first. Pairs of each task are resampled whole, and all
    methods see the same resamples."""
    tables = [_areas(cell, kind, what, names) for cell in cells]
    whole = np.stack([own for own, _ in tables])  # [task, method]
    drawn = np.mean([resampled for _, resampled in tables], axis=0)  # [method, resample]
    means = whole.mean(0)
    sign = 1 if what == "cpr" else -1
    best = int(np.argmax(sign * means))
    found = []
    for i, name in enumerate(names):
        behind = sign * (drawn[best] - drawn[i])
        bounds = (None, None) if i == best else np.percentile(behind, [2.5, 97.5]).tolist()
        ahead = float(sign * (means[best] - means[i]))
        found.append(Standing(name, tuple(whole[:, i].tolist()), float(means[i]), ahead, *bounds))
    return sorted(found, key=lambda own: own.behind)


def curve(cell: Cell, kind: str, name: str) -> np.ndarray:
    """f at each size: of "random", the mean over the random curves."""
    return _f(cell, kind, name, np.full((1, cell["n"]), 1 / cell["n"]))[0]


def _areas(cell: Cell, kind: str, what: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of each method: over all pairs, and over resamples of them."""
    n = len(cell["clean"])
    weights = np.random.default_rng(0).multinomial(n, [1 / n] * n, RESAMPLES) / n
    weights = np.concatenate([np.full((1, n), 1 / n), weights])
    each = np.stack([_area(cell, kind, what, name, weights) for name in names])
    return each[:, 0], each[:, 1:]


def _area(cell: Cell, kind: str, what: str, name: str, weights: np.ndarray) -> np.ndarray:
    """As `Faithfulness.cpr` and `.cmd`, by resample. Of random circuits the mean of their areas."""
    members = members_of(cell, kind, name)
    shares = cell[f"{kind}_shares"]
    found = []
    for member in members:
        f = _f(cell, kind, member, weights)
        found.append(trapezoid(f if what == "cpr" else np.abs(1 - f), shares, axis=1))
    return np.mean(found, axis=0)


def members_of(cell: Cell, kind: str, name: str) -> list[str]:
    """The curves of a method: of "random" there are several."""
    every = cell["curves"][kind]
    return [own for own in every if own.startswith("random ")] if name == "random" else [name]


def _f(cell: Cell, kind: str, name: str, weights: np.ndarray) -> np.ndarray:
    """[resample, size]: a ratio of means over pairs."""
    members = members_of(cell, kind, name)
    metrics = np.mean([cell["curves"][kind][own]["metrics"] for own in members], axis=0)
    whole, nothing = (weights @ np.array(cell[side])[:, None] for side in ("clean", "corrupted"))
    return (weights @ metrics - nothing) / (whole - nothing)
