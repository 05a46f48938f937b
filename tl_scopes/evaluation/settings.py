"""What an evaluation measures, and how: one checked record of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Union

from tl_scopes.baselines.replacements import REPLACEMENTS, Replacement
from tl_scopes.errors import ScopeParameterError, check_choice, check_number, check_whole

# What a card's settings say where continuations were measured.
OF_CONTINUATIONS = {"target": "continuation"}


@dataclass(frozen=True)
class Settings:
    """How attributions are held against ablation. Raises `ScopeParameterError`.

    `fractions`: shares f of the n tokens after BOS; the `max(1, int(n f))` highest-scored are replaced
    (comprehensiveness), or all others (sufficiency). `replacements`: what their embeddings are replaced
    by, among "zero", "pad", "bos", "mean" (of the vocabulary), "hide" (no attention to them) and "likely":
    tokens that the intact model expects in their places, drawn with `seed`; values are means over `draws`.
    `target`: whose log-probability is measured, the token that the intact model "predicted", or
    the "gold" one that follows the read position in the prompt. `leave_one_out`: the replacement by
    which each token is taken away alone, to compare ranks with; None: not done. `top`: how many
    tokens the overlap with leave-one-out is taken of, a number or a share (rounded up). `area`: the
    "trapezoid" over the fractions (published), or the "mean" over them (ERASER, arXiv 1911.03429).
    `position`: the read position; -2 for texts whose last token is the answer. `spare_last`: so many
    tokens up to the read position are never replaced nor compared. `matched`: by the rankings of how
    many other prompts each method is controlled for place; 0: by none. `seed`: of whatever is drawn.
    Defaults are those of the published evaluation (arXiv 2601.16407), which controls for neither: late
    tokens matter much whatever they say, and methods that favour them lead by that alone.
    """

    fractions: Sequence[float] = (0.05, 0.1, 0.2)
    replacements: Union[Replacement, Sequence[Replacement]] = ("zero",)
    target: Literal["predicted", "gold"] = "predicted"
    sufficiency: bool = True
    leave_one_out: Replacement | None = None
    top: int | float = 0.1
    area: Literal["trapezoid", "mean"] = "trapezoid"
    position: int = -1
    prepend_bos: bool | None = None
    seed: int = 0
    spare_last: int = 0
    matched: int = 0
    draws: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "fractions", self._fractions())
        kinds = self.replacements
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        if not kinds or len(set(kinds)) != len(kinds):
            raise ScopeParameterError(
                f"replacements is {list(kinds)}; allowed: one or more names, each once"
            )
        for kind in kinds:
            check_choice("replacements", kind, REPLACEMENTS)
        object.__setattr__(self, "replacements", kinds)
        check_choice("leave_one_out", self.leave_one_out, (*REPLACEMENTS, None))
        check_choice("target", self.target, ("predicted", "gold"))
        check_choice("area", self.area, ("trapezoid", "mean"))
        if self.area == "trapezoid" and len(self.fractions) < 2:
            raise ScopeParameterError(
                f"a trapezoid needs two fractions or more, not {list(self.fractions)}: add one, or "
                'use area="mean"'
            )
        check_number(
            "top",
            self.top,
            lambda top: top >= 1 if isinstance(top, int) else 0 < top <= 1,
            "a number of tokens from 1, or a share in (0, 1]",
        )
        for name in ("seed", "spare_last", "matched"):
            check_whole(name, getattr(self, name), 0)
        check_whole("draws", self.draws, 1)
        check_choice("sufficiency", self.sufficiency, (True, False))

    def _fractions(self) -> tuple[float, ...]:
        try:
            shares = tuple(float(f) for f in self.fractions)
        except (TypeError, ValueError):
            shares = ()
        if not shares or not all(0 < f < 1 for f in shares) or sorted(set(shares)) != list(shares):
            raise ScopeParameterError(
                f"fractions is {self.fractions!r}; allowed: rising shares between 0 and 1"
            )
        return shares

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Settings:
        """What `to_dict` gave."""
        return cls(**plain)
