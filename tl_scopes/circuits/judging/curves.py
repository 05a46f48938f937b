"""Circuits of growing size: of several orders of the same candidates, each circuit once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_scopes.circuits.judging.candidates import Candidates, floor_share
from tl_scopes.errors import ScopeParameterError


@dataclass(frozen=True)
class Sizes:
    """How many candidates circuits have, and which shares of all these are; by share."""

    counts: tuple[int, ...]
    shares: tuple[float, ...]

    @classmethod
    def parsed(cls, sizes: Any, count: int, what: str) -> Sizes:
        """Raises `ScopeParameterError`."""
        if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Sequence) or not sizes:
            raise ScopeParameterError(
                f"sizes is {sizes!r}; allowed: a list of shares (floats) and numbers (ints) of {what}"
            )
        found = {}
        for size in sizes:
            if isinstance(size, float) and 0 < size <= 1:
                found[size] = floor_share(size, count)
            elif isinstance(size, int) and not isinstance(size, bool) and 0 < size <= count:
                found[size / count] = size
            else:
                raise ScopeParameterError(
                    f"sizes holds {size!r}; allowed: floats above 0 and up to 1, shares of the {count} {what}, "
                    f"and ints from 1 to {count}, numbers of them"
                )
        shares = tuple(sorted(found))
        return cls(tuple(found[share] for share in shares), shares)


@dataclass(eq=False)
class Curves:
    """The circuits of `sizes` in the order of the scores, and in `random` random orders.

    `circuits`: the different ones. `places`: by curve, which of them each size is.
    """

    candidates: Candidates
    sizes: Sizes
    random: int
    seed: int
    circuits: list[Bool[Tensor, "candidate"]] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    _known: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add("scores", self.candidates.order)
        generator = torch.Generator("cpu").manual_seed(self.seed)
        for i in range(self.random):
            order = torch.randperm(len(self.candidates), generator=generator, device="cpu")
            self.add(f"random {i}", order)

    def add(self, name: str, order: Int[Tensor, "candidate"]) -> None:
        """A curve more."""
        own = []
        for count in self.sizes.counts:
            kept = self.candidates.connected(self.candidates.first(count, order))
            key = kept.numpy().tobytes()
            if key not in self._known:
                self._known[key] = len(self.circuits)
                self.circuits.append(kept)
            own.append(self._known[key])
        self.places[name] = own

    @property
    def masks(self) -> Bool[Tensor, "circuit candidate"]:
        return torch.stack(self.circuits)

    @property
    def names(self) -> list[str]:
        """Of the different circuits: the first curve and size that each is of."""
        named: dict[int, str] = {}
        for curve, own in self.places.items():
            for number, share in zip(own, self.sizes.shares):
                named.setdefault(number, f"{curve}, {share!r}")
        return [named[i] for i in range(len(self.circuits))]

    def kept(self, name: str) -> tuple[int, ...]:
        """How many candidates the circuits of a curve have."""
        return tuple(int(self.circuits[i].sum()) for i in self.places[name])

    def split(
        self, metrics: Float[Tensor, "pair circuit"]
    ) -> dict[str, Float[Tensor, "pair size"]]:
        """Metrics of the different circuits as those of each curve."""
        return {name: metrics[:, own] for name, own in self.places.items()}
