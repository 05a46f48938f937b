"""Effects over many pairs of prompts: what all results of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.errors import ScopeParameterError, check_choice
from tl_scopes.results.base import Result
from tl_scopes.results.escapes import isolated
from tl_scopes.results.fields import Axis
from tl_scopes.results.frames import long_table
from tl_scopes.results.records import Provenance, ScopeInfo
from tl_scopes.results.statistics import RESAMPLES

if TYPE_CHECKING:
    import pandas as pd

_P = TypeVar("_P", bound="PairedResult")

# Resampled means that are held at a time.
_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PairedResult(Result):
    """Effects of nodes or edges, one row each, on what a scope explains of each pair.

    `effects[i, r, p]`: of row r in pair i at the positions of role p. Of nodes and edges that is gradient
    times (clean - corrupted write): positive where the clean write raises the scalar; and `clean` and
    `corrupted` are the scalar of each pair on its two prompts. `squared`: whether effects are squared and
    weighted over several vectors (Fisher), in `units` squared-per-unit; else they are signed and linear.
    `frozen`: what gradients held constant. `scope`: as `shared` gives it.
    """

    # The column of `to_frame` by which a terminal shows the largest rows.
    ranked_by: ClassVar[str] = "mean"
    # Tensors whose last axis is that of roles.
    by_role: ClassVar[tuple[str, ...]] = ("effects",)

    effects: Float[Tensor, "pair row role"]
    roles: Annotated[tuple[str, ...], Axis("role")]
    scope: ScopeInfo
    units: str
    squared: bool
    frozen: tuple[str, ...]
    provenance: Provenance

    def row_labels(self) -> tuple[str, ...]:
        """What the rows are called."""
        raise NotImplementedError

    def of_role(self: _P, role: str | None) -> _P:
        """The effects at one role alone; None: of all roles together, as one named "all".

        Raises `ScopeParameterError` for a role that there is not.

            >>> effects.of_role("last").interval()
        """
        check_choice("role", role, (None, *self.roles))
        at = None if role is None else self.roles.index(role)
        tensors = {
            name: own.sum(-1, keepdim=True) if at is None else own[..., at, None]
            for name in self.by_role
            for own in [getattr(self, name)]
        }
        return replace(self, roles=("all" if role is None else role,), **tensors)

    def mean(self) -> Float[Tensor, "row role"]:
        """The mean effect over pairs.

        Examples:
            >>> effects.mean()
        """
        return self.effects.double().mean(0)

    def standard_error(self) -> Float[Tensor, "row role"]:
        """That of the mean; NaN of one pair."""
        if len(self.effects) == 1:
            return torch.full(self.effects.shape[1:], torch.nan, dtype=torch.float64, device="cpu")
        return self.effects.double().std(0) / len(self.effects) ** 0.5

    def interval(self, confidence: float = 0.95, seed: int = 0) -> Float[Tensor, "bound row role"]:
        """A bootstrap interval of the mean over pairs, its lower and its upper bound: percentiles of the
        means of resampled pairs. NaN of one pair.

        Raises `ScopeParameterError` unless `confidence` is between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ScopeParameterError(
                f"confidence={confidence!r}; allowed is between 0 and 1: 0.95"
            )
        pairs = len(self.effects)
        if pairs == 1:
            return torch.full(
                (2, *self.effects.shape[1:]), torch.nan, dtype=torch.float64, device="cpu"
            )
        # How often each pair is drawn tells a resample's mean.
        counts = np.random.default_rng(seed).multinomial(pairs, [1 / pairs] * pairs, RESAMPLES)
        shares = torch.from_numpy(counts / pairs)
        tail = (1 - confidence) / 2
        ends = torch.tensor([tail, 1 - tail], dtype=torch.float64, device="cpu")
        columns = self.effects.double().flatten(1).split(max(1, _AT_ONCE // RESAMPLES), dim=1)
        found = [torch.quantile(shares @ own, ends, dim=0) for own in columns]
        return torch.cat(found, dim=1).unflatten(1, self.effects.shape[1:])

    def sign_share(self) -> Float[Tensor, "row role"]:
        """The share of pairs in which an effect has the sign of the mean; 0 where the mean is zero."""
        sign = self.mean().sign()
        return ((self.effects.sign() == sign) & (sign != 0)).double().mean(0)

    def summed(self) -> Float[Tensor, "row"]:
        """The mean effect over pairs, all roles together.

        Examples:
            >>> dict(zip(effects.row_labels(), effects.summed().tolist()))
        """
        return self.mean().sum(-1)

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The `k` rows with the largest mean effect, all roles together, in magnitude.

        Examples:
            >>> effects.top(10)
        """
        values, labels = self.summed(), self.row_labels()
        order = values.abs().argsort(descending=True, stable=True)[: max(k, 0)].tolist()
        return [(labels[i], float(values[i])) for i in order]

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a node or edge and role, with the mean over pairs.

        Examples:
            >>> effects.to_frame().nlargest(5, "mean")
        """
        low, high = self.interval()
        columns = {
            "label": (0, self.row_labels()),
            "role": (1, self.roles),
            "mean": self.mean(),
            "standard_error": self.standard_error(),
            "low": low,
            "high": high,
            "sign_share": self.sign_share(),
        }
        return long_table(self.effects.shape[1:], columns)


def shared(scopes: Sequence[ScopeInfo]) -> ScopeInfo:
    """The record of the scopes of all pairs: where they differ, with the parameters that all have."""
    first = scopes[0]
    if all(own == first for own in scopes):
        return first
    alike = {
        name: value
        for name, value in first.parameters.items()
        if all(own.parameters.get(name, ...) == value for own in scopes)
    }
    return ScopeInfo(first.name, alike, f"the {first.name.replace('_', ' ')} of each pair")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PairedComponents(PairedResult):
    """First-order effects of all that is written into the residual stream, over pairs.

    One row a component, in the order of the forward pass, with `labels`, `kinds`, `layers` and
    `indices` as in `Components`. `effects[i, c, p]` is the total effect of component c in pair i, at
    the positions of role p.
    """

    clean: Float[Tensor, "pair"]
    corrupted: Float[Tensor, "pair"]
    labels: Annotated[tuple[str, ...], Axis("row")]
    kinds: Annotated[tuple[str, ...], Axis("row")]
    layers: Annotated[tuple[int, ...], Axis("row")]
    indices: Annotated[tuple[int, ...], Axis("row")]

    def row_labels(self) -> tuple[str, ...]:
        return self.labels

    def head_grid(self, role: str | None = None) -> Float[Tensor, "layer head_index"]:
        """Mean effects of every head as a grid, at the positions of a role; None: of all roles together.

        Raises `ScopeParameterError` without heads, or for a role that there is not.

            >>> effects.head_grid("last").argmax()
        """
        values = self.of_role(role).mean()[:, 0]
        rows = [i for i, kind in enumerate(self.kinds) if kind == "head"]
        if not rows:
            raise ScopeParameterError('this result has no heads: make it with by="head"')
        return values[rows].reshape(len({self.layers[i] for i in rows}), -1)

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a component and role, with the mean over pairs.

        Examples:
            >>> effects.to_frame().nlargest(5, "mean")
        """
        table = super().to_frame()
        about = {"kind": self.kinds, "layer": self.layers, "index": self.indices}
        for at, (name, values) in enumerate(about.items()):
            table.insert(at + 1, name, [own for own in values for _ in self.roles])
        return table

    def __repr__(self) -> str:
        top = ", ".join(f"{label} {value:.3g}" for label, value in self.top(3))
        pairs = f"{len(self.effects)} pair{'s' * (len(self.effects) > 1)}"
        return (
            f"PairedComponents({isolated(str(self.scope))}, {len(self.labels)} components, {pairs}; "
            f"top: {top})"
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PairedPaths(PairedResult):
    """Influence of source tokens on what is explained of the clean prompts, by way of heads or positions.

    Rows are heads (`L5H2`, from `head_paths`), or the roles of the positions of a layer that influence
    passes through (from `flow`). `effects[i, r, p]`: what passes from the tokens of role p at `site`
    through row r in pair i: the `signed` parts of `HeadPaths` or `Flow`, summed over positions. `scores`:
    all of the influence of a role's tokens. The rows of `flow` add up to them, and so do the heads of
    one layer with what passes outside of them. `layer`: that of `flow`; None: through heads.
    """

    by_role: ClassVar[tuple[str, ...]] = ("effects", "scores")

    labels: Annotated[tuple[str, ...], Axis("row")]
    site: str
    layer: str | None
    scores: Float[Tensor, "pair role"]

    def row_labels(self) -> tuple[str, ...]:
        return self.labels

    def __repr__(self) -> str:
        top = ", ".join(f"{label} {value:.3g}" for label, value in self.top(3))
        pairs = f"{len(self.effects)} pair{'s' * (len(self.effects) > 1)}"
        through = self.layer or "heads"
        return f"PairedPaths({isolated(str(self.scope))}, {self.site} through {through}, {pairs}; top: {top})"
