"""From a kept activation back to the source tokens: parts of a gradient, and what they are of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.circuits.passes.trace import Trace
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
        self.unit = 1 / trace.view.embed_scale if root == "embed" else 1.0
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
        (gradient,) = pull(self.trace.view, outputs, [self.root], with_batch)
        if gradient is None:
            return self.root.new_zeros(len(cotangents[0]), *self.root.shape[1:]).to(self.precise)
        return gradient[:, 0].to(self.precise) * self.unit

    def alone(
        self,
        gradient: Float[Tensor, "vector part ..."],
        chunk_size: int | None,
        parts: Sequence[int] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor, Float[Tensor, "direction part ..."]]]:
        """Cotangents that hold the gradient of one vector at one part alone, zero elsewhere: for each
        vector and each of `parts` (None: all), as many at a time as share a backward pass.

        Yields the vectors' numbers, the parts' numbers, and the cotangents.
        """
        numbers = torch.arange(gradient.shape[1], device=self.root.device)
        some = numbers if parts is None else numbers[list(parts)]
        pairs = torch.cartesian_prod(numbers.new_tensor(range(len(gradient))), some)
        chunk = chunk_size or default_chunk(self.trace.view, 1, self.root.shape[1])
        for chunk_of_pairs in pairs.split(chunk) if len(pairs) else ():
            vector, part = chunk_of_pairs.T
            cotangents = gradient.new_zeros(len(vector), *gradient.shape[1:])
            rows = torch.arange(len(vector), device=gradient.device)
            there = vector.to(gradient.device), part.to(gradient.device)
            cotangents[rows, there[1]] = gradient[there]
            yield vector, part, cotangents
