"""What one token in the place of another changes: to first order, or in a real forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.prompts import texts
from tl_scopes.adapter.unembedding import CHUNK, working_dtype
from tl_scopes.errors import NumericalError
from tl_scopes.jacobian.answers import Answer
from tl_scopes.jacobian.forward import read_under, read_values
from tl_scopes.jacobian.likely import Kept, check_finite, embedded, embeddings
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.records import Substitution

# Rows whose logits are held at once: 16 of 262,144 are 16 MiB.
_READS = 16

Listed = tuple[tuple[Substitution, ...], tuple[Substitution, ...]]


class Swaps:
    """What one token in the place of another changes: to first order, and really. Inside `run.locked()`.

    `gradients`: of every vector at the places, [vector, at, d_model]. `tokens`: those that stand there.
    """

    def __init__(self, one: PromptRun, answer: Answer, kept: Kept, k: int) -> None:
        self.run, self.answer, self.places, self.k = one, answer, kept.at, k
        gradients = torch.cat(kept.gradients)
        self.gradients = gradients * answer.norms.to(gradients)[:, None, None]
        self.weights = answer.explained.every_weight.to(gradients)
        self.expected = kept.expected
        self.tokens = torch.tensor([one.ids[t] for t in kept.at], device=one.view.device)

    @property
    def signed(self) -> bool:
        return not self.answer.explained.squared and len(self.gradients) == 1

    def among_likely(self) -> list[Listed]:
        """Among the tokens that the model expected at each place."""
        assert self.expected is not None
        before = [t - 1 for t in self.places]
        ids = self.expected.ids[0, before].to(self.tokens)
        size = max(1, CHUNK // (ids.shape[1] * self.gradients.shape[2]))
        effects = []
        for start in range(0, len(ids), size):
            at = slice(start, start + size)
            other, own = (embedded(self.run, some[at]) for some in (ids, self.tokens))
            moves = (other - own[:, None]).to(self.gradients)
            effects.append(self._joined(torch.einsum("vad,and->van", self.gradients[:, at], moves)))
        return self._listed(torch.cat(effects), ids, self.expected.probabilities[0, before])

    def among(self, named: Sequence[int]) -> list[Listed]:
        """Among tokens that are the same for every place."""
        ids = torch.tensor(named, device=self.tokens.device)
        own = embedded(self.run, self.tokens).to(self.gradients)
        base = (self.gradients * own).sum(-1, keepdim=True)
        ends: list[tuple[Tensor, Tensor]] = []
        for part, rows in embeddings(self.run, ids):
            check_finite(self.run, ids[part], rows)
            rows = rows.to(self.gradients)
            size = max(1, CHUNK // (len(self.gradients) * len(rows)))
            some = [
                self._ends(self._joined(own @ rows.T - at), ids[part].to(rows.device))
                for own, at in zip(self.gradients.split(size, 1), base.split(size, 1))
            ]
            effects, found = (torch.cat(column) for column in zip(*some))
            ends.append((effects, found))
        effects, found = (torch.cat(column, 1) for column in zip(*ends))
        return self._listed(effects, found)

    def _joined(self, effects: Float[Tensor, "vector at other"]) -> Float[Tensor, "at other"]:
        """The effects of all vectors together."""
        if self.signed:
            return effects[0]
        squares = torch.einsum("v,van->an", self.weights, effects.square())
        return squares if self.answer.explained.squared else squares.sqrt()

    def _ends(
        self, effects: Float[Tensor, "at other"], ids: Int[Tensor, "other"]
    ) -> tuple[Float[Tensor, "at end"], Int[Tensor, "at end"]]:
        """The largest and the smallest at each place, one more than are asked for: the token's own is there."""
        n = min(self.k + 1, effects.shape[1])
        both = [effects.topk(n, largest=largest).indices for largest in (True, False)]
        chosen = torch.cat(both, 1)
        return effects.gather(1, chosen), ids[chosen]

    def _listed(
        self,
        effects: Float[Tensor, "at other"],
        ids: Int[Tensor, "at other"],
        probabilities: Float[Tensor, "at other"] | None = None,
    ) -> list[Listed]:
        """The strongest at each place, up and down. Raises `NumericalError`."""
        if not torch.isfinite(effects).all():
            raise NumericalError(
                "an effect is NaN or infinite: the gradient times the change of the embedding goes beyond the "
                "range of the model's dtype; load it in a wider one"
            )
        chances = effects if probabilities is None else probabilities
        rows = [
            {i: (e, p) for i, e, p in zip(*row) if i != own}
            for own, *row in zip(*(x.tolist() for x in (self.tokens, ids, effects, chances)))
        ]
        ranked = [sorted(row, key=lambda i, row=row: -row[i][0]) for row in rows]
        chosen = [
            (
                [i for i in order[: self.k] if row[i][0] > 0],
                [i for i in order[::-1][: self.k] if row[i][0] < 0],
            )
            for row, order in zip(rows, ranked)
        ]
        distinct = list(dict.fromkeys(i for pair in chosen for side in pair for i in side))
        names = dict(zip(distinct, texts(self.run.view, distinct))) if distinct else {}

        def one(row: dict[int, tuple[float, float]], i: int) -> Substitution:
            effect, chance = row[i]
            return Substitution(i, names[i], effect, None if probabilities is None else chance)

        return [
            (tuple(one(row, i) for i in up), tuple(one(row, i) for i in down))
            for row, (up, down) in zip(rows, chosen)
        ]

    def verified(self, listed: Sequence[Listed]) -> list[Listed]:
        """With what each of them changes in a forward pass of its own."""
        swaps = [
            (place, each.id)
            for place, sides in zip(self.places, listed)
            for side in sides
            for each in side
        ]
        real = iter(self._changes(swaps))
        return [
            (
                tuple(replace(each, measured=next(real)) for each in up),
                tuple(replace(each, measured=next(real)) for each in down),
            )
            for up, down in listed
        ]

    def _changes(self, swaps: Sequence[tuple[int, int]]) -> list[float]:
        """Of what is explained. Raises `NumericalError`."""
        total = torch.zeros(len(swaps), dtype=torch.float64, device="cpu")
        for sign, one in zip((1, -1), self.run.alone):  # of two continuations: the difference
            size = max(1, one.rows_at_once() - 1)
            for start in range(0, len(swaps), size):
                part = slice(start, start + size)
                total[part] += sign * self._change_of(one, swaps[part])
        if not torch.isfinite(total).all():
            raise NumericalError(
                "a text with another token gives NaN or infinity: check the model's weights and hooks"
            )
        return total.tolist()

    def _change_of(self, one: PromptRun, swaps: Sequence[tuple[int, int]]) -> Float[Tensor, "swap"]:
        rows = one.tokens(len(swaps) + 1)  # the first as it is, whose rounding is that of the batch
        for row, (place, token) in zip(rows[1:], swaps):
            row[place] = token
        states = [_read(one, some) for some in rows.split(1 if one.hooked else len(rows))]
        values = torch.cat(states)
        values = values.to(working_dtype(values.dtype))
        answer, position = self.answer, one.reads[0][0]
        of_logits = one.read_site is None and not one.span
        found: list[Tensor] = []
        before = None
        for some in values.split(_READS):
            raws = answer.read.head.raw_logits(some) if of_logits else [None] * len(some)
            for value, raw in zip(some, raws):
                value, raw = (
                    (value, raw) if one.span else (value[None], None if raw is None else raw[None])
                )
                read = one.read_of(value, raw, answer.read.head, position)
                before = read if before is None else before
                at = before if answer.explained.squared else answer.read
                found.append(answer.scope.scalar(read, answer.explained, at))
        whole = torch.stack(found).double().cpu()
        return whole[1:] - whole[0]


def _read(one: PromptRun, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row *d"]:
    """What is read of other tokens: of a span [row, read, d_model]."""
    read = read_under(one.view, tokens, {}, one.read_site)
    if one.span:
        return read[:, [position for _, position in one.span]]
    return read_values(one.view, one.read_site, read, range(len(read)), [one.position] * len(read))
