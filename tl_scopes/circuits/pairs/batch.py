"""Clean and corrupted prompts of one length, which share passes, and a scope's scalar on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import Edit, ModelView
from tl_scopes.circuits.passes.trace import CircuitRun
from tl_scopes.errors import NumericalError, ScopesError
from tl_scopes.jacobian.answers import Answer, explain
from tl_scopes.jacobian.batches import padded
from tl_scopes.jacobian.forward import read_under, read_values
from tl_scopes.jacobian.probes import check_site

# Rows whose logits are held at a time.
_ROWS = 16


@dataclass(eq=False)
class PairBatch:
    """Pairs of one length that are read at the same places.

    `numbers`: which of all pairs they are. `runs`: the clean prompts, with what is explained there.
    `corrupted`: the ids of the others, as far as they are run. `places`: the positions of each role.
    Everything but the plain facts is to be used inside `with batch.locked()`.
    """

    numbers: Sequence[int]
    runs: Sequence[CircuitRun]
    corrupted: Int[Tensor, "pair pos"]
    places: Mapping[str, Bool[Tensor, "pair pos"]]

    @property
    def view(self) -> ModelView:
        return self.runs[0].view

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def length(self) -> int:
        """Tokens that are run of each prompt."""
        return self.runs[0].length

    @cached_property
    def clean(self) -> Int[Tensor, "pair pos"]:
        return padded(self.runs)

    def part(self, which: Sequence[int]) -> PairBatch:
        """Some of its pairs, by their places in the batch."""
        rows = list(which)
        return PairBatch(
            [self.numbers[i] for i in rows],
            [self.runs[i] for i in rows],
            self.corrupted[rows],
            {role: own[rows] for role, own in self.places.items()},
        )

    @contextmanager
    def locked(self, gradients: bool = False) -> Iterator[None]:
        """See `PromptRun.locked`."""
        with self.runs[0].locked(gradients):
            yield

    def rows_at_once(self) -> int:
        """Prompts that may share a forward pass without gradients."""
        return self.runs[0].rows_at_once()

    def read(
        self,
        tokens: Int[Tensor, "row pos"],
        edits: Mapping[Site, Edit] | None = None,
        prepare: Callable[[ExitStack], None] = lambda undo: None,
    ) -> Float[Tensor, "row read *d"]:
        """What is read of rows of ids, in one forward pass with activations edited at sites."""
        first = self.runs[0]
        activation = read_under(self.view, tokens, edits or {}, first.read_site, prepare)
        if first.read_site is not None:
            check_site(self.view, first.read_site, activation, tokens)
        places = [position for _, position in first.places(first.position)]
        rows = [i for i in range(len(tokens)) for _ in places]
        values = read_values(self.view, first.read_site, activation, rows, places * len(tokens))
        return values.unflatten(0, (len(tokens), len(places)))

    @torch.no_grad()
    def seen(
        self, tokens: Int[Tensor, "row pos"], sites: Sequence[Site]
    ) -> tuple[dict[str, Tensor], Float[Tensor, "row read *d"]]:
        """Activations of rows of ids at sites, by label, as far as they are reached, and what is read."""
        kept: dict[str, list[Tensor]] = {}

        def note(label: str, activation: Tensor) -> Tensor:
            kept.setdefault(label, []).append(activation.clone())  # later hooks may edit in place
            return activation

        edits = {site: lambda a, label=site.label: note(label, a) for site in sites}
        values = torch.cat([self.read(own, edits) for own in tokens.split(self.rows_at_once())])
        return {label: torch.cat(own) for label, own in kept.items()}, values

    @cached_property
    def answers(self) -> list[Answer]:
        """What is explained of each pair: vectors and targets are those of the clean prompt."""
        with torch.no_grad():
            values = torch.cat([self.read(rows) for rows in self.clean.split(self.rows_at_once())])
        return explain(self.runs, self.clean, values.flatten(0, 1))

    @property
    def clean_scalars(self) -> Float[Tensor, "pair"]:
        """The scope's scalar on each clean prompt, from the pass that tells what is explained."""
        found = []
        for i, answer in enumerate(self.answers):
            value = answer.read.value.to(working_dtype(answer.read.value.dtype))
            own = value if self.runs[i].span else value[None]
            found.append(self._scalar(own, answer.read.raw, i))
        return torch.stack(found)

    def refuse_nonfinite(self) -> None:
        """Raise `NumericalError`, with the hook where NaN or infinity begins, unless what is read of the
        clean prompts is finite."""
        assert self.answers

    def scalars(
        self, values: Float[Tensor, "row read *d"], pairs: Sequence[int]
    ) -> Float[Tensor, "row"]:
        """The scope's scalar at `values`, each row read of the batch's pair that `pairs` names.

        For a scope with several vectors, the quadratic form of the change from the clean prompt; zero
        there. Raises `NumericalError`, with the pair's number.
        """
        # Small changes would be lost in the rounding of half precision.
        values = values.to(working_dtype(values.dtype))
        first, pairs, found = self.runs[0], list(pairs), []
        # Of a span the scope itself takes up logits, a few reads at a time.
        alone = first.read_site is None and not first.span
        for rows in torch.arange(len(values), device="cpu").split(_ROWS):
            own = values[rows]
            raw = self.answers[0].read.head.raw_logits(own[:, 0]) if alone else [None] * len(own)
            found += map(self._scalar, own, raw, [pairs[row] for row in rows.tolist()])
        return torch.stack(found)

    def _scalar(
        self, value: Float[Tensor, "read *d"], raw: Tensor | None, i: int
    ) -> Float[Tensor, ""]:
        run, answer = self.runs[i], self.answers[i]
        read = replace(answer.read, value=value if run.span else value[0], raw=raw)
        scalar = answer.scope.scalar(read, answer.explained, answer.read).double().cpu()
        if not torch.isfinite(scalar):
            raise NumericalError(
                f"pair {self.numbers[i]}: what is explained is {float(scalar)} in this run: check the "
                "model's weights and hooks, or use another ablation"
            )
        return scalar


@contextmanager
def of_pair(number: int) -> Iterator[None]:
    """Errors say which pair they are about."""
    try:
        yield
    except ScopesError as error:
        raise type(error)(f"pair {number}: {error}") from None
