"""Other tokens in the place of a prompt's own: which of them the model expected there, and what a change moves.

To first order, token t' in the place of token t moves what a vector v explains by `v^T J_t (E[t'] - E[t])`,
where E is what the model writes at the embedding for a token, and `v^T J_t` the gradient there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.prompts import texts
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import CHUNK, Unembedding
from tl_scopes.errors import (
    NumericalError,
    ScopeParameterError,
    SiteError,
    UnsupportedModelError,
    check_choice,
    check_whole,
)
from tl_scopes.jacobian.forward import look, refuse_nonfinite
from tl_scopes.jacobian.probes import Recording
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.escapes import literal
from tl_scopes.results.joining import exact_how
from tl_scopes.results.records import effect_units

Kind = Literal["norm", "tokens"]
# How many of a model's likeliest tokens stand for what it expected.
N_LIKELY = 64
# Reads whose logits are held at once: 16 of 262,144 tokens are 16 MiB.
_READS = 16
# Tokens of the vocabulary that are embedded at once: 40 MiB at d_model 640.
_EMBEDDED_AT_ONCE = 16384
# How far what the model writes for one token may differ from place to place, over the largest number.
_SAME = 1e-3


def embeddings(
    prompt_run: PromptRun, ids: Int[Tensor, "token"]
) -> Iterator[tuple[slice, Float[Tensor, "chunk d_model"]]]:
    """What the hook at the embedding shows of any tokens, chunk by chunk. Inside `prompt_run.locked()`.

    Under hooks of the user's, in rows of the prompt's own length, one at a time.
    """
    hooked = prompt_run.hooked
    width = prompt_run.length if hooked else min(prompt_run.view.n_ctx or 1024, 1024)
    rows = 1 if hooked else max(1, _EMBEDDED_AT_ONCE // width)
    start = 0
    for some in ids.split(rows * width):
        whole = some[: len(some) // width * width].view(-1, width)
        for part in (whole, some[whole.numel() :][None]):
            n = part.numel()
            if n and hooked:
                part = torch.cat([part, ids[:1].expand(1, width - n)], 1)
            if n:
                yield slice(start, start := start + n), prompt_run.embedded(part).flatten(0, 1)[:n]


def embedded(prompt_run: PromptRun, ids: Int[Tensor, "*place"]) -> Float[Tensor, "*place d_model"]:
    """The same for tokens in any arrangement, each embedded once. Raises `NumericalError`."""
    distinct, index = ids.to(prompt_run.view.device).unique(return_inverse=True)
    rows = torch.cat([rows for _, rows in embeddings(prompt_run, distinct)])
    check_finite(prompt_run, distinct, rows)
    return rows[index]


def check_finite(
    prompt_run: PromptRun, ids: Int[Tensor, "token"], rows: Float[Tensor, "token d_model"]
) -> None:
    """Raises `NumericalError` for a token whose embedding holds NaN or infinity."""
    bad = (~torch.isfinite(rows)).any(-1).nonzero()
    if len(bad):
        token = int(ids[int(bad[0])])
        raise NumericalError(
            f"the embedding of token {token} ({literal(texts(prompt_run.view, [token])[0])}) holds NaN or "
            "infinity: check the weights and hooks there, or name the tokens yourself and leave it out"
        )


def check_places(prompt_run: PromptRun, tokens: Int[Tensor, "row pos"]) -> None:
    """Raises `UnsupportedModelError` where what the model writes for a token depends on where it stands."""

    def written(ids: Tensor) -> Tensor:
        return torch.cat(
            [prompt_run.embedded(x) for x in ids.split(1 if prompt_run.hooked else len(ids))]
        )

    there = written(tokens)
    off = (there - written(tokens.roll(1, -1)).roll(-1, 1)).abs().max()
    if not off <= _SAME * there.abs().max():
        raise UnsupportedModelError(
            "what the model writes at the embedding for one token depends on where it stands, so that no "
            "token can be put in another's place: a hook of yours is likely to edit some positions there; "
            "remove it"
        )


def expected(
    head: Unembedding, states: Float[Tensor, "place d_model"], n: int
) -> tuple[Int[Tensor, "place n"], Float[Tensor, "place n"]]:
    """The `n` likeliest next tokens at final states and their probabilities, a few states at a time."""
    n = min(n, head.d_vocab)
    found = [
        torch.softmax(head.logits(head.raw_logits(some)), -1).topk(n, dim=-1)
        for some in states.split(_READS)
    ]
    if not found:
        return states.new_zeros(0, n, dtype=torch.long), states.new_zeros(0, n)
    return torch.cat([top.indices for top in found]), torch.cat([top.values for top in found])


@dataclass(frozen=True, eq=False)
class Expected:
    """What a model expected at the places of prompts, from the one before each.

    `tokens`: the prompts, [row, pos]; `ids`, `probabilities`: the n likeliest at each place but the first.
    """

    tokens: Int[Tensor, "row pos"]
    ids: Int[Tensor, "row place n"]
    probabilities: Float[Tensor, "row place n"]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        runs: Sequence[PromptRun],
        tokens: Int[Tensor, "row pos"],
        recording: Recording,
        n: int,
    ) -> Expected:
        """From the forward pass that was recorded, or, where it ended before the final state, another.

        Of a prompt with two rows that of the first counts. Raises `NumericalError`, or
        `ScopeParameterError` for a model whose predictions are not of its own tokens.
        """
        view, head = runs[0].view, runs[0].view.unembedding()
        if head.d_vocab != int(view.cfg.d_vocab):
            raise ScopeParameterError(
                f"likely tokens are those that the model predicts, but it predicts one of {head.d_vocab} and "
                f"reads {int(view.cfg.d_vocab)} tokens: name the tokens, or use the norm"
            )
        states = recording.read if runs[0].read_site is None else look(view, tokens, [])[1]
        first, rows = [], 0
        for one in runs:
            first.append(rows)
            rows += len(one.rows)
        states = states.detach()[first, :-1]
        ids, p = expected(head, states.flatten(0, 1), n)
        if not torch.isfinite(p).all():
            refuse_nonfinite(view, tokens, "the logits")
        shape = (len(first), states.shape[1], ids.shape[-1])
        return cls(tokens[first], ids.view(shape), p.view(shape))


class OverLikely:
    """Squares of a gradient over likely tokens: the mean of squared effects, by the model's own expectation.

    In place of the squared norm of each gradient g at token t: `sum_t' q(t') (g . (E[t'] - E[t]))^2`. q are
    the probabilities of the n likeliest tokens there, made to add up to 1; the token that stands there
    is one of them where it was expected. The first token, which nothing predicts, has none: zero.
    """

    def __init__(
        self,
        n: int,
        runs: Sequence[PromptRun],
        tokens: Int[Tensor, "row pos"],
        recording: Recording,
    ) -> None:
        self.expected = likely = Expected.of(runs, tokens, recording, n)
        p = likely.probabilities.cpu().double()
        self.q = p / p.sum(-1, keepdim=True)
        asked = torch.cat([likely.tokens.flatten(), likely.ids.flatten().to(likely.tokens)])
        distinct, index = asked.unique(return_inverse=True)
        self.rows = embedded(runs[0], distinct)
        own, other = index.split([likely.tokens.numel(), likely.ids.numel()])
        self.own, self.other = own.view(likely.tokens.shape), other.view(likely.ids.shape)
        check_places(runs[0], likely.tokens)

    def squares(
        self, gradients: Float[Tensor, "direction row pos d_model"]
    ) -> Float[Tensor, "direction row pos"]:
        rows, out = (
            self.rows.to(gradients),
            gradients.new_zeros(gradients.shape[:-1]).cpu().double(),
        )
        size = max(1, CHUNK // max(1, self.other[:, :1].numel() * rows.shape[1]))
        for places in torch.arange(self.other.shape[1], device="cpu").split(size):
            at = slice(int(places[0]), int(places[-1]) + 1)
            after = slice(at.start + 1, at.stop + 1)
            moves = rows[self.other[:, at]] - rows[self.own[:, after], None, :]
            effects = torch.einsum("vrpd,rpnd->vrpn", gradients[:, :, after], moves).cpu().double()
            out[:, :, after] = (effects.square() * self.q[:, at]).sum(-1)
        return out


class Kept:
    """The squared norm of each gradient, as ever; and the gradients at some positions, to be used after.

    `gradients`: pass by pass, [direction, at, d_model]. `expected`: None unless `n` is given.
    """

    def __init__(
        self,
        at: Sequence[int],
        n: int | None,
        runs: Sequence[PromptRun],
        tokens: Int[Tensor, "row pos"],
        recording: Recording,
    ) -> None:
        self.at = list(at)
        self.gradients: list[Tensor] = []
        self.expected = None if n is None else Expected.of(runs, tokens, recording, n)

    def squares(
        self, gradients: Float[Tensor, "direction row pos d_model"]
    ) -> Float[Tensor, "direction row pos"]:
        self.gradients.append(gradients[:, 0, self.at])
        return torch.linalg.vector_norm(gradients, dim=-1).cpu().double().square()


_R = TypeVar("_R", Attribution, SequenceAttribution)


@dataclass(frozen=True)
class Measure:
    """How gradients at a token become its score: by their norm, or over the tokens expected there.

    Raises `ScopeParameterError`.
    """

    kind: Kind = "norm"
    n_likely: int = N_LIKELY

    def __post_init__(self) -> None:
        check_choice("measure", self.kind, get_args(Kind))
        check_whole("n_likely", self.n_likely, 1)

    def over(self, sites: Sequence[Site]) -> Callable[..., OverLikely] | None:
        """What `answers.run` takes. Raises `SiteError` for tokens anywhere but at the embedding."""
        if self.kind == "norm":
            return None
        for site in sites:
            if not site.is_embed:
                raise SiteError(
                    'measure="tokens" is of other tokens in the place of one, whose gradient is taken at the '
                    f'embedding: it has no site {site.label!r}; use sites="embed", or measure="norm"'
                )
        return partial(OverLikely, self.n_likely)

    def named(self, result: _R) -> _R:
        """`result` with the measure in its record, and the units and title that follow."""
        if self.kind == "norm":
            return result
        scope = result.scope
        told = {"measure": self.kind, "n_likely": self.n_likely}
        info = replace(
            scope,
            parameters={**scope.parameters, **told},
            title=f"How other likely tokens move {scope.explains}" if scope.explains else "",
            joining=scope.joining or exact_how(scope, result.units) or "none",
        )
        return replace(result, scope=info, units=effect_units(result.units))


NORM = Measure()
