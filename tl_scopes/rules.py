"""Gradient rules: backward passes that differ on purpose from the gradient; values stay as they are.

A gradient tells what a small step does. Where a model multiplies two parts that both depend on the prompt, or
where softmax is nearly sure, a larger step does something else. Rules change what single operations hand
back. `GIM` names the published combination; scopes and baselines carry rules as `rules=`.

Source: Edin et al., arXiv 2505.17630 (GIM); products halved and norm scales held constant also in the rules of
layer-wise relevance propagation (AttnLRP, Achtibat et al., arXiv 2402.05602; RelP).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, Union

from tl_scopes.errors import ScopeParameterError, check_number

Frozen = Union[Literal["patterns", "norms", "both"], Iterable[str], None]
# As the fields of a record have them, which are tuples once they are checked.
_Held = Union[Literal["patterns", "norms", "both"], tuple[str, ...], list[str], None]
_Split = Union[Literal["attention", "mlp", "both"], tuple[str, ...], list[str], None]

__all__ = ["GIM", "Rules"]

_FROZEN = ("patterns", "norms")
_PRODUCTS = ("attention", "mlp")
_M = TypeVar("_M")


@dataclass(frozen=True)
class Rules:
    """What gradients do other than differentiate. Without arguments: nothing.

    `softmax_temperature`: T of the softmax of attention on the way back. Patterns stay `softmax(x)`; their
    gradient with respect to the scores x is `diag(s) - s s^T` with `s = softmax(x / T)` in the place of
    the pattern (as the authors' code has it, without the factor 1 / T of the derivative of
    `softmax(x / T)`). Above 1, keys that a pattern all but ignores get a gradient too.

    `split_products`: products whose two factors share what comes back, a half each. `"attention"`: patterns
    times values and queries times keys, so that values get a half and queries and keys, which lead to
    patterns, a quarter. `"mlp"`: gate times up of a gated MLP (of an MLP without a gate nothing).
    `"both"`, or a list.

    `frozen`: what gradients hold constant: attention `"patterns"`, `"norms"` (their scales), `"both"`.

    Raises `ScopeParameterError`. A model that does not show what a rule changes (fused attention, experts)
    is refused with `UnsupportedModelError` where it is asked.
    Source: arXiv 2505.17630.

        >>> tempered = Rules(softmax_temperature=2, frozen="norms")
        >>> attribute(model, "The capital of France is", SemanticScope(), rules=tempered)
    """

    softmax_temperature: float = 1.0
    split_products: _Split = ()
    frozen: _Held = ()

    def __post_init__(self) -> None:
        check_number(
            "softmax_temperature",
            self.softmax_temperature,
            lambda t: 0 < t < math.inf,
            "a number above 0",
        )
        object.__setattr__(self, "softmax_temperature", float(self.softmax_temperature))
        split = _parts("split_products", self.split_products, _PRODUCTS)
        object.__setattr__(self, "split_products", split)
        object.__setattr__(self, "frozen", parse_frozen(self.frozen))

    def __str__(self) -> str:
        if self == GIM():
            return "GIM"
        told = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        values = {name: getattr(self, name) for name in told}
        return ", ".join(
            f"{name}={'+'.join(v) if isinstance(v, tuple) else v}" for name, v in values.items()
        )

    def splits(self, product: str) -> bool:
        """Whether the factors of `"attention"`, or of an `"mlp"`, share what comes back."""
        return product in (self.split_products or ())

    def holds(self, part: str) -> bool:
        """Whether gradients take `"patterns"`, or `"norms"`, for constants."""
        return part in (self.frozen or ())

    def on(self, method: _M) -> _M:
        """A scope, or a baseline of gradients, that carries these rules: a copy.

        For evaluation, and for scopes of your own; those of the package take `rules=` themselves. Raises
        `ScopeParameterError` for a method that asks for no gradient.

            >>> evaluation.measure(model, prompts, [MyScope(), rules.GIM().on(MyScope())])
        """
        if isinstance(method, type) or not hasattr(method, "rules"):
            raise ScopeParameterError(
                f"{method!r} takes no gradient rules: give a scope, such as FisherScope(), or a baseline "
                "of gradients, such as baselines.InputXGradient()"
            )
        ruled = copy.copy(method)
        # A scope of the user's may have no field for them.
        object.__setattr__(ruled, "rules", self)
        return ruled


def GIM() -> Rules:
    """Gradient Interaction Modifications: softmax at temperature 2, all products split, norms held.

    Source: Edin et al., arXiv 2505.17630.

        >>> attribute(model, "The capital of France is", SemanticScope(), rules=GIM())
    """
    return Rules(softmax_temperature=2.0, split_products="both", frozen="norms")


@dataclass(frozen=True)
class Ruled:
    """Has gradient rules. `rules`: None for plain gradients."""

    rules: Rules | None = field(default=None, kw_only=True, repr=False)


def check_rules(rules: Any) -> None:
    """Raises `ScopeParameterError` for what is neither rules nor None."""
    if rules is not None and not isinstance(rules, Rules):
        raise ScopeParameterError(
            f"rules is {rules!r}; allowed: Rules(...), GIM() of tl_scopes.rules, or None (plain gradients)"
        )


def under(method: _M, rules: Rules | None) -> _M:
    """`method` with `rules`; with its own where they are None. Raises `ScopeParameterError`."""
    check_rules(rules)
    return method if rules is None else rules.on(method)


def rules_of(method: Any) -> Rules | None:
    """Those that a scope or method carries; None where they change nothing."""
    rules = getattr(method, "rules", None)
    check_rules(rules)
    return None if rules == Rules() else rules


def holding(rules: Rules | None, frozen: Frozen) -> Rules | None:
    """The same rules with more parts held constant. Raises `ScopeParameterError`."""
    parts = parse_frozen(frozen)
    if not parts:
        return rules
    before = rules or Rules()
    return replace(before, frozen=[part for part in _FROZEN if part in parts or before.holds(part)])


def parse_frozen(frozen: Frozen) -> tuple[str, ...]:
    """The parts to hold constant. Raises `ScopeParameterError`."""
    return _parts("frozen", frozen, _FROZEN)


def _parts(name: str, given: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    asked = () if given is None else (given,) if isinstance(given, str) else given
    parts = list(asked) if isinstance(asked, Iterable) else [asked]
    parts = list(known) if parts == ["both"] else parts
    if not all(isinstance(part, str) and part in known for part in parts):
        each = [repr(part).replace("'", '"') for part in known]
        raise ScopeParameterError(
            f'{name} is {given!r}; allowed: None, {", ".join(each)}, "both", or a list of '
            f"{' and '.join(each)}"
        )
    return tuple(part for part in known if part in parts)
