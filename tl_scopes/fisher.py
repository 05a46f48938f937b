"""Factors of the Fisher information of the next-token distribution.

`F = sum_v p_v (w_v - mu)(w_v - mu)^T`, with `w_v` the columns of `W_U D` and `mu` their mean under
`p`: built from centred rows, because `S - mu mu^T` cancels in float32 on confident predictions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.errors import NumericalError
from tl_scopes.unembedding import Unembedding

_LARGEST_DOUBLE_EIGENPROBLEM = 2048
# The rows that start and precondition the iteration: those that leave out this share of tr F,
_COARSE_TAIL = 1e-2
# and no more than this, 20 MiB at d_model 640.
_COARSE_TOKENS = 8192
# Residual, as a share of the largest eigenvalue, at which an eigenpair counts as found.
_RESOLUTION = {torch.float32: 2e-6, torch.float64: 1e-11}
_MOST_PASSES = 40
_TINY = torch.finfo(torch.float32).tiny
_BEYOND = "made of squares of the unembedding's weights, which are beyond the range"
_REMEDY = "scale the weights, or load the model in float64"
# Random vectors drawn together: 64 over a vocabulary of 262,144 are 64 MiB.
_SAMPLES_AT_ONCE = 64


def _eigh(F: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and eigenvectors as columns; on the CPU, in double if affordable."""
    F = F.cpu()
    if not torch.isfinite(F).all():
        raise NumericalError(f"F is {_BEYOND} of {F.dtype}: {_REMEDY}")
    if F.shape[0] <= _LARGEST_DOUBLE_EIGENPROBLEM:
        F = F.double()
    values, vectors = torch.linalg.eigh(F)
    return values.flip(0), vectors.flip(1)


def _ritz(V: Tensor, FV: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of `V F V^T`, largest first, and eigenvectors as rows."""
    H = V @ FV.T
    values, turn = _eigh((H + H.T) / 2)
    return values.to(V), turn.T.to(V)


def _leading_ritz(
    V: Tensor, FV: Tensor, wide: int, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues and eigenvectors of `V F V^T`, the first `wide` vectors in full, and the largest
    residual `||F x - lambda x||` of the first `k`."""
    values, turn = _ritz(V, FV)
    X = turn[:wide] @ V
    residuals = turn[:k] @ FV - values[:k, None] * X[:k]
    return values, turn, X, torch.linalg.vector_norm(residuals, dim=1).max()


def extended(V: Float[Tensor, "n d"], rows: Float[Tensor, "m d"]) -> Float[Tensor, "new d"]:
    """Orthonormal rows that add what `rows` span beyond the orthonormal rows `V`."""
    for lost in (100 * torch.finfo(V.dtype).eps, 0.5):  # the second time, all should be new
        size = torch.linalg.vector_norm(rows, dim=1)
        rows = (rows - (rows @ V.T) @ V) / torch.where(size > 0, size, 1)[:, None]
        # Not a QR decomposition: what rounding left of a row that is not new would come first.
        _, size, directions = torch.linalg.svd(rows, full_matrices=False)
        rows = directions[size > lost]
    return rows


def krylov(
    rows: Float[Tensor, "row d"], start: Float[Tensor, "b d"], k: int, tolerance: float
) -> Float[Tensor, "b d"]:
    """Leading eigenvectors of `rows^T rows` by block Lanczos iteration, as orthonormal rows.

    The first `k` to a residual of `tolerance` times the largest eigenvalue, or as near as a
    space of half the dimensions comes to it.
    """
    V = start[:0]
    FV = V
    fresh = extended(V, start)
    best, stalled = float("inf"), 0
    while True:
        F_fresh = torch.nn.functional.linear(fresh, rows) @ rows
        V, FV = torch.cat([V, fresh]), torch.cat([FV, F_fresh])
        values, _, X, residual = _leading_ritz(V, FV, len(start), k)
        size = float(residual / values[0].clamp_min(_TINY))
        # Rounding may keep it above the tolerance for good.
        stalled = stalled + 1 if size > best / 2 else 0
        best = min(best, size)
        if size <= tolerance or (stalled > 1 and size <= 100 * tolerance):
            return X
        fresh = extended(V, F_fresh)
        if not len(fresh) or 2 * (len(V) + len(fresh)) > V.shape[1]:
            return X


def _nystrom(V: Tensor, EV: Tensor) -> Tensor:
    """Rows whose outer products sum to a positive semidefinite matrix that equals `E` on `V`."""
    M = V @ EV.T
    values, vectors = _eigh((M + M.T) / 2)
    kept = values > 1e-7 * values[0].clamp_min(0)
    return ((vectors[:, kept] / values[kept].sqrt()).T).to(V) @ EV


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
            f"F is {_BEYOND} of {squares.dtype} (the largest weight is {size:.3g}): {_REMEDY}"
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
        values, vectors = _eigh(self.matrix(tail))
        resolution = torch.finfo(self.p.dtype).eps * values[0]
        kept = int((values > resolution).sum())
        return values[:kept].to(self.p), vectors[:, :kept].T.to(self.p)

    def apply(
        self, V: Float[Tensor, "d_model k"], tokens: Int[Tensor, "token"] | None = None
    ) -> Float[Tensor, "d_model k"]:
        """`F V` in one pass over `W_U`: over the whole vocabulary, or the part from `tokens`."""
        rows = V.T.contiguous()
        shift = (rows @ self.mu)[:, None]
        out, total = torch.zeros_like(rows), torch.zeros_like(shift)
        for ids, columns in self.head.blocks(tokens, self.slope):
            weighted = (torch.nn.functional.linear(rows, columns) - shift) * self.p[ids]
            out += weighted @ columns
            total += weighted.sum(1, keepdim=True)
        return (out - total * self.mu).T

    def leading(
        self, k: int, tail: float = 0.0
    ) -> tuple[Float[Tensor, "k"], Float[Tensor, "k d_model"]]:
        """The `k` leading eigenpairs of `F`, largest first, to the rounding of the dtype.

        `tail`: the share of tr F that the unlikeliest tokens may hold and be left out.
        Davidson's method: `F` of the heaviest tokens, kept as rows, starts the iteration; each pass
        over `W_U` shows what those rows leave out of it, which is added to them as further rows
        (a Nystrom approximation) before the next step is solved for. Never takes a
        d_model^2 x d_vocab product, nor an eigenproblem larger than the space searched.
        Source: Davidson, J. Comput. Phys. 17 (1975) 87; Halko, Martinsson, Tropp, arXiv 0909.4061.
        """
        guards = max(4, k // 4)
        wide = k + guards
        if 4 * wide > self.head.d_model:
            values, vectors = self.eigenpairs(tail)
            return values[:k], vectors[:k]
        tokens = self.heaviest(tail) if tail else None
        coarse = self._coarse(tokens)
        if tokens is not None:
            tokens = tokens.sort().values  # by address: each pass gathers their columns
        generator = torch.Generator().manual_seed(0)
        drawn = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
        random = torch.randn((wide + guards, self.head.d_model), **drawn).to(self.p)
        V = extended(random[:0], krylov(coarse, random[:wide], k, 1e-3))
        # What the heavy tokens do not show at all must be looked for: F of random vectors points there.
        V = torch.cat([V, extended(V, random[wide:])])
        FV = self.apply(V.T, tokens).T
        resolution = _RESOLUTION[self.p.dtype]
        for _ in range(_MOST_PASSES):
            values, turn, X, residual = _leading_ritz(V, FV, wide, k)
            allowed = resolution * values[0].abs() + torch.finfo(self.p.dtype).tiny
            if residual <= allowed:
                return values[:k], X[:k]
            if len(V) + k > 6 * wide:
                V, FV = X, turn[:wide] @ FV
            model = torch.cat([coarse, _nystrom(V, FV - (V @ coarse.T) @ coarse)])
            steps = extended(V, krylov(model, X, k, resolution / 2)[:k])
            if not len(steps):
                break
            V, FV = torch.cat([V, steps]), torch.cat([FV, self.apply(steps.T, tokens).T])
        values, vectors = self.eigenpairs(tail)
        return values[:k], vectors[:k]

    def _coarse(self, tokens: Int[Tensor, "token"] | None) -> Float[Tensor, "row d_model"]:
        """Rows whose outer products sum to `F` of the heaviest tokens (of `tokens` at most)."""
        if tokens is None:
            tokens = self.heaviest(_COARSE_TAIL)
        enough = _reaching(self.contributions[tokens], (1 - _COARSE_TAIL) * self.trace)
        heavy = tokens[: min(enough, _COARSE_TOKENS)]
        rows = torch.cat([rows for _, rows in self.head.columns(heavy, self.slope)])
        return rows.sub_(self.mu).mul_(self.p[heavy, None].sqrt())

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
