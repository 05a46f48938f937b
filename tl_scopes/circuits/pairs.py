"""Pairs of a clean and a corrupted prompt, over which circuits are found and judged."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Union

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt
from tl_scopes.circuits.freezing import Frozen
from tl_scopes.circuits.pair_batch import PairBatch, of_pair
from tl_scopes.circuits.trace import CircuitRun, ask
from tl_scopes.errors import PositionError, PromptError, ScopeParameterError
from tl_scopes.jacobian.prompt_run import BATCH_TOKENS
from tl_scopes.scopes.base import Scope, check_is_scope

# Where a role stands in one prompt.
Where = Union[int, str, Sequence[int]]
ALL, REST = "all", "rest"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean prompts, corrupted ones of the same length, and what is explained of them.

    Args:
        clean, corrupted: lists of prompts, as `tl_scopes.attribute` takes them.
        scope: one for all pairs, or a list with one for each. Its targets and vectors are those of the
            clean prompt.
        positions: roles by name: for each pair a position or a list of positions of the clean prompt
            (BOS counts, negative ones count from its end), or one for all pairs. Effects are given by role,
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
        if isinstance(self.scope, Sequence) and len(self.scope) != len(self.clean):
            raise ScopeParameterError(
                f"there are {len(self.scope)} scopes for {len(self.clean)} pairs: give one, or one a pair"
            )
        for scope in self.scopes:
            check_is_scope(scope)
        for role, places in (self.positions or {}).items():
            if role in (ALL, REST):
                raise PositionError(
                    f"a role is called {role!r}, a name that is taken: give another"
                )
            if not isinstance(places, (int, str)) and len(places) != len(self.clean):
                raise PositionError(
                    f"the role {role!r} has {len(places)} entries for {len(self.clean)} pairs: give one "
                    "for all, or one a pair"
                )

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Pairs:
        """Some of the pairs."""
        if isinstance(which, slice):
            numbers = range(len(self))[which]
        elif isinstance(which, Sequence):
            numbers = [operator.index(i) for i in which]
        else:
            numbers = [range(len(self))[which]]
        roles = {
            role: places if isinstance(places, (int, str)) else [places[i] for i in numbers]
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

    def batches(self, model: Any, frozen: Frozen = None) -> list[PairBatch]:
        """The pairs as this model runs them, batched by length and by what is read.

        Raises what `attribute` raises, and `LengthMismatchError` or `PositionError`, with the pair's
        number.
        """
        pairs = []
        for i, scope in enumerate(self.scopes):
            with of_pair(i):
                run = ask(model, self.clean[i], scope, -1, self.prepend_bos, frozen)
                ids = run.encode_like(self.corrupted[i], self.prepend_bos, "corrupted prompt")
                pairs.append((i, run, ids, self._places(i, run)))
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
        n = run.n_prompt or len(run.ids)
        taken = torch.zeros(run.length, dtype=torch.bool, device="cpu")
        if not self.positions:
            return {ALL: ~taken}
        places = {}
        for role, given in self.positions.items():
            own = torch.zeros_like(taken)
            where: Any = given if isinstance(given, (int, str)) else given[i]
            for position in [where] if isinstance(where, int) else where:
                if not -n <= position < n:
                    raise PositionError(
                        f"the role {role!r} is at {position}; the prompt has positions 0 to {n - 1}"
                    )
                if position % n < run.length:  # after what is read nothing has an effect
                    own[position % n] = True
            if (own & taken).any():
                raise PositionError(
                    f"the role {role!r} shares a position with another role: each position has one"
                )
            taken |= own
            places[role] = own
        return {**places, REST: ~taken}


def _alike(run: CircuitRun) -> tuple[Any, ...]:
    """What prompts must have in common to share passes."""
    return len(run.ids), run.position, run.span, str(run.read_site), run.scope.name
