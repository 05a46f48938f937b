"""What a scope is: the vectors it yields at a read position, and what it sees there."""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Union

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.unembedding import Unembedding
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import ScopeParameterError, TargetError
from tl_scopes.results.records import Continuation, FisherInfo, ScopeInfo, Token
from tl_scopes.rules import Rules


class _NextToken(Enum):
    """An enumeration, whose member stays the same object when it is copied or sent to a process."""

    NEXT_TOKEN = "NEXT_TOKEN"

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__


NEXT_TOKEN = _NextToken.NEXT_TOKEN
"""Target of a scope: the token that follows the read position in the prompt."""

# How a text asks for it: no token is written so.
NEXT = "id:next"

Target = Union[str, int, _NextToken, None]


# A row that is run, and a position in it.
Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Row:
    """Tokens that a scope has run in place of the prompt, and the positions that it reads of them."""

    ids: list[int]
    reads: Sequence[int]


@dataclass(frozen=True, eq=False)
class Read:
    """What a scope sees at its read position.

    `value`: the final state `y_p`, or the activation at a `DirectionScope`'s own site. `raw`: its
    raw logits `y_p W_U + b_U` (None at another site). `next_id`: the following prompt token.

    A scope that has `rows` of its own reads several positions at once. `value` is then
    Float[Tensor, "read d_model"], `raw` is None or [read, d_vocab], `places` are the row and position of
    each read, and `next_ids` the tokens that follow them.
    """

    value: Tensor
    raw: Float[Tensor, "*read d_vocab"] | None
    head: Unembedding
    token_of: Callable[[str | int], Token]
    next_id: int | None
    places: tuple[Place, ...] = ()
    next_ids: tuple[int, ...] = ()

    def resolve(self, target: Target) -> Token:
        """The vocabulary entry that `target` means here. Raises `TargetError`.

        Examples:
            >>> read.resolve(" Paris").id
        """
        if target is None:
            assert self.raw is not None
            return self.token_of(int(self.head.logits(self.raw).argmax()))
        if isinstance(target, _NextToken):
            if self.next_id is None:
                raise TargetError(
                    "NEXT_TOKEN asks for the token after the read position, but the prompt ends "
                    "there, or pad tokens follow that no attention_mask speaks of: read an earlier "
                    "position, or name the target"
                )
            return self.token_of(self.next_id)
        return self.token_of(target)


@dataclass(frozen=True, eq=False)
class Explained:
    """Frozen row vectors, and how their squared pulled-back norms become a score.

    Score: the root (`squared=False`, one vector) or the value (`squared=True`) of
    `sum_i weights[i] ||v_i^T J_t||^2` over the first vectors, plus the mean of `||v^T J_t||^2` over
    the last `n_sampled`, which are random and whose spread gives the standard error.
    `resolved`: parameters that only the prompt decided, for the record.
    """

    vectors: Float[Tensor, "k *d"]
    weights: Float[Tensor, "exact"]
    squared: bool = False
    n_sampled: int = 0
    target: Token | None = None
    fisher: FisherInfo | None = None
    continuation: Continuation | None = None
    resolved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def every_weight(self) -> Float[Tensor, "k"]:
        """The weight of each vector's square, random ones included."""
        sampled = self.weights.new_full((self.n_sampled,), 1 / max(self.n_sampled, 1))
        return torch.cat([self.weights[: len(self.vectors) - self.n_sampled], sampled])

    @classmethod
    def single(cls, vector: Tensor, target: Token | None = None) -> Explained:
        """One vector, whose score is the norm of `v^T J_t`.

        Examples:
            >>> Explained.single(read.head.column(token.id), token)
        """
        return cls(vector[None], torch.ones(1, dtype=torch.float64, device="cpu"), target=target)


class Scope(ABC):
    """A choice of what is explained, given as row vectors in the space of what is read.

    Subclasses are small frozen dataclasses. `needs_raw_weights` says why weight processing would
    make the scope meaningless (None: it does not matter). `baselines.named.register` gives a scope a name on
    the command line.

        >>> @dataclass(frozen=True)
        ... class UpScope(Scope):
        ...     name, units = "up", "unit of y per unit of residual"
        ...     def parameters(self): return {}
        ...     def explain(self, read): return Explained.single(torch.ones_like(read.value))
    """

    name: str
    units: str
    read_site: str | int | None = None
    rules: Rules | None = None
    """Gradient rules that its vectors are taken back by; None: plain gradients."""
    target_fields: tuple[str, ...] = ("target",)
    """Names of the fields, if it has them, that are targets: None there is the top prediction."""
    is_of_logits = False
    """Whether `scalar` is a function of the raw logits alone."""
    needs_gain = False
    """Whether nothing is left to explain where the final norm gives every y the same length."""
    asks: str = ""
    """The question that it answers, for the explorer, which lists the scopes that have one."""
    argument: str = ""
    """The parameter that stands after a colon where the scope is named on the command line."""
    explains: str = ""
    """What is explained, as the end of a sentence, for titles: `{target}` stands for the token."""

    def rows(self, view: ModelView, ids: Sequence[int]) -> Sequence[Row] | None:
        """What is run in place of the prompt `ids`, where the scope reads several positions of it, or
        of longer ones. None: the prompt, read at one position."""
        return None

    @abstractmethod
    def explain(self, read: Read) -> Explained:
        """The vectors at one read position. Raises `TargetError` or `ScopeParameterError`."""

    def scalar(self, read: Read, explained: Explained, at: Read) -> Tensor:
        """What is explained, as a number at any `read`; the vectors of `explained` are its gradient
        at the read `at` that they were taken at.

        By default linear, `<v, read.value>`; for several vectors, `sum_i w_i <v_i, change of value>^2`.
        """
        v = explained.vectors.to(read.value)
        if not explained.squared:
            return (v[0] * read.value).sum()
        change = read.value - at.value.to(read.value)
        return explained.every_weight.to(change) @ (v * change).flatten(1).sum(1) ** 2

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Plain values for the result's record."""

    def info(self, explained: Explained) -> ScopeInfo:
        """The result's record of this scope and what it explained."""
        return ScopeInfo(
            self.name,
            {**self.parameters(), **explained.resolved},
            explains=self.explains,
            title=f"What moves {self.explains}" if self.explains else "",
            # Squares of norms add up over the tokens of a span; a norm is the root of their sum.
            joining="sum" if explained.squared else "norm",
        )

    @property
    def needs_raw_weights(self) -> str | None:
        return None

    @property
    def explains_centred_logit(self) -> bool:
        """Whether a mean-centred unembedding changes what the scope explains."""
        return False

    def validate(self, d_model: int) -> None:
        """Check the parameters that depend on the model's width. Raises `ScopeParameterError`."""


def target_from(text: str | None, option: str = "target") -> Target:
    """The target that a text on the command line or in a link means: one token, `id:1234`, `id:next`,
    or nothing for the top prediction. Raises `ScopeParameterError`."""
    if not text or not text.startswith("id:"):
        return text or None
    if text == NEXT:
        return NEXT_TOKEN
    if not re.fullmatch(r"id:-?[0-9]{1,9}", text):
        raise ScopeParameterError(
            f"{option} is {text!r}; allowed: text that is one token, id:1234 or {NEXT}"
        )
    return int(text[3:])


def plain_target(target: Target) -> str | int | None:
    if isinstance(target, _NextToken):
        return repr(target)
    return target if target is None or isinstance(target, str) else operator.index(target)


def check_is_scope(scope: Any) -> None:
    """Raises `ScopeParameterError` for anything else, a scope's class among them."""
    if isinstance(scope, Scope):
        return
    if isinstance(scope, type) and issubclass(scope, Scope):
        raise ScopeParameterError(
            f"scope is the class {scope.__name__}; give an instance: {scope.__name__}()"
        )
    raise ScopeParameterError(
        f"scope is {scope!r} of type {type(scope).__name__}; give a Scope such as FisherScope()"
    )
