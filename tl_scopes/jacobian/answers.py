"""One forward pass over several rows of tokens, and the backward passes that answer their reads.

1. `probes.record` runs the rows up to what is read, with a probe at each site.
2. `explain` asks each scope for its vectors v at what was read.
3. `_pull_back` takes them back to the sites as unit vectors, so that half precision neither overflows
   nor vanishes, and adds up `weight * ||v||^2 * ||(v / ||v||)^T J_t||^2`.
4. `Answer.attribution` makes a result of the sums.

Cost: a forward pass, and as many backward passes as the row with the most vectors has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.prompts import N_CANDIDATES, described, texts
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import SiteError, check_choice, check_whole
from tl_scopes.jacobian import probes
from tl_scopes.jacobian.backward import default_chunk, norms_at
from tl_scopes.jacobian.batches import owners, padded
from tl_scopes.jacobian.checkpointing import exceeds_budget
from tl_scopes.jacobian.forward import check_gradient, no_path, read_values, refuse_nonfinite
from tl_scopes.jacobian.likely import Kept, OverLikely
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import Candidate
from tl_scopes.rules import rules_of
from tl_scopes.scopes.base import Explained, Read, Scope

_TINY = torch.finfo(torch.float64).tiny


@dataclass(eq=False)
class Answer:
    """One read, or a span of them: what was explained there, and the squared norms pulled back to each
    row of `sites`.

    `row`: which prompt it is of. `flat`: which of all the values that are read are its own. `shared`: how
    many tokens have scores, where not all do. `squares[s]`: [1 + sample, pos], the weighted sum over the
    exact vectors, then each sampled one. `log_prob`: of the token that follows in the prompt.
    """

    row: int
    position: int
    flat: slice
    shared: int | None
    scope: Scope
    explained: Explained
    norms: Float[Tensor, "k"]
    prediction: tuple[Candidate, ...]
    log_prob: float | None
    read: Read
    sites: list[str] = field(default_factory=list)
    squares: list[Float[Tensor, "sum pos"]] = field(default_factory=list)

    def attribution(self, view: ModelView, ids: list[int]) -> Attribution:
        """The public result over the whole prompt `ids`. Raises `NumericalError`."""
        scores, errors = self.scores(view, len(ids))
        return Attribution(
            scores=scores,
            sites=tuple(self.sites),
            **described(view, ids, rules_of(self.scope)),
            position=self.position,
            scope=self.scope.info(self.explained),
            target=self.explained.target,
            units=self.scope.units,
            prediction=self.prediction,
            fisher=self.explained.fisher,
            standard_error=errors,
            continuation=self.explained.continuation,
        )

    def scores(
        self, view: ModelView, length: int
    ) -> tuple[Float[Tensor, "site pos"], Float[Tensor, "site pos"] | None]:
        """Scores and their standard errors, without the rest of the result. Raises `NumericalError`."""
        n = self.explained.n_sampled
        scores, errors = [], []
        for squares in self.squares:
            if self.shared is not None:
                squares[:, self.shared :] = 0
            exact, sampled = squares[0], squares[1:]
            row = exact + sampled.mean(0) if n else exact
            scores.append(row if self.explained.squared else row.sqrt())
            if n > 1:
                error = (sampled.var(0) / n).sqrt()
                # That of a root, to first order.
                root = 1 if self.explained.squared else 2 * scores[-1].clamp_min(_TINY)
                errors.append(error / root)
        # From the site nearest to what is read: a NaN there reaches all the earlier ones.
        for label, row in zip(reversed(self.sites), reversed(scores)):
            check_gradient(view, label, row, self.position)
        return self._whole(scores, length), self._whole(errors, length) if errors else None

    @cached_property
    def summands(self) -> Float[Tensor, "sum k"]:
        """How often each vector's squared norm, at length 1, counts in each of `squares`."""
        k, n = len(self.norms), self.explained.n_sampled
        weights = self.explained.weights[: k - n].cpu().double()
        counts = torch.block_diag(weights[None], torch.eye(n, dtype=torch.float64, device="cpu"))
        return counts * self.norms**2

    @cached_property
    def directions(self) -> Float[Tensor, "k *d"]:
        """The vectors at length 1, so that half precision neither overflows nor vanishes on the way
        back: what is made of them is to be multiplied by `norms`."""
        vectors = self.explained.vectors
        norms = torch.where(self.norms > 0, self.norms, 1).to(vectors)
        return vectors / norms.reshape(-1, *[1] * (vectors.ndim - 1))

    def _whole(self, rows: list[Tensor], length: int) -> Float[Tensor, "site pos"]:
        """In float32, with zeros for the tokens after the read, which cannot matter."""
        read = torch.stack(rows)[:, : self.position + 1].float()
        return torch.nn.functional.pad(read, (0, length - read.shape[1]))


def check_chunk(size: Any) -> None:
    """Raises `ScopeParameterError` unless `size` is a chunk_size."""
    check_whole("chunk_size", size, 1, also=[None])


@dataclass(frozen=True)
class Limits:
    """How a call trades time for memory; None: by an estimate of what it takes.

    `chunk_size`: directions per backward pass. `checkpoint_blocks`: whether blocks are run again
    on the way back instead of keeping their activations.
    """

    chunk_size: int | None = None
    checkpoint_blocks: bool | None = None

    def __post_init__(self) -> None:
        check_chunk(self.chunk_size)
        check_choice(
            "checkpoint_blocks",
            self.checkpoint_blocks,
            (True, False, None),
            hint=" (when activations would take too much memory)",
        )


def run(
    runs: Sequence[PromptRun],
    sites: tuple[Site, ...],
    limits: Limits,
    measure: Callable[..., OverLikely | Kept] | None = None,
) -> list[list[Answer]]:
    """Answer every read of prompts that share a forward pass. All their scopes read at the same site.

    `measure`: of prompts, their rows and a recording, what makes squares of gradients at the embedding,
    which is then the only site. None: squares of their norms.

    Raises `SiteError`, `TargetError`, `ScopeParameterError` or `NumericalError`.
    """
    view, read_site = runs[0].view, runs[0].read_site
    tokens = padded(runs)
    with runs[0].locked():
        recompute = limits.checkpoint_blocks
        if recompute is None:
            recompute = exceeds_budget(view, *tokens.shape)
        recording = probes.record(
            view,
            tokens,
            sites,
            read_site,
            recompute,
            owners(runs),
            runs[0].rules,
            measure is not None,
        )
        rows, positions = flat_places(runs)
        read = read_values(view, read_site, recording.read, rows, positions)
        answers = explain(runs, tokens, read.detach())
        chunk = limits.chunk_size or default_chunk(view, *tokens.shape, sparing=recompute)
        measured = None if measure is None else measure(runs, tokens, recording)
        _pull_back(view, recording, read, answers, chunk, measured)
    remaining = iter(answers)
    return [[next(remaining) for _ in one.reads] for one in runs]


def explain(
    runs: Sequence[PromptRun],
    tokens: Int[Tensor, "row pos"],
    read: Float[Tensor, "read *d"],
) -> list[Answer]:
    """What each read of each prompt explains, without its squared norms yet.

    `tokens`: what was run, should the numbers that are read be refused. Raises `TargetError`,
    `ScopeParameterError` or `NumericalError`.
    """
    view = runs[0].view
    head = view.unembedding()
    # Of a span only the scope itself takes up logits, a few reads at a time.
    raw = head.raw_logits(read) if runs[0].read_site is None and not runs[0].span else None
    if not torch.isfinite(read if raw is None else raw).all():
        what = "the activation that is read" if raw is None else "the logits"
        refuse_nonfinite(view, tokens, what)
    answers, start = [], 0
    for row, one in enumerate(runs):
        for position, scope in one.reads:
            flat = slice(start, start := start + len(one.places(position)))
            at = one.read_of(read[flat], None if raw is None else raw[flat], head, position)
            explained = scope.explain(at)
            explained = replace(explained, vectors=explained.vectors.detach())
            # In double: squared in float32, tiny vectors would vanish.
            norms = torch.linalg.vector_norm(explained.vectors.flatten(1).cpu().double(), dim=1)
            prediction, log_prob = (), None
            if at.raw is not None:
                logits = head.logits(at.raw)
                prediction = candidates(view, logits)
                if at.next_id is not None:
                    log_prob = float(logits[at.next_id] - logits.logsumexp(0))
            last = position if one.shared is None else one.shared - 1
            answers.append(
                Answer(
                    row, last, flat, one.shared, scope, explained, norms, prediction, log_prob, at
                )
            )
    return answers


def flat_places(runs: Sequence[PromptRun]) -> tuple[list[int], list[int]]:
    """Rows of `padded`, and positions in them, of all that is read, answer by answer."""
    first, places = 0, []
    for one in runs:
        each = [place for position, _ in one.reads for place in one.places(position)]
        places += [(first + row, position) for row, position in each]
        first += len(one.rows)
    return [row for row, _ in places], [position for _, position in places]


def candidates(view: ModelView, logits: Float[Tensor, "d_vocab"]) -> tuple[Candidate, ...]:
    """The top predicted next tokens."""
    p, ids = torch.softmax(logits, dim=-1).topk(min(N_CANDIDATES, logits.numel()))
    names = texts(view, ids.tolist())
    return tuple(Candidate(*entry) for entry in zip(ids.tolist(), names, p.tolist()))


def _pull_back(
    view: ModelView,
    recording: probes.Recording,
    read: Float[Tensor, "read *d"],
    answers: list[Answer],
    chunk: int,
    measured: OverLikely | Kept | None,
) -> None:
    """Fill in the answers' squared norms, or what `measured` has in their place.

    Prompts of a batch do not mix, so one backward pass serves one vector of every prompt; the reads of
    one prompt take passes after each other.
    """
    starts, used = [], dict.fromkeys({a.row for a in answers}, 0)
    for answer in answers:
        starts.append(used[answer.row])
        used[answer.row] += len(answer.norms)
    live = [(i, slot) for i, slot in enumerate(recording.slots) if slot is not None]
    width = recording.read.shape[1]
    rows_of = [
        [(site.label, ())]
        if slot is None or measured is not None
        else site.components(slot.shape[2:])
        for site, slot in zip(recording.sites, recording.slots)
    ]
    for answer in answers:
        answer.sites = [label for rows in rows_of for label, _ in rows]
        answer.squares = [
            answer.summands.new_zeros(len(answer.summands), width) for _ in answer.sites
        ]

    def meeting(passes: range) -> Iterator[tuple[int, slice, slice]]:
        """The answers that take part in `passes`: which of their vectors, and in which passes."""
        for i, (answer, start) in enumerate(zip(answers, starts)):
            lo, hi = max(start, passes.start), min(start + len(answer.norms), passes.stop)
            if lo < hi:
                yield i, slice(lo - start, hi - start), slice(lo - passes.start, hi - passes.start)

    def cotangents(passes: range) -> Tensor:
        out = torch.zeros(len(passes), *read.shape, dtype=read.dtype, device=read.device)
        for i, vectors, mine in meeting(passes):
            own = answers[i].directions[vectors].to(out.dtype)
            out[mine, answers[i].flat] = own if answers[i].read.places else own[:, None]
        return out

    slots = [slot for _, slot in live]
    for passes, norms in norms_at(view, read, slots, cotangents, max(used.values()), chunk):
        for (s, _), at_slot in zip(live, norms):
            if at_slot is None:
                raise SiteError(no_path(recording.sites[s].label))
            squares = (
                at_slot.cpu().double().square() if measured is None else measured.squares(at_slot)
            )
            first = sum(len(rows) for rows in rows_of[:s])
            for offset, (_, index) in enumerate(rows_of[s]):
                for i, vectors, mine in meeting(passes):
                    part = squares[(mine, answers[i].row, slice(None), *index)]
                    answers[i].squares[first + offset] += answers[i].summands[:, vectors] @ part
