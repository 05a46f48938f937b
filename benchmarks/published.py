"""The published method as its paper describes it (arXiv 2601.16407), independent of the package.

A Hugging Face model is given embeddings and computes the logits of every position. For a Fisher scope it
runs twice, as in the authors' own code: for the logits that F is summed from, over the whole vocabulary,
and again for the eigenvectors of F (by an SVD), each of which takes a backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Published:
    """Scopes at the input embedding of the last position's prediction. Scores are [pos]."""

    model: Any

    def semantic(self, ids: Tensor, target: int | None = None) -> Tensor:
        embeddings, _, logits = self._forward(ids)
        chosen = int(logits.argmax()) if target is None else target
        return _gradient(logits[chosen], embeddings).norm(dim=-1)

    def temperature(self, ids: Tensor) -> Tensor:
        embeddings, y, _ = self._forward(ids)
        return _gradient((y / y.norm()).detach() @ y, embeddings).norm(dim=-1)

    def fisher(self, ids: Tensor, k: int | None) -> Tensor:
        """`k` eigenvectors; None: all d_model of them."""
        _, _, logits = self._forward(ids)
        W = self.model.get_output_embeddings().weight.detach()
        p = torch.softmax(logits.detach(), dim=-1)
        mu = p @ W
        F = (W * p[:, None]).T @ W - torch.outer(mu, mu)
        vectors, values, _ = torch.linalg.svd(F)
        k = len(values) if k is None else k
        embeddings, y, _ = self._forward(ids)
        scores = torch.zeros(ids.shape[1])
        for i in range(k):
            pulled = _gradient(vectors[:, i] @ y, embeddings, keep=i + 1 < k)
            scores += values[i] * pulled.square().sum(-1)
        return scores

    def _forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embeddings = self.model.get_input_embeddings()(ids).detach().requires_grad_()
        out = self.model(inputs_embeds=embeddings, output_hidden_states=True, use_cache=False)
        return embeddings, out.hidden_states[-1][0, -1], out.logits[0, -1].float()


def _gradient(value: Tensor, embeddings: Tensor, keep: bool = False) -> Tensor:
    return torch.autograd.grad(value, embeddings, retain_graph=keep)[0][0]
