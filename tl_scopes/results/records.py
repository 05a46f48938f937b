"""Records that results are made of: plain values, without tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Union

from tl_scopes.results.characters import together
from tl_scopes.rules import Rules


@dataclass(frozen=True)
class Token:
    """A vocabulary entry: its id, and what it adds to a text. Part of a character shows its bytes,
    `<0xE6><0x97>`."""

    id: int
    text: str


@dataclass(frozen=True)
class Candidate:
    """One predicted next token with its probability."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class ScopeInfo:
    """Which scope or method made a result, and how it calls what it gives.

    `name`: `"fisher"`, ...; `parameters`: plain values. `explains`: what is explained, as the end of a
    sentence ("" for a method that explains no one quantity). `title`: what the scores are. `signs`: what
    a score above zero says, and one below. `joining`: how the scores of tokens join to that of a span
    exactly, "sum" or "norm"; "none" where nothing is exact; "" where the record does not say.

    In `explains`, `title` and `signs` the word `{target}` stands for the explained token, with a space
    before it, and the name of a parameter in braces for its value. All but `name` and `parameters` are
    empty in a file that version 0.1 wrote.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    explains: str = ""
    title: str = ""
    signs: tuple[str, str] = ("", "")
    joining: Literal["sum", "norm", "none", ""] = ""

    def __str__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.parameters.items() if v is not None)
        return f"{self.name}({inside})" if inside else self.name


@dataclass(frozen=True)
class FisherInfo:
    """How much of the Fisher information `F` of the next-token distribution a result holds.

    `eigenvalues`: those kept exactly, largest first (nats per unit^2 of the final state).
    `trace`: tr F. `share`: kept eigenvalues over the trace, in [0, 1]. `samples`: random
    directions used for the rest (0: the rest is left out). `left_out`: share of tr F that the tokens
    left out of `F` hold, so that each eigenvalue is too small by at most that share of the trace.
    `residual`: how far the pairs kept are from being `F`'s: the largest `||F u - lambda u||` over the
    largest eigenvalue, 0 where they were found to the rounding of the dtype at any cost.
    """

    eigenvalues: tuple[float, ...]
    trace: float
    share: float
    samples: int = 0
    left_out: float = 0.0
    residual: float = 0.0


@dataclass(frozen=True)
class Stability:
    """How far scores are from a rerun in a wider precision, site by site.

    `precision`: that of the rerun. `rank_correlation`: Spearman's, over the tokens up to the read
    position (BOS aside). `top_agreement`: share of the five highest-scored tokens that both have.
    `largest_error`: of a score, over the largest score of the site.
    """

    precision: str
    rank_correlation: tuple[float, ...]
    top_agreement: tuple[float, ...]
    largest_error: tuple[float, ...]


@dataclass(frozen=True)
class Substitution:
    """Another token in the place of one of a prompt, and what the change moves.

    `effect`: to first order, in the result's units. `probability`: the model's own at that place, None
    where it was not asked. `measured`: the change in a real forward pass, None without one.
    """

    id: int
    text: str
    effect: float
    probability: Union[float, None] = None
    measured: Union[float, None] = None


@dataclass(frozen=True)
class Continuation:
    """Tokens whose predictions are explained together.

    `reads`: the positions whose next-token prediction is explained. `tokens`: the token that follows
    each; `log_probs`: its log-probability there, in nats. `versus_tokens` and `versus_log_probs`: of
    the continuation that it is compared with, where there is one.
    """

    reads: tuple[int, ...]
    tokens: tuple[Token, ...]
    log_probs: tuple[float, ...]
    versus_tokens: tuple[Token, ...] = ()
    versus_log_probs: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """What the tokens say."""
        return together([token.text for token in self.tokens])

    @property
    def versus(self) -> str:
        """What the tokens of the other continuation say; "" where there is none."""
        return together([token.text for token in self.versus_tokens])

    @property
    def total(self) -> float:
        """The log-probability of all tokens, less that of the other continuation, in nats."""
        return sum(self.log_probs) - sum(self.versus_log_probs)


@dataclass(frozen=True)
class Chat:
    """The messages of a conversation that a prompt was made of by a chat template.

    `roles`: of the messages, in order; the last is that of the answer, where the template asks for one.
    `messages`: for each token of the prompt, which message it belongs to (-1: none, such as BOS or text
    that the template puts in of itself). `is_content`: whether it stands in what the message says,
    rather than in the template around it.
    """

    roles: tuple[str, ...]
    messages: tuple[int, ...]
    is_content: tuple[bool, ...]

    def role_of(self, position: int) -> str | None:
        """The role of the message that the token at `position` belongs to; None: of no message."""
        message = self.messages[position]
        return None if message < 0 else self.roles[message]


class Share(NamedTuple):
    """How much of all influence some tokens hold: their joined `score`, in a result's units, and its
    `share` of that of all tokens."""

    score: float
    share: float


@dataclass(frozen=True)
class Agreement:
    """A statistic with its bootstrap interval (95%)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    `processing`: "raw", or which weight processing was found. `precision`: the dtype that was
    differentiated in and the one that norms were reduced in. `hooks`: where hooks of the user's
    were in force, which are part of what was explained. `rules`: those that gradients followed; None:
    plain gradients.
    """

    model: str
    model_class: str
    dtype: str
    device: str
    processing: str
    precision: str
    versions: Mapping[str, str] = field(default_factory=dict)
    hooks: tuple[str, ...] = ()
    rules: Rules | None = None


def effect_units(units: str) -> str:
    """Of what moves, where `units` are of that per unit of what moves it.

    >>> effect_units("logit per unit of residual")
    'logit'
    """
    return units.rpartition(" per unit")[0] or units


# By name, as files have them.
KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Token,
        Candidate,
        ScopeInfo,
        FisherInfo,
        Stability,
        Substitution,
        Continuation,
        Chat,
        Agreement,
        Provenance,
        Rules,
    )
}
