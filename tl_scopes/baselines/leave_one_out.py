"""Leave-one-out: what the prediction loses without one token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.sites import Site
from tl_scopes.baselines.ablation import Alteration, leave_one_out
from tl_scopes.baselines.method import Method, Scored
from tl_scopes.baselines.replacements import REPLACEMENTS, Replacement
from tl_scopes.baselines.target import Explaining, WholeTarget, check_same, number_of
from tl_scopes.errors import ScopeParameterError, check_choice, check_seed, check_whole
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.records import Token
from tl_scopes.scopes.continuation import ContinuationScope

_UNITS = {"kl": "nats", "log_prob": "nats", "logit": "logit"}


@dataclass(frozen=True)
class LeaveOneOut(Method):
    """The effect on the prediction of each token taken away alone, by real forward passes.

    `measure`: "kl", KL(intact || without), nats; or how far the "log_prob" (nats) or the raw "logit" of
    `target` falls, which may be negative. `replacement`: "zero", or (at the embedding) the embedding of
    the tokenizer's "pad" or "bos", or the "mean" embedding of the vocabulary (at other sites: the mean
    over the prompt); "hide": no token attends to it in any layer, all keep their places; "likely" (at the
    embedding): tokens that the model itself expects in its place, the mean over `draws` of them by `seed`,
    so that every text could have been written; BOS, or a first token, which nothing predicts, stays and
    scores 0. BOS is one of the tokens. Of a `ContinuationScope` as `target`: the fall of its scalar, or the
    sum of the KL divergences at its reads (their mean with `reduce="mean"`), while the continuation stays
    as it is. One forward pass a token and draw, batched; what stands before the token is run once.
    Source: arXiv 1612.08220 (Li, Monroe, Jurafsky).

        >>> baselines.LeaveOneOut(measure="log_prob").attribute(model, "The capital of France is").top(3)
    """

    target: WholeTarget = None
    measure: Literal["kl", "log_prob", "logit"] = "kl"
    replacement: Replacement = "zero"
    draws: int = 5
    seed: int = 0
    name = "leave_one_out"
    argument = "replacement"
    options = Explaining.options
    joining = "none"  # leaving out a span is not the sum of leaving out its tokens
    needs_gradients = False

    def __post_init__(self) -> None:
        check_choice("measure", self.measure, _UNITS)
        check_choice("replacement", self.replacement, REPLACEMENTS)
        check_whole("draws", self.draws, 1)
        check_seed(self.seed)
        scope = self.whole_answer
        if scope is None:
            return
        check_same("measure", self.measure, ("kl", scope.of), scope)
        if self.measure == "kl" and scope.versus is not None:
            raise ScopeParameterError(
                'measure="kl" is of one continuation: use measure="log_prob" (or "logit"), or drop versus'
            )

    def parameters(self) -> dict[str, Any]:
        of_draws = () if self.replacement == "likely" else ("draws", "seed")
        return {k: v for k, v in super().parameters().items() if k not in of_draws}

    @property
    def units(self) -> str:
        return _UNITS[self.measure]

    @property
    def number(self) -> str:
        """What falls, as the end of a sentence."""
        return number_of(self.whole_answer, self.measure)

    @property
    def title(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.measure != "kl":
            return f"How {self.number} falls without each token"
        scope = self.whole_answer
        if scope is None:
            return "How the next-token distribution changes without each token"
        return f"How the distributions along {scope.placeholder('continuation')} change without each token"

    @property
    def signs(self) -> tuple[str, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.measure == "kl":
            return "", ""
        return f"{self.number} falls without the token", "it rises"

    @property
    def explains_centred_logit(self) -> bool:
        scope = self.whole_answer
        return self.measure == "logit" and (scope is None or scope.explains_centred_logit)

    def target_of(self, prompt_run: PromptRun) -> Token | None:
        if self.measure == "kl" or isinstance(self.target, ContinuationScope):
            return None
        return prompt_run.read.resolve(self.target)

    def scores(self, prompt_run: PromptRun, site: Site) -> Scored:
        first, *others = (self._losses(one, site) for one in prompt_run.alone)
        for other in others:
            first = first[: prompt_run.shared] - other[: prompt_run.shared]
        return Scored(first)

    def _losses(self, prompt_run: PromptRun, site: Site) -> Float[Tensor, "pos ..."]:
        target, scope = self.target_of(prompt_run), self.whole_answer
        tokens = prompt_run.read.next_ids or (0 if target is None else target.id,)
        count = len(tokens) if scope is not None and scope.reduce == "mean" else 1
        shape = prompt_run.activation(site).shape
        values = torch.zeros(shape[1:-1], dtype=torch.float64, device="cpu")
        for _, component in site.components(shape[2:-1]):
            each = Alteration((), self.replacement, self.seed)
            lost = leave_one_out(prompt_run, each, self.draws, tokens, site, component)
            losses = {"kl": lost.kl, "log_prob": lost.fall, "logit": lost.logit}[self.measure]
            values[(slice(0, len(losses)), *component)] = losses / count
        return values
