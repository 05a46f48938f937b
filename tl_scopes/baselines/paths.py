"""Methods that average gradients along a straight path from a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Union, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.baselines.replacements import REPLACEMENTS, replacement
from tl_scopes.baselines.target import Explaining, Of, Reduce, WholeTarget, check_reduce
from tl_scopes.errors import ScopeParameterError, check_choice, check_whole
from tl_scopes.jacobian.prompt_run import PromptRun

Rule = Literal[
    "gausslegendre",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
    "published",
]
RULES = get_args(Rule)
_BASELINES = tuple(kind for kind in REPLACEMENTS if kind not in ("hide", "likely"))


@dataclass(frozen=True)
class IntegratedGradients(Explaining):
    """The path integral of the gradient from a baseline, times what lies between, elementwise.

    `steps`: gradients on the path. `baseline`: "zero", or (at the embedding) the embedding of the
    tokenizer's "pad" or "bos" or the "mean" of the vocabulary for every token, or a tensor [d_model] or
    [pos, d_model]. `rule`: captum's quadratures, or "published": the mean of `a` times the gradient at
    share a = 1/steps, 2/steps, .., 1 of the way, as in the code of arXiv 2601.16407, which (unlike
    integrated gradients) lets each step carry its a. `reduce`: the 2-norm over d_model, or the signed
    sum, which adds up over tokens to the change from the baseline. How far it misses that is in the
    result's `scope.parameters["convergence_delta"]`. Units: nats (`of="logit"`: logit).
    Source: Sundararajan, Taly, Yan, arXiv 1703.01365; by captum's `IntegratedGradients`.

        >>> baselines.IntegratedGradients(steps=20, baseline="mean").attribute(model, "The capital of France is").top(3)
    """

    steps: int = 50
    baseline: Union[str, Tensor] = "zero"
    rule: Rule = "gausslegendre"
    reduce: Reduce = "norm"
    name = "integrated_gradients"
    argument = "steps"
    label = "Integrated gradients"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self.reduce)
        baseline = self.baseline
        if isinstance(baseline, Tensor):
            # A copy: a frozen method must not change with what the caller does later.
            object.__setattr__(self, "baseline", baseline.detach().clone())
        else:
            check_choice("baseline", baseline, _BASELINES, hint=", or a tensor")
        check_choice("rule", self.rule, RULES)
        check_whole("steps", self.steps, 2 if self.rule.startswith("riemann") else 1)

    def parameters(self) -> dict[str, Any]:
        plain = "tensor" if isinstance(self.baseline, Tensor) else self.baseline
        return super().parameters() | {"baseline": plain}

    def products(self, prompt_run: PromptRun, site: Site) -> Float[Tensor, "pos *d"]:
        x = prompt_run.activation(site)
        start = self._start(prompt_run, site, x)
        if self.rule == "published":
            mean = self.mean_gradient(prompt_run, site, start, x, weights=self.shares)
            products = mean * (x[0] - start[0])
        else:
            products = self._standard(prompt_run, site, start, x)
        prompt_run.remembered["sum along the path", site.label, self] = products.double().sum()
        return products

    def facts(self, prompt_run: PromptRun, site: Site) -> dict[str, float]:
        misses = []
        for one in prompt_run.alone:
            explained, x = self.explained(one, site), one.activation(site)
            with torch.no_grad():
                change = float(explained(x)) - float(explained(self._start(one, site, x)))
            misses.append(float(one.remembered["sum along the path", site.label, self]) - change)
        return {"convergence_delta": misses[0] - sum(misses[1:])}

    @property
    def shares(self) -> list[float]:
        """Of the way along the path, where the published code takes gradients."""
        return [i / self.steps for i in range(1, self.steps + 1)]

    def _start(self, prompt_run: PromptRun, site: Site, x: Tensor) -> Tensor:
        baseline = self.baseline
        if not isinstance(baseline, Tensor):
            return replacement(prompt_run, site, baseline).to(x).expand_as(x).clone()
        whole = (len(prompt_run.ids), *x.shape[2:])
        run = baseline[: x.shape[1]] if baseline.shape == whole else baseline
        try:
            start = run.to(x).expand(x.shape[1:])[None].clone()
        except RuntimeError:
            raise ScopeParameterError(
                f"baseline has shape {tuple(baseline.shape)}, the activation at {site.label!r} {whole}: "
                "give one that is equal, or the same for every position"
            ) from None
        return start / prompt_run.view.embed_scale if site.is_embed else start

    def _standard(self, prompt_run: PromptRun, site: Site, start: Tensor, x: Tensor) -> Tensor:
        from captum.attr import IntegratedGradients as Captum

        with x.device:  # captum puts numbers on the default device, which may hold none
            found = Captum(self.explained(prompt_run, site)).attribute(
                x,
                start,
                n_steps=self.steps,
                method=self.rule,
                internal_batch_size=prompt_run.rows_at_once(gradients=True),
            )
        return found[0]

    def mean_gradient(
        self,
        prompt_run: PromptRun,
        site: Site,
        start: Float[Tensor, "1 pos *d"],
        x: Float[Tensor, "1 pos *d"],
        weights: list[float],
    ) -> Float[Tensor, "pos *d"]:
        """The mean over `shares` of the way from `start` to `x` of weight times the gradient there."""
        explained = self.explained(prompt_run, site)
        size = prompt_run.rows_at_once(gradients=True)
        total = torch.zeros_like(x[0], dtype=working_dtype(x.dtype))
        key = self.gradient_key(prompt_run, site)
        left = list(zip(self.shares, weights))
        if key in prompt_run.remembered:  # that at the end of the path
            total += sum(w for a, w in left if a == 1) * prompt_run.remembered[key]
            left = [(a, w) for a, w in left if a != 1]
        for first in range(0, len(left), size):
            part = left[first : first + size]
            a, w = (x.new_tensor(v).reshape(-1, *[1] * (x.ndim - 1)) for v in zip(*part))
            point = (start + a * (x - start)).requires_grad_()
            (gradients,) = torch.autograd.grad(explained(point).sum(), point)
            total += (w * gradients).sum(0)
            if part[-1][0] == 1:
                prompt_run.remembered[key] = gradients[-1]
        return total / self.steps


@dataclass(frozen=True)
class SemanticPath(IntegratedGradients):
    """Path-integrated semantic scope: mean gradient of the target logit over scaled embeddings, times
    the change along the path, elementwise, then the 2-norm.

    The embeddings of all tokens, BOS too, are scaled by 1/steps, 2/steps, .., 1; the change is that from
    the first of these to the last. Its weights are its own: `rule` must be left alone. Units: logit
    (`of="log_prob"`: nats). Source: arXiv 2601.16407, path-integrated semantic scope, whose code has
    `steps=5`.

        >>> baselines.SemanticPath(" Paris").attribute(model, "The capital of France is").top(3)
    """

    steps: int = 5
    of: Of = "logit"
    name = "semantic_path"
    label = "Path-integrated semantic scope"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps, 2)  # of one alone, nothing changes along the path
        if self.rule != IntegratedGradients.rule:
            raise ScopeParameterError(
                f"rule is {self.rule!r}, but the weights of semantic_path are its own: drop rule, or "
                "use IntegratedGradients"
            )

    def parameters(self) -> dict[str, Any]:
        return {key: value for key, value in super().parameters().items() if key != "rule"}

    def products(self, prompt_run: PromptRun, site: Site) -> Float[Tensor, "pos *d"]:
        x = prompt_run.activation(site)
        start = self._start(prompt_run, site, x)
        mean = self.mean_gradient(prompt_run, site, start, x, weights=[1.0] * self.steps)
        return mean * (1 - self.shares[0]) * (x[0] - start[0])

    def facts(self, prompt_run: PromptRun, site: Site) -> dict[str, float]:
        return {}


def published(target: WholeTarget = None) -> IntegratedGradients:
    """Integrated gradients as the code of arXiv 2601.16407 has them: five steps, by its own rule."""
    return IntegratedGradients(target, steps=5, rule="published")


published.options = IntegratedGradients.options  # pyright: ignore[reportFunctionMemberAccess]
