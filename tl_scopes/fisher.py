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
# Share of tr F left out of the matrix that starts and preconditions the iteration.
_COARSE_TAIL = 1e-2
# Residual, as a share of the largest eigenvalue, at which an eigenpair counts as found.
_RESOLUTION = {torch.float32: 2e-6, torch.float64: 1e-11}
_MOST_PASSES = 60
# Random vectors drawn together: 64 over a vocabulary of 262,144 are 64 MiB.
_SAMPLES_AT_ONCE = 64


def _eigh(F: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and eigenvectors as columns; on the CPU, in double if affordable."""
    F = F.cpu()
    if F.shape[0] <= _LARGEST_DOUBLE_EIGENPROBLEM:
        F = F.double()
    values, vectors = torch.linalg.eigh(F)
    return values.flip(0), vectors.flip(1)


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
        return cls(head, p, slope, mu, p * head.square_distances(mu, slope))

    @property
    def trace(self) -> float:
        """tr F, in nats per unit^2."""
        return float(self.contributions.cpu().double().sum())

    def heaviest(self, tail: float) -> Int[Tensor, "token"]:
        """The fewest tokens whose contributions leave out at most the share `tail` of tr F."""
        ordered, order = torch.sort(self.contributions, descending=True)
        kept = torch.cumsum(ordered.cpu().double(), dim=0)
        return order[: int((kept < (1 - tail) * kept[-1]).sum()) + 1]

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

    def eigenpairs(self, tail: float) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d_model"]]:
        """Every eigenvalue of `matrix(tail)`, largest first, and unit eigenvectors as rows.

        Null directions are left out.
        """
        values, vectors = _eigh(self.matrix(tail))
        resolution = torch.finfo(self.p.dtype).eps * values[0]
        kept = int((values > resolution).sum())
        return values[:kept].to(self.p), vectors[:, :kept].T.to(self.p)

    def apply(self, V: Float[Tensor, "d_model k"]) -> Float[Tensor, "d_model k"]:
        """`F V` over the whole vocabulary, in one pass over `W_U`."""
        shift = self.mu @ V
        out = torch.zeros_like(V)
        total = torch.zeros_like(shift)
        for span, rows in self.head.spans(self.slope):
            weighted = (rows @ V - shift) * self.p[span, None]
            out += rows.T @ weighted
            total += weighted.sum(0)
        return out - self.mu[:, None] * total

    def leading(self, k: int) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d_model"]]:
        """The `k` leading eigenpairs of `F` over the whole vocabulary, largest first.

        Davidson's method: the eigenpairs of `F` built from its heaviest tokens start it and
        precondition it, so that a few passes over `W_U` with a few columns bring the residuals
        `||F u - lambda u||` to rounding. Never takes a d_model^2 x d_vocab product.
        Source: Davidson, J. Comput. Phys. 17 (1975) 87.
        """
        guards = max(4, k // 4)
        if 4 * (k + guards) > self.head.d_model:
            values, vectors = self.eigenpairs(tail=0.0)
            return values[:k], vectors[:k]
        coarse_values, basis = (x.to(self.p) for x in _eigh(self.matrix(_COARSE_TAIL)))
        V = basis[:, : k + guards]
        # What the likely tokens do not show at all must be looked for: the part of F left out,
        # applied to random vectors, points there.
        generator = torch.Generator().manual_seed(0)
        drawn = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
        blind = torch.randn((self.head.d_model, guards), **drawn).to(self.p)
        left_out = self.apply(blind) - basis @ (coarse_values[:, None] * (basis.T @ blind))
        for _ in range(2):
            left_out = torch.linalg.qr(left_out - V @ (V.T @ left_out)).Q
        V = torch.cat([V, left_out], 1)
        FV = self.apply(V)
        resolution = _RESOLUTION[self.p.dtype]
        for _ in range(_MOST_PASSES):
            values, turn = _eigh(V.T @ FV)
            values, turn = values[: k + guards].to(V), turn[:, : k + guards].to(V)
            X, FX = V @ turn, FV @ turn
            residual = FX[:, :k] - X[:, :k] * values[:k]
            allowed = resolution * values[0].abs() + torch.finfo(self.p.dtype).tiny
            if torch.linalg.vector_norm(residual, dim=0).max() <= allowed:
                return values[:k], X[:, :k].T
            gaps = coarse_values[:, None] - values[:k]
            least = 1e-3 * values[:k].abs()
            gaps = torch.where(gaps.abs() < least, least, gaps)
            steps = basis @ ((basis.T @ residual) / gaps)
            if V.shape[1] + k > 6 * (k + guards):
                V, FV = X, FX
            for _ in range(2):
                steps = steps - V @ (V.T @ steps)
                steps = torch.linalg.qr(steps).Q
            V, FV = torch.cat([V, steps], 1), torch.cat([FV, self.apply(steps)], 1)
        values, vectors = self.eigenpairs(tail=0.0)
        return values[:k], vectors[:k]

    def sample(
        self, n: int, generator: torch.Generator, distribution: str
    ) -> Float[Tensor, "n d_model"]:
        """`n` random vectors `g` with `E[g g^T] = F`: `W_U D (sqrt(p) e - p <sqrt(p), e>)`."""
        parts = []
        for start in range(0, n, _SAMPLES_AT_ONCE):
            shape = (self.p.numel(), min(_SAMPLES_AT_ONCE, n - start))
            if distribution == "rademacher":
                e = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8, device="cpu")
                e = e.to(self.p) * 2 - 1
            else:
                e = torch.randn(shape, generator=generator, dtype=self.p.dtype, device="cpu").to(
                    self.p
                )
            e *= self.p.sqrt()[:, None]
            e -= self.p[:, None] * e.sum(0)
            if self.slope is not None:
                e *= self.slope[:, None]
            parts.append(self.head.pull(e))
        return torch.cat(parts)


def smallest_rank(values: Float[Tensor, "k"], trace: float, share: float) -> int:
    """The smallest k whose eigenvalues hold `share` of the trace (all of them if none does)."""
    held = torch.cumsum(values.cpu().double(), dim=0)
    return min(int((held < share * trace).sum()) + 1, len(values))
