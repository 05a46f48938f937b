"""Which token a model's logits make it write next."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.errors import check_number, check_seed, check_whole


class Sampler:
    """Takes the likeliest token (`temperature` 0), or draws one by `softmax(logits / temperature)`.

    `top_k`, `top_p`: among the k likeliest only, and the fewest that hold p of the probability, in this
    order after the temperature, as transformers does. Draws come from a generator of its own on the CPU.
    Raises `ScopeParameterError`.
    """

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float | None, seed: int
    ) -> None:
        from transformers import TopKLogitsWarper, TopPLogitsWarper

        finite = "a finite number from 0, which takes the likeliest token"
        check_number("temperature", temperature, lambda t: 0 <= t < math.inf, finite)
        check_whole("top_k", top_k, 1, also=[None])
        check_number("top_p", top_p, lambda p: 0 < p <= 1, "a number above 0, to 1", also=[None])
        check_seed(seed)
        self.temperature = temperature
        self.warpers: list[Any] = [] if top_k is None else [TopKLogitsWarper(top_k)]
        self.warpers += [] if top_p is None else [TopPLogitsWarper(float(top_p))]
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def __call__(self, logits: Float[Tensor, "d_vocab"]) -> int:
        logits = logits.detach().cpu().double()
        if self.temperature == 0:
            return int(logits.argmax())
        # Less the largest, which a temperature near zero would make infinite.
        scaled = ((logits - logits.max()) / self.temperature)[None]
        for warper in self.warpers:
            scaled = warper(None, scaled)
        return int(torch.multinomial(scaled[0].softmax(0), 1, generator=self.generator))
