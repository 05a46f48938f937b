"""The last step of a model: from the final state to logits and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Columns of W_U handled at once: 8,192 x 4,096 float32 numbers are 128 MiB.
CHUNK = 8192
# Columns that pass through the cache together.
SPAN = 1024


OutputTransform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Unembedding:
    """`W_U`, `b_U` and the elementwise output transform (None: identity).

    `W_U` is never copied whole: its columns are taken in chunks.
    """

    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, "d_vocab"]
    transform: OutputTransform | None = None

    @property
    def d_model(self) -> int:
        return self.W_U.shape[0]

    @property
    def d_vocab(self) -> int:
        return self.W_U.shape[1]

    def raw_logits(self, y: Float[Tensor, "read d_model"]) -> Float[Tensor, "read d_vocab"]:
        """`y W_U + b_U`, in float32 at least: logits rounded to bfloat16 would blur the Fisher
        information of a distribution."""
        precise = working_dtype(self.W_U.dtype)
        if self.W_U.dtype == precise:
            return y.to(precise) @ self.W_U + self.b_U
        out = torch.empty(len(y), self.d_vocab, dtype=precise, device=y.device)
        for span, rows in self.spans(None):
            out[:, span] = y.to(precise) @ rows.T
        return out + self.b_U.to(precise)

    def logits(self, raw: Tensor) -> Tensor:
        """What the model returns for raw logits: soft-capped or scaled where it does so."""
        return raw if self.transform is None else self.transform(raw)

    def slope(self, raw: Tensor) -> Tensor | None:
        """Derivative of the output transform at `raw`, elementwise; None where it is 1."""
        if self.transform is None:
            return None
        with torch.enable_grad():
            leaf = raw.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.transform(leaf).sum(), leaf)
        return slope

    def column(self, token: int) -> Float[Tensor, "d_model"]:
        """`W_U[:, token]`, in float32 at least."""
        return self.W_U[:, token].to(working_dtype(self.W_U.dtype))

    def columns(self, tokens: Tensor) -> Iterator[tuple[Tensor, Float[Tensor, "chunk d_model"]]]:
        """The columns of `W_U` for `tokens`, as rows, chunk by chunk with their ids."""
        precise = working_dtype(self.W_U.dtype)
        for ids in tokens.split(CHUNK):
            yield ids, self.W_U.T.index_select(0, ids).to(precise)

    def pull(self, coefficients: Float[Tensor, "d_vocab k"]) -> Float[Tensor, "k d_model"]:
        """`(W_U @ coefficients)` transposed, accumulated in float32 at least."""
        if self.W_U.dtype in (torch.float32, torch.float64):
            return (self.W_U @ coefficients.to(self.W_U.dtype)).T
        total = coefficients.new_zeros(coefficients.shape[1], self.d_model)
        for start in range(0, self.d_vocab, CHUNK):
            part = self.W_U[:, start : start + CHUNK].to(coefficients.dtype)
            total += (part @ coefficients[start : start + CHUNK]).T
        return total

    def square_distances(
        self, centre: Float[Tensor, "d_model"], slope: Tensor | None
    ) -> Float[Tensor, "d_vocab"]:
        """`||slope_v W_U[:, v] - centre||^2` of every token, without cancellation."""
        out = torch.empty(self.d_vocab, dtype=centre.dtype, device=centre.device)
        for span, rows in self.spans(slope):
            out[span] = (rows - centre).square_().sum(1)
        return out

    def spans(self, slope: Tensor | None) -> Iterator[tuple[slice, Float[Tensor, "chunk d_model"]]]:
        """All columns of `W_U D` in turn, as rows in float32 at least, few enough to stay in cache."""
        precise = working_dtype(self.W_U.dtype)
        for start in range(0, self.d_vocab, SPAN):
            span = slice(start, min(start + SPAN, self.d_vocab))
            rows = self.W_U[:, span].T.to(precise)
            yield span, rows if slope is None else rows * slope[span, None]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that norms and sums are taken in: float64 for float64 models, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
