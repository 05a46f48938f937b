"""Pairs of a clean and a corrupted prompt, over which circuits are found and judged."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt
from tl_scopes.adapter.view import view_of
from tl_scopes.circuits.pairs.batch import PairBatch, of_pair
from tl_scopes.circuits.pairs.roles import located
from tl_scopes.circuits.passes.trace import CircuitRun, Held, ask_of
from tl_scopes.errors import (
    DataError,
    PositionError,
    PromptError,
    ScopeParameterError,
    TargetError,
)
from tl_scopes.evaluation import data
from tl_scopes.jacobian.prompt_run import BATCH_TOKENS
from tl_scopes.scopes.base import NEXT_TOKEN, Scope, check_is_scope
from tl_scopes.scopes.prediction import LogitDifferenceScope, SemanticScope

if TYPE_CHECKING:
    import pandas as pd

ALL, REST = "all", "rest"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean prompts, corrupted ones of the same length, and what is explained of them.

    Args:
        clean, corrupted: lists of prompts, as `tl_scopes.attribute` takes them.
        scope: one for all pairs, or a list with one for each. Its targets and vectors are those of the
            clean prompt.
        positions: roles by name: for each pair a position, a list of positions of the clean prompt (BOS
            counts, negative ones count from its end), or a text that stands in it once; or one position or
            text for all pairs. Effects are given by role,
            and those of all other positions as the role "rest".

    Raises `PromptError` or `ScopeParameterError`, with the pair's number.

    Examples:
        >>> pairs = Pairs(["The keys on the table"], ["The key on the table"], SemanticScope(" are"))
        >>> len(pairs)
        1
    """

    clean: Sequence[Prompt]
    corrupted: Sequence[Prompt]
    scope: Scope | Sequence[Scope]
    positions: Mapping[str, Any] | None = None
    prepend_bos: bool | None = None

    def __post_init__(self) -> None:
        for name in ("clean", "corrupted"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Sequence) or not given:
                raise PromptError(
                    f"{name} is {given!r}; allowed: a list of prompts with at least one in it"
                )
        if len(self.clean) != len(self.corrupted):
            raise PromptError(
                f"there are {len(self.clean)} clean and {len(self.corrupted)} corrupted prompts: give one "
                "of each for a pair"
            )
        if isinstance(self.scope, str) or not isinstance(self.scope, Sequence):
            check_is_scope(self.scope)
        elif len(self.scope) != len(self.clean):
            raise ScopeParameterError(
                f"there are {len(self.scope)} scopes for {len(self.clean)} pairs: give one, or one a pair"
            )
        for i, scope in enumerate(self.scopes):
            with of_pair(i):
                check_is_scope(scope)
                if any(getattr(scope, name, None) is NEXT_TOKEN for name in scope.target_fields):
                    raise TargetError(
                        "the scope's target is NEXT_TOKEN, but pairs are read at their last tokens, which nothing "
                        "follows: read an earlier position by a shorter prompt, or name the target, one scope a pair"
                    )
        if not isinstance(self.positions, Mapping | None):
            raise PositionError(
                f"positions are a {type(self.positions).__name__}; allowed: a dict of roles, "
                '{"subject": [2, 3, ...]}, one entry a pair'
            )
        for role, places in (self.positions or {}).items():
            if role in (ALL, REST) or not isinstance(role, str) or not role:
                raise PositionError(
                    f"a role is called {role!r}; allowed: a text, other than {ALL!r} and {REST!r}: give "
                    "another name"
                )
            if _is_one(places):
                continue
            if not isinstance(places, Sequence) or len(places) != len(self.clean):
                got = f"{len(places)} entries" if isinstance(places, Sequence) else repr(places)
                raise PositionError(
                    f"the role {role!r} has {got} for {len(self.clean)} pairs: give one for all, a "
                    "position or a text, or a list with one a pair"
                )

    def __len__(self) -> int:
        return len(self.clean)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        scope: Scope | Sequence[Scope] | None = None,
        *,
        positions: Sequence[str] = (),
        prepend_bos: bool | None = None,
    ) -> Pairs:
        """Pairs from a pandas table, one a row, with the columns "clean" and "corrupted".

        Args:
            scope: as above. None: the table says it, by a column "target" (`SemanticScope`), or "target"
                and "versus" (`LogitDifferenceScope`), of texts or token ids.
            positions: columns that are roles, each entry a position, a list of them, or a text.

        Raises `DataError` for a column that is missing, and as above.

            >>> Pairs.from_frame(table, positions=["subject"])
        """
        columns = {str(name): frame[name].tolist() for name in frame.columns}
        return cls._of_columns(columns, scope, positions, prepend_bos, "the table")

    @classmethod
    def read(
        cls,
        source: str | Path,
        scope: Scope | Sequence[Scope] | None = None,
        *,
        positions: Sequence[str] = (),
        config: str | None = None,
        split: str | None = None,
        n: int | None = None,
        skip: int = 0,
        prepend_bos: bool | None = None,
    ) -> Pairs:
        """Pairs from a file, a saved data set or one on the hub, with columns as in `from_frame`.

        Args:
            source, config, split, n, skip: as in `tl_scopes.evaluation.read`.
            scope, positions: as in `from_frame`; columns hold texts or lists of whole numbers.

        Raises `DataError` for a source or column that cannot be read, and as above.

            >>> Pairs.read("pairs.jsonl", positions=["subject"], n=100)
        """
        asked: Any = dict(config=config, split=split, n=n, skip=skip)
        wanted = ["clean", "corrupted", *positions, *(["target"] if scope is None else [])]
        columns = {name: data.read(source, column=name, **asked).prompts for name in wanted}
        if scope is None:
            with suppress(DataError):  # there may be none
                columns["versus"] = data.read(source, column="versus", **asked).prompts
        return cls._of_columns(columns, scope, positions, prepend_bos, str(source))

    @classmethod
    def _of_columns(
        cls,
        columns: Mapping[str, Sequence[Any]],
        scope: Any,
        positions: Sequence[str],
        prepend_bos: bool | None,
        where: str,
    ) -> Pairs:
        needed = ["clean", "corrupted", *positions, *(["target"] if scope is None else [])]
        missing = [name for name in needed if name not in columns]
        if missing:
            hint = ", or give scope=" if missing == ["target"] else ""
            raise DataError(
                f"{where} has no column {missing[0]!r}; it has {', '.join(map(repr, columns))}: name it so"
                f"{hint}"
            )
        if scope is None and "versus" in columns:
            both = zip(columns["target"], columns["versus"])
            scope = [LogitDifferenceScope(a, b) for a, b in both]
        elif scope is None:
            scope = [SemanticScope(target) for target in columns["target"]]
        roles = {role: columns[role] for role in positions} or None
        return cls(columns["clean"], columns["corrupted"], scope, roles, prepend_bos=prepend_bos)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Pairs:
        """Some of the pairs."""
        if isinstance(which, slice):
            numbers = range(len(self))[which]
        elif isinstance(which, Sequence):
            numbers = [operator.index(i) for i in which]
        else:
            numbers = [range(len(self))[which]]
        roles = {
            role: places if _is_one(places) else [places[i] for i in numbers]
            for role, places in (self.positions or {}).items()
        }
        return Pairs(
            [self.clean[i] for i in numbers],
            [self.corrupted[i] for i in numbers],
            [self.scopes[i] for i in numbers],
            roles or None,
            self.prepend_bos,
        )

    @property
    def scopes(self) -> list[Scope]:
        """That of each pair."""
        return [self.scope] * len(self.clean) if isinstance(self.scope, Scope) else [*self.scope]

    @property
    def roles(self) -> tuple[str, ...]:
        """The names by which effects are told apart."""
        return (*self.positions, REST) if self.positions else (ALL,)

    def batches(self, model: Any, rules: Held = None) -> list[PairBatch]:
        """The pairs as this model runs them, batched by length and by what is read.

        Raises what `attribute` raises, and `LengthMismatchError` or `PositionError`, with the pair's
        number.
        """
        pairs = []
        with of_pair(0):  # what is wrong with the model is so for each
            view = view_of(model)
        hooked = view.is_hooked()
        for i, scope in enumerate(self.scopes):
            with of_pair(i):
                clean = self.clean[i]
                run = ask_of(view, clean, scope, -1, self.prepend_bos, rules, hooked)
                ids = run.encode_like(self.corrupted[i], self.prepend_bos, "corrupted prompt")
                pairs.append((i, run, ids, self._places(i, run)))
        if len({run.rules for _, run, _, _ in pairs}) > 1:
            raise ScopeParameterError(
                "the scopes of pairs carry different gradient rules: give them one kind, or rules= in the call"
            )
        pairs.sort(key=lambda pair: _alike(pair[1]))
        batches = []
        for _, group in groupby(pairs, key=lambda pair: _alike(pair[1])):
            alike = list(group)
            first = alike[0][1]
            most = 1 if first.hooked else max(1, BATCH_TOKENS // first.length)
            for start in range(0, len(alike), most):
                numbers, runs, ids, places = zip(*alike[start : start + most])
                device = first.view.device
                corrupted = torch.tensor([row[: first.length] for row in ids], device=device)
                roles = {role: torch.stack([own[role] for own in places]) for role in self.roles}
                batches.append(PairBatch(numbers, runs, corrupted, roles))
        return batches

    def _places(self, i: int, run: CircuitRun) -> dict[str, Bool[Tensor, "pos"]]:
        ids = run.ids[: run.n_prompt]
        taken = torch.zeros(run.length, dtype=torch.bool, device="cpu")
        if not self.positions:
            return {ALL: ~taken}
        places = {}
        for role, given in self.positions.items():
            own = torch.zeros_like(taken)
            where = located(run.view, ids, role, given if _is_one(given) else given[i])
            # After what is read nothing has an effect.
            own[[position for position in where if position < run.length]] = True
            if (own & taken).any():
                raise PositionError(
                    f"the role {role!r} shares a position with another role: each position has one"
                )
            taken |= own
            places[role] = own
        return {**places, REST: ~taken}


def refuse_beside(**given: Any) -> None:
    """Refuse what pairs have of their own; None: not given. Raises `ScopeParameterError`."""
    for name, value in given.items():
        if value is not None:
            raise ScopeParameterError(
                f"{name} is given beside pairs, which have their own scopes, corrupted prompts and "
                "prepend_bos, and are read at the end: drop it, and say it when you make the pairs"
            )


def _is_one(places: Any) -> bool:
    """Whether a role stands at the same place, or text, in all prompts."""
    return isinstance(places, str) or hasattr(places, "__index__")


def _alike(run: CircuitRun) -> tuple[Any, ...]:
    """What prompts must have in common to share passes."""
    return len(run.ids), run.position, run.span, str(run.read_site), run.scope.name
