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

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.errors import ScopeParameterError, check_choice
from tl_scopes.results.characters import Spans
from tl_scopes.results.records import ScopeInfo

HOW = ("sum", "norm", "max")


def exact_how(scope: ScopeInfo, units: str) -> str | None:
    """Which of `HOW` gives what the scope would score a whole span; None: none, or it is unknown.

    As the record says. Where it does not, by the method's `reduce`, else by its units: squares ("per
    unit^2") add up, anything else "per unit" is taken for a norm.
    """
    if scope.joining:
        return None if scope.joining == "none" else scope.joining
    reduce = scope.parameters.get("reduce")
    if reduce in ("norm", "sum"):
        return str(reduce)
    if "^2" in units or "²" in units:
        return "sum"
    return "norm" if " per unit" in units else None


def checked_how(scope: ScopeInfo, units: str, how: str | None) -> str:
    """`how`, or the exact one in place of None. Raises `ScopeParameterError`."""
    allowed = ", ".join(map(repr, HOW))
    way = exact_how(scope, units) if how is None else how
    if way is None:
        raise ScopeParameterError(
            f"no way of joining tokens is known to be exact for {scope.name!r} (units: "
            f"{units}); choose one yourself: how= {allowed}"
        )
    check_choice("how", way, HOW, hint=", or None for the one that is exact")
    return way


def joined(
    scores: Float[Tensor, "*row pos"],
    error: Float[Tensor, "*row pos"] | None,
    spans: Spans,
    how: str,
) -> tuple[Float[Tensor, "*row span"], Float[Tensor, "*row span"] | None]:
    """Scores of `spans`, and the largest standard errors that they can have."""
    totals, errors = [], []
    for start, end in spans:
        part = scores[..., start:end].double()
        spread = None if error is None else error[..., start:end].double()
        if how == "max":
            at = part.abs().argmax(-1, keepdim=True)
            totals.append(part.gather(-1, at)[..., 0])
            errors.append(None if spread is None else spread.gather(-1, at)[..., 0])
            continue
        weight = torch.ones_like(part)
        total = part.sum(-1)
        if how == "norm":
            total = torch.linalg.vector_norm(part, dim=-1)
            # At zero the slope is any unit vector's, so each token's own counts in full.
            weight = torch.where(total[..., None] > 0, part.abs() / total[..., None], weight)
        totals.append(total)
        errors.append(None if spread is None else (weight * spread).sum(-1))
    joint = torch.stack(totals, -1).to(scores.dtype)
    return joint, None if error is None else torch.stack(errors, -1).to(error.dtype)
