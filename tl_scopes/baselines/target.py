"""What gradient methods explain: one number of the prediction, and how a product becomes a score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import Unembedding, working_dtype
from tl_scopes.baselines.method import Method
from tl_scopes.errors import check_choice
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.records import Token
from tl_scopes.scopes.base import Target

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


def reduced(products: Tensor, reduce: str) -> Tensor:
    """Over the last axis, in float32 at least."""
    products = products.to(working_dtype(products.dtype))
    if reduce == "sum":
        return products.sum(-1)
    return torch.linalg.vector_norm(products, dim=-1)


@dataclass(frozen=True)
class Explaining(Method):
    """A method that explains one number of the prediction.

    `target`: as in `SemanticScope`. `of`: its log-probability ("log_prob", nats) or its raw logit.
    """

    target: Target = None
    of: Of = "log_prob"
    shows_causality = True
    label = ""

    def __post_init__(self) -> None:
        check_choice("of", self.of, UNITS)

    @property
    def units(self) -> str:
        return UNITS[self.of]

    @property
    def title(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.label} of {NUMBERS[self.of]}"

    @property
    def signs(self) -> tuple[str, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"adds to {NUMBERS[self.of]}", "takes away from it"

    @property
    def explains_centred_logit(self) -> bool:
        return self.of == "logit"

    def target_of(self, prompt_run: PromptRun) -> Token:
        return prompt_run.read.resolve(self.target)

    def explained(self, prompt_run: PromptRun, site: Site) -> Callable[[Tensor], Tensor]:
        """The number, [row], as a function of the activation at `site`, [row, pos, ...]."""
        rest, head = prompt_run.rest(site), prompt_run.read.head
        token = self.target_of(prompt_run).id
        return lambda activation: value_of(head, rest(activation), token, self.of)

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
        return ("gradient", site.label, self.target_of(prompt_run).id, self.of)
