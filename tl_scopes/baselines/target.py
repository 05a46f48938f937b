"""What gradient methods explain: one number of the prediction, and how a product becomes a score."""

from __future__ import annotations

import types
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Union

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import Unembedding, working_dtype
from tl_scopes.baselines.method import Method, Scored
from tl_scopes.errors import ScopeParameterError, check_choice
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.records import Token
from tl_scopes.rules import Ruled, check_rules, rules_of
from tl_scopes.scopes.base import Target
from tl_scopes.scopes.continuation import ContinuationScope

WholeTarget = Union[Target, ContinuationScope]
Of = Literal["log_prob", "logit"]
Reduce = Literal["norm", "sum"]
UNITS = {"log_prob": "nats", "logit": "logit"}
# The number of the prediction that is explained, as `ScopeInfo.explains` writes it.
NUMBERS = {
    "log_prob": "the log-probability of the next token{target}",
    "logit": "the logit of the next token{target}",
}


def check_reduce(reduce: Any) -> None:
    """Raises `ScopeParameterError`."""
    check_choice("reduce", reduce, ("norm", "sum"), hint=" (signed: adds up over tokens)")


def value_of(
    head: Unembedding, y: Float[Tensor, "*row d_model"], token: int, of: str
) -> Float[Tensor, "*row"]:
    """The raw logit (before the model's output transform) or the log-probability of `token`."""
    raw = head.raw_logits(y.reshape(-1, y.shape[-1]))
    values = raw if of == "logit" else head.logits(raw).log_softmax(-1)
    return values[:, token].reshape(y.shape[:-1])


def number_of(scope: ContinuationScope | None, of: str) -> str:
    """The number that is explained, as `ScopeInfo.title` writes it."""
    return NUMBERS[of] if scope is None else scope.explains


def check_same(name: str, value: str, allowed: tuple[str, ...], scope: ContinuationScope) -> None:
    """Raises `ScopeParameterError` for another quantity than the target's."""
    if value not in allowed:
        raise ScopeParameterError(
            f"{name} is {value!r}, but the target is a ContinuationScope of its {scope.of!r}: drop {name}, "
            f"or give of={value!r} to the ContinuationScope"
        )


def reduced(products: Tensor, reduce: str) -> Tensor:
    """Over the last axis, in float32 at least."""
    products = products.to(working_dtype(products.dtype))
    if reduce == "sum":
        return products.sum(-1)
    return torch.linalg.vector_norm(products, dim=-1)


@dataclass(frozen=True)
class Explaining(Ruled, Method):
    """A method that explains one number of the prediction.

    `target`: as in `SemanticScope`. `of`: its log-probability ("log_prob", nats) or its raw logit. Or
    `target` is a `ContinuationScope`, whose scalar is explained; then its own `of` counts. `rules`:
    gradient rules (`tl_scopes.rules`), None for plain gradients.
    """

    target: WholeTarget = None
    of: Of = "log_prob"
    shows_causality = True
    label = ""
    options = types.MappingProxyType({"continuation": "target"})

    def __post_init__(self) -> None:
        check_choice("of", self.of, UNITS)
        check_rules(self.rules)
        scope = self.whole_answer
        if scope is not None:
            check_same("of", self.of, (type(self).of, scope.of), scope)
            object.__setattr__(self, "of", scope.of)

    @property
    def units(self) -> str:
        return UNITS[self.of]

    @property
    def number(self) -> str:
        """What is explained, as the end of a sentence."""
        return number_of(self.whole_answer, self.of)

    @property
    def title(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.label} of {self.number}"

    @property
    def signs(self) -> tuple[str, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"adds to {self.number}", "takes away from it"

    @property
    def explains_centred_logit(self) -> bool:
        scope = self.whole_answer
        return self.of == "logit" if scope is None else scope.explains_centred_logit

    def target_of(self, prompt_run: PromptRun) -> Token | None:
        target = self.target
        return None if isinstance(target, ContinuationScope) else prompt_run.read.resolve(target)

    def scores(self, prompt_run: PromptRun, site: Site) -> Scored:
        first, *others = (self.products(one, site) for one in prompt_run.alone)
        shared = prompt_run.shared
        for other in others:  # gradients are subtracted before they are reduced
            first = first[:shared] - other[:shared]
        return Scored(
            reduced(first, getattr(self, "reduce", "norm")), lambda: self.facts(prompt_run, site)
        )

    @abstractmethod
    def products(self, prompt_run: PromptRun, site: Site) -> Float[Tensor, "pos *d"]:
        """What becomes a score by its norm, or its sum, over d_model: linear in what is explained."""

    def facts(self, prompt_run: PromptRun, site: Site) -> dict[str, Any]:
        """For the record, after `products`."""
        return {}

    def explained(self, prompt_run: PromptRun, site: Site) -> Callable[[Tensor], Tensor]:
        """The number, [row], as a function of the activation at `site`, [row, pos, ...]."""
        rest, read = prompt_run.rest(site, rules_of(self)), prompt_run.read
        scope = self.whole_answer
        if scope is not None:
            return lambda activation: torch.stack(
                [scope.total(replace(read, value=y)) for y in rest(activation)]
            )
        token = read.resolve(self.target).id  # pyright: ignore[reportArgumentType]
        return lambda activation: value_of(read.head, rest(activation), token, self.of)

    def gradient(self, prompt_run: PromptRun, site: Site) -> Float[Tensor, "pos *d"]:
        """Of that number at the intact activation."""
        key = self.gradient_key(prompt_run, site)
        if key not in prompt_run.remembered:
            x = prompt_run.activation(site).requires_grad_()
            (gradient,) = torch.autograd.grad(self.explained(prompt_run, site)(x).sum(), x)
            prompt_run.remembered[key] = gradient[0]
        return prompt_run.remembered[key]

    def gradient_key(self, prompt_run: PromptRun, site: Site) -> tuple[Any, ...]:
        """What names it among the things that methods of one prompt share."""
        token = self.target_of(prompt_run)
        explained = self.whole_answer if token is None else token.id
        return ("gradient", site.label, explained, self.of, rules_of(self))
