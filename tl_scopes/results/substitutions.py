"""What other tokens in the place of a prompt's own would change of what is explained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Union

from jaxtyping import Int
from torch import Tensor

from tl_scopes.errors import PositionError
from tl_scopes.results.base import Result
from tl_scopes.results.escapes import isolated, literal
from tl_scopes.results.fields import Axis, Index
from tl_scopes.results.records import (
    Candidate,
    Chat,
    Continuation,
    FisherInfo,
    Provenance,
    ScopeInfo,
    Substitution,
    Token,
)
from tl_scopes.results.statistics import rank_correlation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Substitutions(Result):
    """The strongest substitutions of some tokens of one prompt: what another token there would change.

    `positions`: the tokens that are replaced, one at a time. `up[i]`: the other tokens at `positions[i]` that
    raise what is explained most, `down[i]` those that lower it most, the strongest first; of a scope of several
    vectors (`signed` is False), whose effects have no sign, all are in `up`. Effects are in `units`, to first
    order. `among`: where they come from, "likely", "all" or "ids". The other fields are as in `Attribution`.
    """

    positions: Annotated[tuple[int, ...], Axis("at"), Index("pos")]
    up: Annotated[tuple[tuple[Substitution, ...], ...], Axis("at")]
    down: Annotated[tuple[tuple[Substitution, ...], ...], Axis("at")]
    among: Literal["likely", "all", "ids"]
    signed: bool
    tokens: Int[Tensor, "pos"]
    str_tokens: Annotated[tuple[str, ...], Axis("pos")]
    has_bos: bool
    position: Annotated[int, Index("pos")]
    scope: ScopeInfo
    target: Union[Token, None]
    units: str
    prediction: tuple[Candidate, ...]
    fisher: Union[FisherInfo, None]
    provenance: Provenance
    continuation: Union[Continuation, None] = None
    chat: Union[Chat, None] = None

    def at(self, position: int) -> tuple[Substitution, ...]:
        """The substitutions of one token, up and down, the strongest first. Raises `PositionError` for a
        token that was not replaced.

            >>> found.at(4)[0].text
            ' Italy'
        """
        if position not in self.positions:
            raise PositionError(
                f"token {position} is not among those replaced in this result, {list(self.positions)}: ask for "
                "one of these"
            )
        i = self.positions.index(position)
        return tuple(sorted((*self.up[i], *self.down[i]), key=lambda each: -abs(each.effect)))

    def _all(self) -> Iterator[tuple[int, str, Substitution]]:
        for position, up, down in zip(self.positions, self.up, self.down):
            yield from ((position, "up", each) for each in up)
            yield from ((position, "down", each) for each in down)

    @property
    def _verified(self) -> list[tuple[float, float]]:
        """Effects and what was measured of them."""
        return [(s.effect, s.measured) for _, _, s in self._all() if s.measured is not None]

    @property
    def rank_agreement(self) -> float:
        """Spearman's rank correlation of effects and measured changes, over all substitutions here.

        NaN unless two or more were measured (`verified=True`).

            >>> found.rank_agreement
        """
        return rank_correlation(*zip(*self._verified)) if self._verified else math.nan

    @property
    def sign_agreement(self) -> float:
        """The share of substitutions whose measured change has the sign of its effect.

        NaN where none was measured, and where effects have no sign.

            >>> found.sign_agreement
        """
        pairs = self._verified
        if not pairs or not self.signed:
            return math.nan
        return sum((effect > 0) == (real > 0) for effect, real in pairs) / len(pairs)

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a token and another in its place.

        >>> found.to_frame().sort_values("effect").head()
        """
        import pandas as pd

        rows = [
            {
                "position": position,
                "token": self.str_tokens[position],
                "direction": direction,
                "other_id": each.id,
                "other": each.text,
                "effect": each.effect,
                "probability": math.nan if each.probability is None else each.probability,
                "measured": math.nan if each.measured is None else each.measured,
            }
            for position, direction, each in self._all()
        ]
        names = ["position", "token", "direction", "other_id", "other", "effect", "probability"]
        return pd.DataFrame(rows, columns=[*names, "measured"])

    def __repr__(self) -> str:
        top = sorted(self._all(), key=lambda row: -abs(row[2].effect))[:3]
        told = ", ".join(
            f"{p} {literal(self.str_tokens[p])} → {literal(each.text)} {each.effect:+.3g}"
            for p, _, each in top
        )
        target = f", target={literal(self.target.text)}" if self.target else ""
        return (
            f"Substitutions({isolated(str(self.scope))}{target}, {len(self.positions)} tokens, among "
            f"{self.among}, in {self.units}; strongest: {told})"
        )
