"""Factors of the Fisher information of the next-token distribution.

`F = sum_v p_v (w_v - mu)(w_v - mu)^T`. `p` are the probabilities of the next token, `w_v` the columns of
`W_U D`, `mu` their mean under `p`, and `D` the slope of the output transform (1 without one). The
columns are centred first: `sum_v p_v w_v w_v^T - mu mu^T` cancels in float32 on confident predictions.

`prediction.FisherScope.explain` decides which of these factors a scope takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.unembedding import Unembedding
from tl_scopes.errors import NumericalError
from tl_scopes.scopes.eigen import (
    BEYOND,
    REMEDY,
    TINY,
    eigh,
    extended,
    krylov,
    largest,
    leading_ritz,
    nystrom,
)

# The rows that start and precondition the iteration leave out this share of tr F.
_COARSE_TAIL = 1e-2
# There are at most so many of them: 20 MiB at d_model 640.
_COARSE_TOKENS = 8192
# Residual, as a share of the largest eigenvalue, at which an eigenpair counts as found, by the dtype
# of the weights. In half precision, rounding y alone changes F several times more than this.
_RESOLUTION = {
    torch.float64: 1e-11,
    torch.float32: 2e-6,
    torch.float16: 2e-5,
    torch.bfloat16: 1e-4,
}
_MOST_PASSES = 40
# An estimate goes on after this many passes only if three more at the pace of the last would do.
_FEW_PASSES = 3
# An estimate never takes more passes than this.
_MOST_PASSES_OF_AN_ESTIMATE = 6
# Random vectors drawn together: 64 over a vocabulary of 262,144 are 64 MiB.
_SAMPLES_AT_ONCE = 64


def _check_range(head: Unembedding, squares: Float[Tensor, "d_vocab"]) -> None:
    """Raises `NumericalError` where squares of weights are not finite, or all lost to underflow."""
    limits = torch.finfo(squares.dtype)
    least, largest = limits.tiny / limits.eps, squares.max()
    if least <= largest < torch.inf:
        return
    size = float(head.W_U.abs().max())
    # Columns that are all alike have no distances: F is zero, and rightly so.
    if 0 < size**2 < least or not torch.isfinite(largest):
        raise NumericalError(
            f"F is {BEYOND} of {squares.dtype} (the largest weight is {size:.3g}): {REMEDY}"
        )


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
    _sorted: dict[float, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def at(cls, head: Unembedding, raw: Float[Tensor, "d_vocab"]) -> FisherGeometry:
        """At the final state whose raw logits `y W_U + b_U` are given. Raises `NumericalError`."""
        p = torch.softmax(head.logits(raw), dim=-1)
        slope = head.slope(raw)
        weighted = p if slope is None else p * slope
        mu = head.pull(weighted[:, None])[0]
        distances = head.square_distances(mu, slope)
        _check_range(head, distances)
        return cls(head, p, slope, mu, p * distances)

    @cached_property
    def trace(self) -> float:
        """tr F, in nats per unit^2."""
        return float(self.contributions.cpu().double().sum())

    def heaviest(self, tail: float) -> Int[Tensor, "token"]:
        """The fewest tokens whose contributions leave out at most the share `tail` of tr F."""
        if tail in self._sorted:
            return self._sorted[tail]
        total = self.trace
        # The lighter ones sum to no more than the tail, so they need no sorting.
        (some,) = torch.nonzero(
            self.contributions >= tail * total / len(self.contributions), as_tuple=True
        )
        ordered, order = torch.sort(self.contributions[some], descending=True, stable=True)
        found = some[order[: _reaching(ordered, (1 - tail) * total)]]
        self._sorted[tail] = found
        return found

    def kept(self, tail: float) -> Int[Tensor, "token"] | None:
        """The heaviest tokens, or None for all, where gathering so many would take longer."""
        tokens = self.heaviest(tail) if tail else None
        return None if tokens is None or len(tokens) > 0.98 * self.head.d_vocab else tokens

    def share_of(self, tokens: Int[Tensor, "token"] | None) -> float:
        """Share of tr F that `tokens` hold (None: all of them)."""
        if tokens is None or not self.trace:
            return 1.0
        return min(1.0, float(self.contributions[tokens].cpu().double().sum()) / self.trace)

    def matrix(self, tail: float) -> Float[Tensor, "d_model d_model"]:
        """`F` from the heaviest tokens only; what is left out is positive semidefinite, with at
        most the share `tail` of the trace."""
        tokens = self.heaviest(tail)
        F = self.mu.new_zeros(self.head.d_model, self.head.d_model)
        for ids, rows in self.head.columns(tokens, self.slope):
            centred = (rows - self.mu) * self.p[ids, None].sqrt()
            F.addmm_(centred.T, centred)
        return F

    def eigenpairs(self, tail: float) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d_model"]]:
        """Every eigenvalue of `matrix(tail)`, largest first, and unit eigenvectors as rows.

        Null directions are left out.
        """
        values, vectors = eigh(self.matrix(tail))
        resolution = torch.finfo(self.p.dtype).eps * values[0]
        kept = int((values > resolution).sum())
        return values[:kept].to(self.p), vectors[:, :kept].T.to(self.p)

    def apply(
        self, V: Float[Tensor, "d_model k"], tokens: Int[Tensor, "token"] | None = None
    ) -> Float[Tensor, "d_model k"]:
        """`F V` in one pass over `W_U`: over the whole vocabulary, or the part from `tokens`."""
        rows = V.T
        shift, out = -(rows @ self.mu)[:, None], torch.zeros_like(rows)
        total = torch.zeros_like(shift[:, 0])
        for ids, columns in self.head.blocks(tokens, self.slope):
            # Few rows times many: BLAS does it sooner than many times few.
            weighted = torch.addmm(shift, rows, columns.T).mul_(self.p[ids])
            out.addmm_(weighted, columns)
            total += weighted.sum(1)
        return (out - total[:, None] * self.mu).T

    def leading(
        self, k: int, tail: float = 0.0
    ) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d_model"]]:
        """The `k` leading eigenpairs of `F`, largest first, to the rounding of the weights' dtype.

        `tail`: the share of tr F that the unlikeliest tokens may hold and be left out.
        """
        values, vectors, _ = self._search(k, tail, hurried=False)
        return values, vectors

    def estimate(
        self, k: int, tail: float = 0.0
    ) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d_model"], float]:
        """Like `leading`, in at most 6 passes over `W_U`, and the residual that was reached: the
        largest `||F u - lambda u||` over the largest eigenvalue.

        It is above the rounding of the dtype only where the leading eigenvalues are nearly equal, as
        the flat prediction of random weights makes them: then one set of leading directions is about
        as good as the next, and telling them apart costs more than all else.
        """
        return self._search(k, tail, hurried=True)

    def _search(
        self, k: int, tail: float, hurried: bool
    ) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d_model"], float]:
        """Davidson's method with the steps of block Lanczos beside: `F` of the heaviest tokens, kept
        as rows, starts the iteration; each pass over `W_U` shows what those rows leave out of it,
        which is added to them as further rows (a Nystrom approximation) before the next step is
        solved for. Where the rows hold little of `F` residuals alone are the steps.

        Never takes a d_model^2 x d_vocab product, nor an eigenproblem larger than the space searched.
        Source: Davidson, J. Comput. Phys. 17 (1975) 87; Halko, Martinsson, Tropp, arXiv 0909.4061.
        """
        few = max(4, k // 4)
        tokens = self.kept(tail)
        tail = 0.0 if tokens is None else tail
        if 4 * (k + few) > self.head.d_model:
            values, vectors = self.eigenpairs(tail)
            return values[:k], vectors[:k], 0.0
        coarse, telling = self._coarse(tokens)
        # Where a pass brings little, more vectors in each make fewer passes, but not many fewer.
        wide = k + (few if telling else 2 * few)
        wide = min(wide, self.head.d_model // 4)
        if tokens is not None:
            tokens = tokens.sort().values  # by address: each pass gathers their columns
        generator = torch.Generator().manual_seed(0)
        drawn = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
        random = torch.randn((wide + few, self.head.d_model), **drawn).to(self.p)
        V = extended(random[:0], krylov(coarse, random[:wide], k, 1e-3))
        # What the heavy tokens do not show at all must be looked for: F of random vectors points there.
        V = torch.cat([V, extended(V, random[wide:])])
        FV = self.apply(V.T, tokens).T
        resolution = _RESOLUTION[self.head.W_U.dtype]
        before = float("inf")
        passes = 0
        while True:
            passes += 1
            values, turn, X, residuals = leading_ritz(V, FV, wide)
            reached = float(largest(residuals[:k]) / values[0].abs().clamp_min(TINY))
            if reached <= resolution:
                return values[:k], X[:k], reached
            far = reached * min(1.0, reached / before) ** 3 > resolution
            if hurried and passes >= (_FEW_PASSES if far else _MOST_PASSES_OF_AN_ESTIMATE):
                return values[:k], X[:k], reached
            before = reached
            if len(V) > 10 * wide:
                V, FV = X, turn[:wide] @ FV
            if telling:
                model = torch.cat([coarse, nystrom(V, FV - (V @ coarse.T) @ coarse)])
                solved = extended(V, krylov(model, X, k, resolution / 2)[:k])
                steps = torch.cat([solved, extended(torch.cat([V, solved]), residuals[:k])])
            else:
                steps = extended(V, residuals)
            if not len(steps) or passes == _MOST_PASSES:
                break
            V, FV = torch.cat([V, steps]), torch.cat([FV, self.apply(steps.T, tokens).T])
        if hurried or reached <= 10 * resolution:  # as near as rounding lets it come
            return values[:k], X[:k], reached
        values, vectors = self.eigenpairs(tail)
        return values[:k], vectors[:k], 0.0

    def _coarse(
        self, tokens: Int[Tensor, "token"] | None
    ) -> tuple[Float[Tensor, "row d_model"], bool]:
        """Rows whose outer products sum to `F` of the heaviest tokens (of `tokens` at most), and
        whether they hold most of it: if not, they are few."""
        if tokens is None:
            tokens = self.heaviest(_COARSE_TAIL)
        enough = _reaching(self.contributions[tokens], (1 - _COARSE_TAIL) * self.trace)
        heavy = tokens[: min(enough, _COARSE_TOKENS)]
        telling = self.share_of(heavy) > 0.5
        heavy = heavy if telling else heavy[: _COARSE_TOKENS // 8]
        rows = torch.cat([rows for _, rows in self.head.columns(heavy, self.slope)])
        return rows.sub_(self.mu).mul_(self.p[heavy, None].sqrt()), telling

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


def _reaching(ordered: Tensor, share: float) -> int:
    """How many of the numbers it takes for their sum to reach `share`."""
    sums = torch.cumsum(ordered.cpu().double(), dim=0)
    return min(int((sums < share).sum()) + 1, len(sums))


def smallest_rank(values: Float[Tensor, "k"], trace: float, share: float) -> int:
    """The smallest k whose eigenvalues hold `share` of the trace (all of them if none does)."""
    return _reaching(values, share * trace)
