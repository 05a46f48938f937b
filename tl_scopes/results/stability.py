"""Whether other pairs, or other prompts, would have put the same nodes or edges first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.errors import ScopeParameterError
from tl_scopes.results.base import Result
from tl_scopes.results.fields import Axis
from tl_scopes.results.records import Agreement, Provenance, ScopeInfo

if TYPE_CHECKING:
    import pandas as pd

# Mean Jaccard from which on two lists are called the same: of ten, at most one in two lists' differs.
SAME = 0.9
# ... and from which on they are called stable: three quarters of each list are in the other.
STABLE = 0.6
# Two kinds of prompts differ where they share so much less than halves of one kind do.
LESS = 0.1

How = Literal["sample", "resamples", "halves", "whole"]


class Verdict(NamedTuple):
    """`kind`: "same", "stable", "core", "differs" or "not stable"; `text`: the same in words, with
    numbers; `core`: labels that hold their places as a set (all k where the kind is "same")."""

    kind: str
    text: str
    core: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CircuitStability(Result):
    """How alike the largest nodes or edges are when they are asked for again: see
    `tl_scopes.circuits.bootstrap`.

    Results are compared with themselves and each other, one row a comparison: `first` and `second`
    (indices into `names`) by `how`:
    "sample": the whole sample of pairs with a resample of it.
    "resamples": two resamples.
    "halves": two halves of the pairs that share none, drawn at random; of two results, a half of each.
    "whole": all pairs of one result with all of another.

    `jaccard[c, j]`: the share of two lists of the `j + 1` largest (by the magnitude of the mean effect)
    that both have, of what either has: mean over draws (of "whole": of the lists themselves);
    `jaccard_low`, `jaccard_high`: 2.5% and 97.5% of the draws. `shared`: how many both have. `chance`: the
    `jaccard` of lists drawn at random. `ranks`: Spearman's correlation of the magnitudes of all rows.

    `top[r]`: the k largest rows of each result (indices into `labels`), with `effects`, the interval
    `low` to `high` of the mean over resamples, and `stays`: the share of resamples in which a row is among the
    k largest.
    """

    names: Annotated[tuple[str, ...], Axis("result")]
    labels: Annotated[tuple[str, ...], Axis("row")]
    pairs: Annotated[tuple[int, ...], Axis("result")]
    resamples: int
    first: Annotated[tuple[int, ...], Axis("comparison")]
    second: Annotated[tuple[int, ...], Axis("comparison")]
    how: Annotated[tuple[str, ...], Axis("comparison")]
    jaccard: Float[Tensor, "comparison k"]
    jaccard_low: Float[Tensor, "comparison k"]
    jaccard_high: Float[Tensor, "comparison k"]
    shared: Float[Tensor, "comparison k"]
    chance: Float[Tensor, "k"]
    ranks: Annotated[tuple[Agreement, ...], Axis("comparison")]
    top: Int[Tensor, "result k"]
    effects: Float[Tensor, "result k"]
    low: Float[Tensor, "result k"]
    high: Float[Tensor, "result k"]
    stays: Float[Tensor, "result k"]
    of: Literal["nodes", "edges"]
    units: str
    scopes: Annotated[tuple[ScopeInfo, ...], Axis("result")]
    provenance: Provenance

    @property
    def k(self) -> int:
        """How many of the largest were compared."""
        return len(self.chance)

    def members(self, name: str | None = None) -> pd.DataFrame:
        """pandas table of the k largest rows of one result (None: the first), largest first.

        Columns: label, effect, low, high (95%, over resamples), stays.

            >>> stability.members().query("stays > 0.95")
        """
        import pandas as pd

        r = self._at(name)
        return pd.DataFrame(
            {
                "label": [self.labels[i] for i in self.top[r].tolist()],
                **{
                    column: values[r].tolist()
                    for column, values in (
                        ("effect", self.effects), ("low", self.low), ("high", self.high), ("stays", self.stays)
                    )
                },
            }
        )  # fmt: skip

    def comparisons(self) -> pd.DataFrame:
        """pandas table of the lists of the k largest: one row a comparison.

        Columns: first, second, how, jaccard, low, high, shared, chance, and ranks with its interval.

            >>> stability.comparisons().query("how == 'halves'")
        """

        table = self.to_frame().query(f"size == {self.k}").drop(columns="size")
        table: pd.DataFrame = table.reset_index(drop=True)
        for end in ("value", "low", "high"):
            column = "ranks" if end == "value" else f"ranks_{end}"
            table[column] = [getattr(each, end) for each in self.ranks]
        return table

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a comparison and size of the lists, 1 to k.

        Examples:
            >>> stability.to_frame().query("how == 'halves'").set_index("size")["jaccard"]
        """
        import pandas as pd

        rows = []
        columns = [self.jaccard, self.jaccard_low, self.jaccard_high, self.shared]
        for c, (a, b, how) in enumerate(zip(self.first, self.second, self.how)):
            for j, values in enumerate(zip(*(column[c].tolist() for column in columns))):
                rows.append(
                    (self.names[a], self.names[b], how, j + 1, *values, float(self.chance[j]))
                )
        names = ["first", "second", "how", "size", "jaccard", "low", "high", "shared", "chance"]
        return pd.DataFrame(rows, columns=names)

    def verdict(self, first: str | None = None, second: str | None = None) -> Verdict:
        """What the halves say, in words: of one result, or of two.

        Halves share no pair, so that nothing is alike by construction: with effects that are noise,
        their lists are as alike as chance has it. They have half as many pairs, so that lists of as many
        other pairs would be more alike.

        Of one result (None: the first): "same" where halves' lists have a mean Jaccard of at least 0.9,
        "stable" from 0.6 on (three quarters of the k are shared), else "core" where shorter lists (of j
        rows) are the same, else "not stable". Of two: the same for halves of both, if within each they
        are at least "stable"; "differs" where they share less than those of either do, by 0.1 of Jaccard.

        Raises `ScopeParameterError` for a name that the result lacks.

            >>> stability.verdict().text
        """
        a = self._at(first)
        b = a if second is None else self._at(second)
        return self._within(a) if a == b else self._between(*sorted((a, b)))

    def verdicts(self) -> pd.DataFrame:
        """pandas table of every verdict: first, second ("" for one result), kind, text.

        Examples:
            >>> stability.verdicts()["text"].tolist()
        """
        import pandas as pd

        rows = []
        for a, b, how in zip(self.first, self.second, self.how):
            if how == "halves":
                found = self.verdict(self.names[a], self.names[b])
                rows.append(
                    (self.names[a], "" if a == b else self.names[b], found.kind, found.text)
                )
        return pd.DataFrame(rows, columns=["first", "second", "kind", "text"])

    def row(self, first: int, second: int, how: How) -> int:
        """Which comparison it is."""
        return list(zip(self.first, self.second, self.how)).index((first, second, how))

    def _within(self, a: int) -> Verdict:
        c, n = self.row(a, a, "halves"), self.pairs[a]
        halves = f"halves of the {n} pairs share {self._told(c, self.k)}"
        core = self._core(c)
        labels = tuple(self.labels[i] for i in self.top[a, :core].tolist())
        if core == self.k:
            return Verdict("same", f"stable, the same top {self.k}: {halves}", labels)
        kept = f", the same top {core} ({', '.join(labels)})" if core else ""
        if float(self.jaccard[c, -1]) >= STABLE:
            return Verdict("stable", f"stable{kept}: {halves}", labels)
        if core:
            rest = f"{kept.removeprefix(', ')}, the rest is not stable: {halves}"
            return Verdict("core", rest, labels)
        return Verdict("not stable", f"not stable, {n} pairs are too few: {halves}", ())

    def _between(self, a: int, b: int) -> Verdict:
        c = self.row(a, b, "halves")
        own = [self.row(i, i, "halves") for i in (a, b)]
        names = f"{self.names[a]} and {self.names[b]}"
        least = min(own, key=lambda i: float(self.jaccard[i, -1]))
        told = (
            f"halves of both share {self._told(c, self.k)}, halves of each "
            f"{' and '.join(self._told(i, self.k, False) for i in own)}"
        )
        core = self._core(c)
        labels = tuple(self.labels[i] for i in self.top[a, :core].tolist())
        if core == self.k:
            return Verdict("same", f"{names} have the same top {self.k}: {told}", labels)
        between, within = (float(self.jaccard[i, -1]) for i in (c, least))
        if within - between >= LESS:
            same = f" beyond the top {core}" if core else ""
            return Verdict("differs", f"{names} differ{same}: {told}", labels)
        if between >= STABLE:
            return Verdict("stable", f"{names} are as alike as halves of one: {told}", labels)
        if core:
            return Verdict(
                "core", f"{names} have the same top {core}, the rest is noise: {told}", labels
            )
        return Verdict("not stable", f"too few pairs to tell {names} apart: {told}", ())

    def _core(self, c: int) -> int:
        """The longest lists that are the same."""
        alike = np.flatnonzero(self.jaccard[c].numpy() >= SAME)
        return int(alike[-1]) + 1 if alike.size else 0

    def _told(self, c: int, j: int, whole: bool = True) -> str:
        """How many of the lists are shared."""
        shared = f"{float(self.shared[c, j - 1]):.1f}"
        by_chance = 2 * self.chance[j - 1] * j / (1 + self.chance[j - 1])
        return f"{shared} of the top {j} (chance {float(by_chance):.1f})" if whole else shared

    def _at(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self.names:
            raise ScopeParameterError(
                f"got {name!r}; compared were {', '.join(map(repr, self.names))}: give one of these"
            )
        return self.names.index(name)

    def __repr__(self) -> str:
        told = "; ".join(self.verdicts()["text"])
        return f"CircuitStability(top {self.k} of {len(self.labels)} {self.of}; {told})"
