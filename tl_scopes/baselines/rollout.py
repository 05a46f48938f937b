"""Attention rollout: attention multiplied through the layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tl_scopes.adapter.sites import Site
from tl_scopes.baselines.method import Method, Scored
from tl_scopes.errors import SiteError, check_number
from tl_scopes.jacobian.forward import look
from tl_scopes.jacobian.prompt_run import PromptRun


@dataclass(frozen=True)
class AttentionRollout(Method):
    """The share of the read position's attention that goes back to each token, through all layers.

    The product over layers of `(1 - residual) A + residual I`, with `A` the attention pattern averaged
    over heads; at `resid(l)` the product starts with block l. It knows nothing of values, MLPs or
    targets. Units: share (sums to 1 over tokens). Raises `SiteError` at other sites, or where the
    model shows no patterns. Source: Abnar and Zuidema, arXiv 2005.00928.

        >>> baselines.AttentionRollout().attribute(model, "The capital of France is").top(3)
    """

    residual: float = 0.5
    name = "attention_rollout"
    title = "Attention rollout from the read position"
    joining = "sum"
    needs_gradients = False
    shows_causality = True

    @property
    def units(self) -> str:
        return "share of attention"

    def __post_init__(self) -> None:
        check_number("residual", self.residual, lambda x: 0 <= x < 1, "a share from 0 to below 1")

    def scores(self, prompt_run: PromptRun, site: Site) -> Scored:
        view = prompt_run.view
        first = 0 if site.is_embed else site.layer
        if first is None:
            raise SiteError(
                f"attention rollout goes from layer to layer, so it has no site {site.label!r}; use "
                '"embed", or a layer'
            )
        hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(first, view.n_layers)]
        seen, _ = look(view, prompt_run.tokens(1), [view.site(hook) for hook in hooks])
        row = torch.zeros(len(prompt_run.run), dtype=torch.float64, device="cpu")
        row[prompt_run.position] = 1
        for hook in reversed(hooks):
            row = self._through(row, seen[hook], hook)
        return Scored(row)

    def _through(self, row: Tensor, patterns: list[Tensor], hook: str) -> Tensor:
        n = len(row)
        if len(patterns) != 1 or patterns[0].shape[-2:] != (n, n):
            raise SiteError(
                f"attention rollout needs the patterns at {hook!r}, [batch, head, query, key], which "
                "this model does not show: load it with eager attention"
            )
        pattern = patterns[0][0].cpu().double().mean(0)
        return (1 - self.residual) * (row @ pattern) + self.residual * row
