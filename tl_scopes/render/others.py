"""What other tokens would change, in words beside the tokens of a page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from tl_scopes.errors import RenderError
from tl_scopes.render.answer import Answer
from tl_scopes.render.colours import number
from tl_scopes.render.picture import Picture
from tl_scopes.render.tokens import quoted, words
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import Substitution
from tl_scopes.results.substitutions import Substitutions

# Of each token.
STRONGEST = 3
_S = TypeVar("_S", Picture, Answer)


def beside(drawn: _S, result: Attribution, others: Any) -> _S:
    """`drawn`, whose tokens say which others in their place would change most. Raises `RenderError`."""
    if not isinstance(others, Substitutions):
        raise RenderError(
            f"substitutions is of type {type(others).__name__}; allowed: what tl_scopes.substitutions returned"
        )
    read = others.position, others.tokens.tolist()
    if result.spans or read != (result.position, result.tokens.tolist()):
        raise RenderError(
            "the substitutions are of other tokens, or of another read position, than this result (groups "
            "have none): ask tl_scopes.substitutions for the same prompt and position"
        )
    told = [""] * len(others.str_tokens)
    for position in others.positions:
        strongest = others.at(position)[:STRONGEST]
        if strongest:
            listed = ", ".join(_change(each, others.signed) for each in strongest)
            told[position] = f"; in its place: {listed} {words(others.units)}"
    if isinstance(drawn, Answer):
        return replace(drawn, places=tuple(map("".join, zip(drawn.places, told))))
    return replace(drawn, others=tuple(told))


def _change(each: Substitution, signed: bool) -> str:
    plus = "+" if signed and each.effect > 0 else ""
    real = "" if each.measured is None else f" (measured {number(each.measured)})"
    return f"{quoted(each.text, 24)} {plus}{number(each.effect)}{real}"
