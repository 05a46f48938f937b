"""The last step of a model: from the final state to logits and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Numbers of W_U that are taken up at once: 64 MiB in float32,
CHUNK = 1 << 24
# and where they pass through a CPU's cache together, 2 MiB.
SPAN = 1 << 19


OutputTransform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Unembedding:
    """`W_U`, `b_U` and the elementwise output transform (None: identity).

    `W_U` is never copied whole: its columns are taken in chunks. Nothing is remembered of them: an
    edit through `.data` leaves no mark that would tell.
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
        return _Products.apply(y.to(self.W_U.device, precise), self) + self.b_U.to(precise)

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

    def columns(
        self, tokens: Tensor, slope: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Float[Tensor, "chunk d_model"]]]:
        """The columns of `W_U D` for `tokens`, as rows, chunk by chunk with their ids."""
        precise = working_dtype(self.W_U.dtype)
        for ids in tokens.split(self._fitting(CHUNK)):
            rows = self.W_U.T.index_select(0, ids).to(precise)
            yield ids, rows if slope is None else rows * slope[ids, None]

    def pull(self, coefficients: Float[Tensor, "d_vocab k"]) -> Float[Tensor, "k d_model"]:
        """`(W_U @ coefficients)` transposed, in float32 at least.

        Spans are summed in float64. Columns of W_U have a large part in common, which cancels where
        coefficients sum to zero, as the slopes of a log-probability do: one product in float32 may miss
        1e-3 of what is left of 262,144 columns.
        """
        wide = widest_dtype(self.W_U.device)
        total = torch.zeros(coefficients.shape[1], self.d_model, dtype=wide, device=self.W_U.device)
        for span, rows in self.spans(None):
            total += coefficients[span].T.to(rows.dtype) @ rows
        return total.to(working_dtype(self.W_U.dtype))

    def log_prob_slopes(
        self, y: Float[Tensor, "read d_model"], tokens: Int[Tensor, "read"]
    ) -> tuple[Float[Tensor, "read"], Float[Tensor, "read d_model"]]:
        """The log-probability of each read's own token, and its gradient `W_U D (e - p)`.

        `W_U` is passed through once, with a running maximum in the softmax: where it is large, taking it up is
        what costs. Sums are in float64, for the reason that `pull` gives.
        """
        precise = working_dtype(self.W_U.dtype)
        wide = widest_dtype(self.W_U.device)
        y, tokens = y.to(self.W_U.device, precise), tokens.to(self.W_U.device)
        b_U = self.b_U.to(precise)
        peak = y.new_full((len(y), 1), torch.finfo(precise).min)
        total, mean = torch.zeros_like(peak, dtype=wide), torch.zeros_like(y, dtype=wide)
        for span, rows in self.spans(None):
            raw = torch.addmm(b_U[span], y, rows.T)
            logits, slope = self.logits(raw), self.slope(raw)
            peak, before = torch.maximum(peak, logits.amax(1, keepdim=True)), peak
            shrunk = (before - peak).exp()
            p = (logits - peak).exp_()
            total.mul_(shrunk).add_(p.sum(1, keepdim=True))
            mean.mul_(shrunk).add_((p if slope is None else p.mul_(slope)) @ rows)
        own = self.W_U.T.index_select(0, tokens).to(precise)
        raw = (y * own).sum(1) + b_U[tokens]
        slope = self.slope(raw)
        own = own if slope is None else own * slope[:, None]
        log_probs = self.logits(raw) - peak[:, 0] - total.log()[:, 0]
        return log_probs.to(precise), (own - mean / total).to(precise)

    def square_distances(
        self, centre: Float[Tensor, "d_model"], slope: Tensor | None
    ) -> Float[Tensor, "d_vocab"]:
        """`||slope_v W_U[:, v] - centre||^2` of every token, without cancellation."""
        out = centre.new_empty(self.d_vocab)
        apart = None
        for span, rows in self.spans(slope):
            apart = torch.empty_like(rows) if apart is None else apart[: len(rows)]
            torch.sub(rows, centre, out=apart)
            torch.linalg.vector_norm(apart, dim=1, out=out[span])
        return out.square_()

    def spans(self, slope: Tensor | None) -> Iterator[tuple[slice, Float[Tensor, "chunk d_model"]]]:
        """All columns of `W_U D` in turn, as rows in float32 at least, few enough to stay in cache."""
        precise = working_dtype(self.W_U.dtype)
        size = self._span
        for start in range(0, self.d_vocab, size):
            span = slice(start, min(start + size, self.d_vocab))
            rows = self.W_U[:, span].T.to(precise)
            yield span, rows if slope is None else rows * slope[span, None]

    def _fitting(self, numbers: int) -> int:
        """How many columns hold so many numbers, one at least."""
        return max(1, numbers // self.d_model)

    @property
    def _span(self) -> int:
        # A device of its own pays for every launch, and has no cache worth staying in.
        return self._fitting(SPAN if self.W_U.device.type == "cpu" else CHUNK)

    def blocks(
        self, tokens: Int[Tensor, "token"] | None, slope: Tensor | None
    ) -> Iterator[tuple[slice | Tensor, Float[Tensor, "chunk d_model"]]]:
        """The columns of `W_U D` for `tokens` (None: for all), like `spans`.

        The rows are a buffer that the next block overwrites.
        """
        if tokens is None:
            yield from self.spans(slope)
            return
        precise = working_dtype(self.W_U.dtype)
        size = max(1, min(self._span, len(tokens)))
        buffer = torch.empty(size, self.d_model, dtype=self.W_U.dtype, device=self.W_U.device)
        for ids in tokens.split(size) if len(tokens) else ():
            rows = torch.index_select(self.W_U.T, 0, ids, out=buffer[: len(ids)]).to(precise)
            yield ids, rows if slope is None else rows * slope[ids, None]


class _Products(torch.autograd.Function):
    """`y W_U`, whose way back is `pull`.

    Of a `W_U` in half precision, autograd by itself would keep every span, which together are a copy of
    `W_U` in float32.
    """

    @staticmethod
    def forward(ctx, y: Tensor, head: Unembedding) -> Tensor:
        ctx.head = head
        if head.W_U.dtype == y.dtype:
            return y @ head.W_U
        out = y.new_empty(len(y), head.d_vocab)
        for span, rows in head.spans(None):
            torch.matmul(y, rows.T, out=out[:, span])
        return out

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        return ctx.head.pull(grad_outputs[0].T), None


def widest_dtype(device: torch.device) -> torch.dtype:
    """For sums that float32 would blur: float64, which Apple's GPUs do not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that norms and sums are taken in: float64 for float64 models, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
