"""From a kept activation back to the source tokens: parts of a gradient, and what they are of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.circuits.trace import Trace
from tl_scopes.jacobian.backward import default_chunk, pull


class Whole:
    """The gradients `v^T dy/dr_t` of a trace at its root, and what the parts of them amount to."""

    def __init__(
        self, trace: Trace, root: str, gradient: Float[Tensor, "vector pos d_model"]
    ) -> None:
        self.trace = trace
        self.root = trace.kept[root]
        self.precise = working_dtype(gradient.dtype)
        # The embedding may be scaled on its way into the stream, which scores are per unit of.
        self.unit = 1 / trace.question.view.embed_scale if root == "embed" else 1.0
        self.gradient = gradient.to(self.precise) * self.unit
        squares = (self.gradient**2).sum(-1)
        norms, weights = (x.to(self.gradient) for x in (trace.norms, trace.weights))
        self.scale = (weights * norms**2)[:, None] if trace.squared else norms[:, None]
        self.lengths = squares if trace.squared else squares.sqrt()
        self.scores = (self.scale * self.lengths).sum(0)

    @cached_property
    def direction(self) -> Float[Tensor, "vector pos d_model"]:
        """What a part is projected on: the whole gradient; its direction where scores are norms."""
        if self.trace.squared:
            return self.gradient
        lengths = self.lengths[..., None]
        # Squares of a tiny gradient may vanish: scores are zero then, and so must projections be.
        return torch.where(lengths > 0, self.gradient / lengths, 0)

    def size(self, parts: Float[Tensor, "part pos d_model"], vector: Tensor) -> Tensor:
        """Norms of parts of the gradients of the vectors numbered `vector`, or their weighted
        squares, [part, pos], in the unit of scores."""
        squares = (parts**2).sum(-1)
        return self.scale[vector] * (squares if self.trace.squared else squares.sqrt())

    def signed(self, parts: Float[Tensor, "part pos d_model"], vector: Tensor) -> Tensor:
        """Their projections on the whole, which add up to scores where parts add up to it."""
        return self.scale[vector] * (parts * self.direction[vector]).sum(-1)

    def pull(
        self, outputs: Sequence[Tensor], cotangents: Sequence[Float[Tensor, "direction pos ..."]]
    ) -> Float[Tensor, "direction pos d_model"]:
        """Cotangents of kept activations pulled back to the root; zero where no path leads there."""
        with_batch = [v[:, None] for v in cotangents]
        (found,) = pull(self.trace.question.view, outputs, [self.root], with_batch)
        if found is None:
            return self.root.new_zeros(len(cotangents[0]), *self.root.shape[1:]).to(self.precise)
        return found[:, 0].to(self.precise) * self.unit

    def chunks(self, total: int, chunk_size: int | None) -> Iterator[Tensor]:
        """Numbers of `total` directions, as many at a time as share a backward pass."""
        chunk = chunk_size or default_chunk(self.trace.question.view, 1, self.root.shape[1])
        yield from torch.arange(total, device=self.root.device).split(chunk)


def alone(gradient: Float[Tensor, "vector part ..."], vector: Tensor, part: Tensor) -> Tensor:
    """Cotangents that hold the gradient of each `vector` at each `part` alone: zero elsewhere."""
    vector, part = vector.to(gradient.device), part.to(gradient.device)
    rows = torch.arange(len(vector), device=gradient.device)
    out = gradient.new_zeros(len(vector), *gradient.shape[1:])
    out[rows, part] = gradient[vector, part]
    return out
