"""Scores of words, or of any spans of tokens, in place of single tokens.

Which way of joining is exact depends on what a score is. A scope of one vector (semantic, logit
difference, temperature, function, direction, gradient norm) scores a token by the norm of its
gradient `v^T J_t`. The gradient with respect to a whole word is the gradients of its tokens side by
side, so its norm is the root of the sum of their squares: `"norm"`. Fisher scores,
`tr(J_t^T F J_t)`, are squares already, and those of a word are their sum: `"sum"`. Signed sums
(input x gradient and integrated gradients with `reduce="sum"`) and shares of attention add up too.
Leaving out a word is not the sum of leaving out its tokens, and no rule gives it: for leave-one-out
nothing is exact.

Among norms the others mean something as well: with a step of length one at the word as a whole the
explained quantity moves by `"norm"` at most, with one at each of its tokens by `"sum"`, with one at
a single token of it by `"max"` (to first order).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.characters import Spans, together
from tl_scopes.errors import ScopeParameterError
from tl_scopes.fields import Axis, Index
from tl_scopes.result import Attribution, SequenceAttribution
from tl_scopes.spans import found_spans, word_spans

if TYPE_CHECKING:
    import pandas as pd

# One a group; the last ends where the prompt does.
_Spans = Annotated[Spans, Axis("pos"), Axis("token", lambda spans: spans[-1][1])]
HOW = ("sum", "norm", "max")
# Methods whose units do not say how their scores join; None: nothing is exact.
_EXACT = {
    "fisher": "sum",
    "attention_rollout": "sum",
    "smoothgrad": "norm",
    "leave_one_out": None,
    "random": None,
}


@dataclass(frozen=True, eq=False, repr=False)
class GroupedAttribution(Attribution):
    """An `Attribution` whose "tokens" are groups of tokens: scores are Float[Tensor, "site group"].

    `spans[g]`: the half-open range of prompt tokens that group g holds; `how` they were joined.
    `str_tokens` are the groups' texts and `tokens` the ids of their first tokens. `position` is the
    group that holds the read position, and `read` this position with the text of its token (None in
    a file that an older version wrote). `has_bos`: whether BOS is there, as a group of its own (one
    that holds more is coloured like any other). `standard_error` is the most that it can be, as
    tokens share their random directions. `stability` was measured on tokens and is left out.
    """

    spans: _Spans = ()
    how: str = ""
    read: tuple[int, str] | None = None

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a site and group, with its token range."""
        frame = super().to_frame().rename(columns={"position": "group", "token": "text"})
        n_site = len(self.sites)
        frame["token_id"] = [start for start, _ in self.spans] * n_site
        frame.insert(3, "end", [end for _, end in self.spans] * n_site)
        return frame.rename(columns={"token_id": "start"})

    def __repr__(self) -> str:
        groups = f"{len(self.spans)} groups ({self.how}) of {self.spans[-1][1]} tokens"
        plain = super().__repr__().replace(f"{len(self.spans)} tokens", groups, 1)
        plain = plain.replace(f"read at {self.position};", f"read at {read_token(self)[0]};", 1)
        return plain.replace("Attribution(", "GroupedAttribution(", 1)


@dataclass(frozen=True, eq=False, repr=False)
class GroupedSequenceAttribution(SequenceAttribution):
    """A `SequenceAttribution` over groups of tokens: scores are Float[Tensor, "read site group"].

    Reads stay single tokens: `positions` count tokens, and `read_tokens` are their texts; `at`
    takes one of these positions and gives a `GroupedAttribution`. The rest as there.
    """

    positions: Annotated[tuple[int, ...], Axis("read"), Index("token")]
    spans: _Spans = ()
    how: str = ""
    read_tokens: Annotated[tuple[str, ...], Axis("read")] = ()

    def at(self, position: int) -> GroupedAttribution:
        """The `GroupedAttribution` of one read position. Raises `PositionError`."""
        whole = super().at(position)
        kept = {f.name: getattr(whole, f.name) for f in fields(Attribution)}
        kept["position"] = _holding(self.spans, position)
        read = position, self.read_tokens[self.positions.index(position)]
        return GroupedAttribution(**kept, spans=self.spans, how=self.how, read=read)

    def __repr__(self) -> str:
        groups = f"{len(self.spans)} groups ({self.how}) of {self.spans[-1][1]} tokens"
        plain = super().__repr__().replace(f"{len(self.spans)} tokens", groups, 1)
        return plain.replace("Sequence", "GroupedSequence", 1)


Grouped = GroupedAttribution | GroupedSequenceAttribution


@overload
def group(result: Attribution, by: Any = ..., how: str | None = ...) -> GroupedAttribution: ...
@overload
def group(
    result: SequenceAttribution, by: Any = ..., how: str | None = ...
) -> GroupedSequenceAttribution: ...
def group(
    result: Attribution | SequenceAttribution, by: Any = "word", how: str | None = None
) -> GroupedAttribution | GroupedSequenceAttribution:
    """`result` with its tokens joined. `Attribution.group` and `SequenceAttribution.group` call it.

    Args:
        by: `"word"`, `"sentence"`, `"line"` (see `tl_scopes.spans`), or a list of spans in any
            order that do not overlap: texts that stand in the prompt once (`"Eiffel Tower"`), characters
            of such a text (`(prompt, 4, 16)` for `prompt[4:16]`), or half-open ranges `(start, end)` of
            token positions. Texts take every token that they touch. Tokens outside stay alone, but
            those of one character stay together.
        how: `"sum"`, `"norm"` (root of the sum of squares) or `"max"` (the largest magnitude, with
            its sign). None: the one that is exact, `"norm"` for scores that are the norm of a gradient,
            `"sum"` for Fisher, signed sums and shares of attention; leave-one-out has none.

    Returns a `GroupedAttribution` or `GroupedSequenceAttribution` in the units of `result`, which
    is drawn, saved and tabled like any other. Raises `ScopeParameterError` for spans that are none,
    overlap or part the tokens of one character, texts that the prompt does not hold, or more than
    once, an unknown `how`, or none where nothing is exact; `PositionError` for spans beyond the prompt.
    """
    if isinstance(result, (GroupedAttribution, GroupedSequenceAttribution)):
        raise ScopeParameterError(
            f"this result holds {len(result.spans)} groups already; only tokens can be joined: "
            "group the result that it was made of"
        )
    words = isinstance(by, str) and by == "word"
    spans = word_spans(result) if words else found_spans(result, by)
    how = checked_how(result, how)
    kept = {f.name: getattr(result, f.name) for f in fields(result)}
    scores, error = joined(result.scores, result.standard_error, spans, how)
    kept |= {
        "scores": scores,
        "standard_error": error,
        "tokens": result.tokens[[start for start, _ in spans]],
        "str_tokens": tuple(together(result.str_tokens[a:b]) for a, b in spans),
        "has_bos": result.has_bos and spans[0] == (0, 1),
        "spans": spans,
        "how": how,
    }
    if isinstance(result, SequenceAttribution):
        read = tuple(result.str_tokens[p] for p in result.positions)
        return GroupedSequenceAttribution(**kept, read_tokens=read)
    kept |= {"position": _holding(spans, result.position), "stability": None}
    return GroupedAttribution(**kept, read=read_token(result))


def read_token(result: Attribution) -> tuple[int, str]:
    """The token, not the group, that `result` was read at: its position in the prompt, its text."""
    own = result.read if isinstance(result, GroupedAttribution) else None
    return own or (result.position, result.str_tokens[result.position])


def exact_how(result: Attribution | SequenceAttribution) -> str | None:
    """Which of `HOW` gives what the scope would score a whole span; None: none, or it is unknown.

    By the method's name where this module knows it, else by its `reduce`, else by its units:
    squares ("per unit^2") add up, anything else "per unit" is taken for a norm.
    """
    name, units = result.scope.name, result.units
    reduce = result.scope.parameters.get("reduce")
    if name in _EXACT or reduce in ("norm", "sum"):
        return _EXACT[name] if name in _EXACT else str(reduce)
    if "^2" in units or "²" in units:
        return "sum"
    return "norm" if " per unit" in units else None


def checked_how(result: Attribution | SequenceAttribution, how: str | None) -> str:
    """`how`, or the exact one in place of None. Raises `ScopeParameterError`."""
    allowed = ", ".join(map(repr, HOW))
    found = exact_how(result) if how is None else how
    if found is None:
        raise ScopeParameterError(
            f"no way of joining tokens is known to be exact for {result.scope.name!r} (units: "
            f"{result.units}); choose one yourself: how= {allowed}"
        )
    if not isinstance(found, str) or found not in HOW:
        raise ScopeParameterError(
            f"how is {how!r}; allowed: {allowed}, or None for the one that is exact"
        )
    return found


def joined(
    scores: Float[Tensor, "*row pos"],
    error: Float[Tensor, "*row pos"] | None,
    spans: Spans,
    how: str,
) -> tuple[Float[Tensor, "*row span"], Float[Tensor, "*row span"] | None]:
    """Scores of `spans`, and the largest standard errors that they can have."""
    found, errors = [], []
    for start, end in spans:
        part = scores[..., start:end].double()
        spread = None if error is None else error[..., start:end].double()
        if how == "max":
            at = part.abs().argmax(-1, keepdim=True)
            found.append(part.gather(-1, at)[..., 0])
            errors.append(None if spread is None else spread.gather(-1, at)[..., 0])
            continue
        weight = torch.ones_like(part)
        total = part.sum(-1)
        if how == "norm":
            total = torch.linalg.vector_norm(part, dim=-1)
            # At zero the slope is any unit vector's, so each token's own counts in full.
            weight = torch.where(total[..., None] > 0, part.abs() / total[..., None], weight)
        found.append(total)
        errors.append(None if spread is None else (weight * spread).sum(-1))
    made = torch.stack(found, -1).to(scores.dtype)
    return made, None if error is None else torch.stack(errors, -1).to(error.dtype)


def _holding(spans: Spans, position: int) -> int:
    return next(g for g, (start, end) in enumerate(spans) if start <= position < end)
