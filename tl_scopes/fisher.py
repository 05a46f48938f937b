"""Factors of the Fisher information of the next-token distribution.

`F = sum_v p_v (w_v - mu)(w_v - mu)^T`, with `w_v` the columns of `W_U D` and `mu` their mean under
`p`: built from centred rows, because `S - mu mu^T` cancels in float32 on confident predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.unembedding import Unembedding

_LARGEST_DOUBLE_EIGENPROBLEM = 2048


@dataclass(frozen=True, eq=False)
class FisherGeometry:
    """`F` at one final state, as far as it is needed without forming it.

    `contributions[v] = p_v ||w_v - mu||^2` sum to `trace` = tr F exactly, so the share that any
    set of tokens leaves out is known without an eigenproblem.
    """

    head: Unembedding
    p: Float[Tensor, "d_vocab"]
    slope: Float[Tensor, "d_vocab"] | None
    mu: Float[Tensor, "d_model"]
    contributions: Float[Tensor, "d_vocab"]

    @classmethod
    def at(cls, head: Unembedding, raw: Float[Tensor, "d_vocab"]) -> FisherGeometry:
        """At the final state whose raw logits `y W_U + b_U` are given."""
        p = torch.softmax(head.logits(raw), dim=-1)
        slope = head.slope(raw)
        weighted = p if slope is None else p * slope
        mu = head.pull(weighted[:, None])[0]
        # ||w - mu||^2 by its square expansion would cancel for the tokens nearest to mu,
        # which on a confident prediction are the likeliest: those few are taken directly.
        inner = (mu.to(head.W_U.dtype) @ head.W_U).to(p.dtype)
        norms = head.square_norms()
        if slope is not None:
            inner, norms = inner * slope, norms * slope**2
        distances = (norms - 2 * inner + mu @ mu).clamp_min(0)
        likely = torch.topk(p, min(1024, p.numel())).indices
        for ids, rows in head.columns(likely):
            rows = rows if slope is None else rows * slope[ids, None]
            distances[ids] = ((rows - mu) ** 2).sum(-1)
        return cls(head, p, slope, mu, p * distances)

    @property
    def trace(self) -> float:
        """tr F, in nats per unit^2."""
        return float(self.contributions.double().sum())

    def heaviest(self, tail: float) -> Int[Tensor, "token"]:
        """The fewest tokens whose contributions leave out at most the share `tail` of tr F."""
        order = torch.argsort(self.contributions, descending=True)
        kept = torch.cumsum(self.contributions[order].double(), dim=0)
        n = int((kept < (1 - tail) * kept[-1]).sum()) + 1
        return order[: min(n, len(order))]

    def matrix(self, tail: float) -> Float[Tensor, "d_model d_model"]:
        """`F` from the heaviest tokens only; what is left out is positive semidefinite, with at
        most the share `tail` of the trace."""
        tokens = self.heaviest(tail)
        F = self.mu.new_zeros(self.head.d_model, self.head.d_model)
        for ids, rows in self.head.columns(tokens):
            rows = rows if self.slope is None else rows * self.slope[ids, None]
            centred = (rows - self.mu) * self.p[ids, None].sqrt()
            F.addmm_(centred.T, centred)
        return F

    def eigenpairs(
        self, tail: float
    ) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d_model"]]:
        """Eigenvalues, largest first, and unit eigenvectors as rows; null directions left out."""
        F = self.matrix(tail).cpu()
        if F.shape[0] <= _LARGEST_DOUBLE_EIGENPROBLEM:
            F = F.double()
        values, vectors = torch.linalg.eigh(F)
        values, vectors = values.flip(0), vectors.flip(1).T
        resolution = torch.finfo(self.p.dtype).eps * values[0]
        kept = int((values > resolution).sum())
        to = {"device": self.p.device, "dtype": self.p.dtype}
        return values[:kept].to(**to), vectors[:kept].to(**to)

    def sample(
        self, n: int, generator: torch.Generator, distribution: str
    ) -> Float[Tensor, "n d_model"]:
        """`n` random vectors `g` with `E[g g^T] = F`: `W_U D (sqrt(p) e - p <sqrt(p), e>)`."""
        shape = (self.p.numel(), n)
        if distribution == "rademacher":
            e = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8)
            e = e.to(self.p) * 2 - 1
        else:
            e = torch.randn(shape, generator=generator, dtype=self.p.dtype).to(self.p)
        e *= self.p.sqrt()[:, None]
        e -= self.p[:, None] * e.sum(0)
        if self.slope is not None:
            e *= self.slope[:, None]
        return self.head.pull(e)


def smallest_rank(values: Float[Tensor, "k"], trace: float, share: float) -> int:
    """The smallest k whose eigenvalues hold `share` of the trace (all of them if none does)."""
    held = torch.cumsum(values.double(), dim=0)
    return min(int((held < share * trace).sum()) + 1, len(values))
