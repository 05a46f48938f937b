"""Any scope over several reads at once, by random signs: as many backward passes as samples.

Formula: the squares of all reads add up, `sum_i sum_l w_il ||v_il^T J_{p_i,t}||^2`. With independent random
signs s, `||sum_i sum_l s_il sqrt(w_il) v_il^T J_{p_i,t}||^2` has that as its mean. Each sample is one backward
pass with cotangents at all reads, and the spread of samples gives a standard error.

For Fisher this is the Fisher information of the tokens of the span under teacher forcing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tl_scopes.adapter.view import ModelView
from tl_scopes.results.records import ScopeInfo
from tl_scopes.rules import Rules
from tl_scopes.scopes.base import Explained, Read, Row, Scope


@dataclass(frozen=True)
class SampledSpan(Scope):
    """`scope` at each of `reads`, by `samples` draws of random signs. Units are those of `scope`.

    Source: Hutchinson's estimator of a trace, for the sum of `tr(J^T F J)` over reads.
    """

    scope: Scope
    reads: tuple[int, ...]
    samples: int
    seed: int = 0
    name = "span"

    @property
    def units(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.scope.units

    @property
    def read_site(self) -> str | int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.scope.read_site

    @property
    def rules(self) -> Rules | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.scope.rules

    @property
    def needs_gain(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.scope.needs_gain

    @property
    def needs_raw_weights(self) -> str | None:
        return self.scope.needs_raw_weights

    @property
    def explains_centred_logit(self) -> bool:
        return self.scope.explains_centred_logit

    def validate(self, d_model: int) -> None:
        self.scope.validate(d_model)

    def parameters(self) -> dict[str, Any]:
        return {**self.scope.parameters(), "span_samples": self.samples}

    def info(self, explained: Explained) -> ScopeInfo:
        return replace(self.scope.info(explained), parameters=self.parameters())

    def rows(self, view: ModelView, ids: Sequence[int]) -> list[Row]:
        return [Row([*ids], self.reads)]

    def explain(self, read: Read) -> Explained:
        generator = torch.Generator("cpu").manual_seed(self.seed)
        sums: list[torch.Tensor] = []
        squared = False
        for value, next_id in zip(read.value, read.next_ids):
            one = Read(
                value, read.head.raw_logits(value[None])[0], read.head, read.token_of, next_id
            )
            explained = self.scope.explain(one)
            squared = explained.squared
            vectors = explained.vectors
            signs = torch.randint(
                0, 2, (self.samples, len(vectors)), generator=generator, device="cpu"
            )
            roots = (2 * signs - 1) * explained.every_weight.cpu().double().sqrt()
            sums.append(roots.to(vectors) @ vectors)
        weights = torch.ones(0, dtype=torch.float64, device="cpu")
        return Explained(torch.stack(sums, 1), weights, squared=squared, n_sampled=self.samples)
