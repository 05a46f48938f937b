"""Leading eigenpairs of symmetric matrices that are known by their rows, or by what they do to vectors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.errors import NumericalError

_LARGEST_DOUBLE_EIGENPROBLEM = 2048
TINY = torch.finfo(torch.float32).tiny
BEYOND = "made of squares of the unembedding's weights, which are beyond the range"
REMEDY = "scale the weights, or load the model in float64"


def eigh(F: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and eigenvectors as columns; on the CPU, in double if affordable."""
    F = F.cpu()
    if not torch.isfinite(F).all():
        raise NumericalError(f"F is {BEYOND} of {F.dtype}: {REMEDY}")
    if F.shape[0] <= _LARGEST_DOUBLE_EIGENPROBLEM:
        F = F.double()
    values, vectors = torch.linalg.eigh(F)
    return values.flip(0), vectors.flip(1)


def _ritz(V: Tensor, FV: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of `V F V^T`, largest first, and eigenvectors as rows."""
    H = V @ FV.T
    values, turn = eigh((H + H.T) / 2)
    return values.to(V), turn.T.to(V)


def leading_ritz(V: Tensor, FV: Tensor, wide: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues and eigenvectors of `V F V^T`, the first `wide` vectors in full, and the residuals
    `F x - lambda x` of these."""
    values, turn = _ritz(V, FV)
    X = turn[:wide] @ V
    return values, turn, X, turn[:wide] @ FV - values[: len(X), None] * X


def largest(residuals: Tensor) -> Tensor:
    return torch.linalg.vector_norm(residuals, dim=1).max()


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
        values, _, X, residuals = leading_ritz(V, FV, len(start))
        size = float(largest(residuals[:k]) / values[0].clamp_min(TINY))
        # Rounding may keep it above the tolerance for good.
        stalled = stalled + 1 if size > best / 2 else 0
        best = min(best, size)
        if size <= tolerance or (stalled > 1 and size <= 100 * tolerance):
            return X
        fresh = extended(V, F_fresh)
        if not len(fresh) or 2 * (len(V) + len(fresh)) > V.shape[1]:
            return X


def nystrom(V: Tensor, EV: Tensor) -> Tensor:
    """Rows whose outer products sum to a positive semidefinite matrix that equals `E` on `V`."""
    M = V @ EV.T
    values, vectors = eigh((M + M.T) / 2)
    kept = values > 1e-7 * values[0].clamp_min(0)
    return ((vectors[:, kept] / values[kept].sqrt()).T).to(V) @ EV
