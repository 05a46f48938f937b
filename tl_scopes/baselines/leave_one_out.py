"""Leave-one-out: what the prediction loses without one token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from tl_scopes.adapter.sites import Site
from tl_scopes.baselines.ablation import REPLACEMENTS, Replacement, leave_one_out
from tl_scopes.baselines.method import Method, Scored
from tl_scopes.baselines.target import NUMBERS
from tl_scopes.errors import check_choice
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.records import Token
from tl_scopes.scopes.base import Target

_UNITS = {"kl": "nats", "log_prob": "nats", "logit": "logit"}


@dataclass(frozen=True)
class LeaveOneOut(Method):
    """The effect on the prediction of each token taken away alone, by real forward passes.

    `measure`: "kl", KL(intact || without), nats; or how far the "log_prob" (nats) or the raw "logit" of
    `target` falls, which may be negative. `replacement`: "zero", or (at the embedding) the embedding of
    the tokenizer's "pad" or "bos", or the "mean" embedding of the vocabulary (at other sites: the mean
    over the prompt); "hide": no token attends to it in any layer, all keep their places. BOS is one of
    the tokens. One forward pass a token, batched. Source: arXiv 1612.08220 (Li, Monroe, Jurafsky).

        >>> baselines.LeaveOneOut(measure="log_prob").attribute(model, "The capital of France is").top(3)
    """

    target: Target = None
    measure: Literal["kl", "log_prob", "logit"] = "kl"
    replacement: Replacement = "zero"
    name = "leave_one_out"
    argument = "replacement"
    joining = "none"  # leaving out a span is not the sum of leaving out its tokens
    needs_gradients = False

    def __post_init__(self) -> None:
        check_choice("measure", self.measure, _UNITS)
        check_choice("replacement", self.replacement, REPLACEMENTS)

    @property
    def units(self) -> str:
        return _UNITS[self.measure]

    @property
    def title(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.measure == "kl":
            return "How the next-token distribution changes without each token"
        return f"How {NUMBERS[self.measure]} falls without each token"

    @property
    def signs(self) -> tuple[str, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.measure == "kl":
            return "", ""
        return f"{NUMBERS[self.measure]} falls without the token", "it rises"

    @property
    def explains_centred_logit(self) -> bool:
        return self.measure == "logit"

    def target_of(self, prompt_run: PromptRun) -> Token | None:
        return None if self.measure == "kl" else prompt_run.read.resolve(self.target)

    def scores(self, prompt_run: PromptRun, site: Site) -> Scored:
        target = self.target_of(prompt_run)
        token = 0 if target is None else target.id
        shape = prompt_run.activation(site).shape
        values = torch.zeros(shape[1:-1], dtype=torch.float64, device="cpu")
        for _, component in site.components(shape[2:-1]):
            lost = leave_one_out(prompt_run, self.replacement, token, site, component)
            losses = {"kl": lost.kl, "log_prob": lost.fall, "logit": lost.logit}[self.measure]
            values[(slice(0, len(losses)), *component)] = losses
        return Scored(values)
