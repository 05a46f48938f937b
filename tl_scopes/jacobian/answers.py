"""One forward pass over several rows of tokens, and the backward passes that answer their reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter import guards
from tl_scopes.adapter.padding import following
from tl_scopes.adapter.prompts import N_CANDIDATES, described, resolve_token, texts
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import (
    NumericalError,
    SiteError,
    check_choice,
    check_whole,
)
from tl_scopes.jacobian import original, probes, slope
from tl_scopes.jacobian.backward import default_chunk, norms_at
from tl_scopes.jacobian.checkpointing import exceeds_budget
from tl_scopes.jacobian.forward import overflow_hint, refuse_noncausal, refuse_nonfinite
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import Candidate
from tl_scopes.scopes.base import Explained, Read, Scope

# Tokens of a model's first prompt on which its last step is checked.
_CHECKED_TOKENS = 64


@dataclass(frozen=True)
class Job:
    """One row of a forward pass: its ids, and what is read where, by ascending position."""

    ids: list[int]
    reads: list[tuple[int, Scope]]
    whole: bool = False

    @property
    def length(self) -> int:
        """Tokens that must be run: none after the last read can matter, unless `whole`."""
        if self.whole:
            return len(self.ids)
        return max(p for p, _ in self.reads) + 1


@dataclass(eq=False)
class Answer:
    """One read: what was explained there, and the squared norms pulled back to each site row.

    `exact[s]`: [pos], already weighted and summed. `sampled[s]`: [sample, pos].
    """

    row: int
    position: int
    scope: Scope
    explained: Explained
    norms: Float[Tensor, "k"]
    prediction: tuple[Candidate, ...]
    read: Read
    sites: list[str] = field(default_factory=list)
    exact: list[Tensor] = field(default_factory=list)
    sampled: list[Tensor] = field(default_factory=list)

    def attribution(self, view: ModelView, ids: list[int]) -> Attribution:
        """The public result over the whole prompt `ids`. Raises `NumericalError`."""
        n = self.explained.n_sampled
        scores, errors = [], []
        for exact, sampled in zip(self.exact, self.sampled):
            row = exact + sampled.mean(0) if n else exact
            scores.append(row if self.explained.squared else row.sqrt())
            if n > 1:
                errors.append((sampled.var(0) / n).sqrt())
        self._check(view, scores)
        return Attribution(
            scores=self._whole(scores, len(ids)),
            sites=tuple(self.sites),
            **described(view, ids),
            position=self.position,
            scope=self.scope.info(self.explained),
            target=self.explained.target,
            units=self.scope.units,
            prediction=self.prediction,
            fisher=self.explained.fisher,
            standard_error=self._whole(errors, len(ids)) if errors else None,
        )

    def _check(self, view: ModelView, scores: list[Tensor]) -> None:
        # From the site nearest to what is read: a NaN there reaches all the earlier ones.
        for label, row in zip(reversed(self.sites), reversed(scores)):
            bad = (~torch.isfinite(row.float())).nonzero()
            if len(bad):
                raise NumericalError(
                    f"NaN or infinity in the gradient at site {label!r}, token {int(bad[0])}, "
                    "although the forward pass was finite: check the weights and hooks between "
                    f"there and what is read{overflow_hint(view)}"
                )
            if row[self.position + 1 :].any():
                refuse_noncausal(label, self.position)

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


def check_scopes(view: ModelView, scopes: Sequence[Scope]) -> None:
    """Raises `ScopeParameterError` or `ProcessedWeightsError`; may warn."""
    for scope in {id(s): s for s in scopes}.values():
        scope.validate(view.d_model)
        guards.check_scope(view.model, scope)


def run(
    view: ModelView, jobs: list[Job], sites: tuple[Site, ...], limits: Limits
) -> list[list[Answer]]:
    """Answer every read of every job. All scopes of one call read at the same site.

    Raises `SiteError`, `TargetError`, `ScopeParameterError` or `NumericalError`.
    """
    width = max(job.length for job in jobs)
    # Padded with a token of the row's own: the embedding of another may be unused, or NaN.
    rows = [job.ids[: job.length] + [job.ids[0]] * (width - job.length) for job in jobs]
    tokens = torch.tensor(rows, device=view.device)
    request = jobs[0].reads[0][1].read_site
    read_site = None if request is None else view.site(request)
    with view.locked():
        verify_once(view, tokens[:1, : jobs[0].length], jobs[0].whole)
        recompute = limits.checkpoint_blocks
        if recompute is None:
            recompute = exceeds_budget(view, len(jobs), width)
        rows = [row for row, job in enumerate(jobs) for _ in job.reads]
        columns = [position for job in jobs for position, _ in job.reads]
        recording = probes.record(view, tokens, sites, read_site, recompute)
        read = read_values(view, read_site, recording.read, rows, columns)
        answers = explain(view, jobs, tokens, read.detach(), at_final=read_site is None)
        chunk = limits.chunk_size or default_chunk(view, len(jobs), width, sparing=recompute)
        _pull_back(view, recording, read, answers, chunk)
    remaining = iter(answers)
    return [[next(remaining) for _ in job.reads] for job in jobs]


def verify_once(view: ModelView, tokens: Int[Tensor, "1 pos"], whole: bool) -> None:
    """`capture.verify`, `original.refuse_another` and `slope.refuse_another`, unless the model's last
    step, that a bridge is what it wraps, that it is causal, and that its gradient is its slope are
    known. Inside `view.locked()`."""
    if view.verified_under != view.last_step_facts() or view.last_step_is_hooked():
        # Hooks may count on the whole prompt; the last step itself is the same at any length.
        probes.verify(view, tokens if whole else tokens[:, :_CHECKED_TOKENS])
    original.refuse_another(view, tokens)
    slope.refuse_another(view, tokens, whole)


def read_values(
    view: ModelView,
    site: Site | None,
    activation: Float[Tensor, "batch pos *d"],
    rows: list[int],
    columns: list[int],
) -> Float[Tensor, "read *own"]:
    """What is read of the activation at `site` (None: of the final state) at rows and positions."""
    read = activation[rows, columns]
    if site is not None and site.is_embed and view.embed_scale != 1:
        read = read * view.embed_scale
    if site is not None and site.component is not None:
        ((_, index),) = components_of(site, activation[..., 0])
        read = read[(slice(None), *index)]
    return read


def explain(
    view: ModelView,
    jobs: list[Job],
    tokens: Int[Tensor, "batch pos"],
    read: Float[Tensor, "read *d"],
    at_final: bool,
) -> list[Answer]:
    """What each read of each job explains, without its squared norms yet.

    Raises `TargetError`, `ScopeParameterError` or `NumericalError`.
    """
    head = view.unembedding()
    raw = head.raw_logits(read) if at_final else None
    seen = read if raw is None else raw
    if not torch.isfinite(seen).all():
        what = "the activation that is read" if raw is None else "the logits"
        refuse_nonfinite(view, tokens, what)
    answers = []
    for row, job in enumerate(jobs):
        for position, scope in job.reads:
            i = len(answers)
            own = None if raw is None else raw[i]
            after = following(job.ids, position)
            at = Read(read[i], own, head, lambda t: resolve_token(view, t), after)
            explained = scope.explain(at)
            explained = replace(explained, vectors=explained.vectors.detach())
            # In double: squared in float32, tiny vectors would vanish.
            norms = torch.linalg.vector_norm(explained.vectors.flatten(1).cpu().double(), dim=1)
            prediction = () if own is None else candidates(view, head.logits(own))
            answers.append(Answer(row, position, scope, explained, norms, prediction, at))
    return answers


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
) -> None:
    """Fill in the answers' squared norms.

    Rows of a batch do not mix, so one backward pass serves one vector of every row; the reads of one
    row take passes after each other.
    """
    starts, used = [], dict.fromkeys({a.row for a in answers}, 0)
    for answer in answers:
        starts.append(used[answer.row])
        used[answer.row] += len(answer.norms)
    live = [(i, slot) for i, slot in enumerate(recording.slots) if slot is not None]
    width = recording.read.shape[1]
    rows_of = [components_of(site, slot) for site, slot in zip(recording.sites, recording.slots)]
    for answer in answers:
        answer.sites = [label for rows in rows_of for label, _ in rows]
        empty = torch.zeros(width, dtype=torch.float64, device="cpu")
        answer.exact = [empty.clone() for _ in answer.sites]
        answer.sampled = [empty.repeat(answer.explained.n_sampled, 1) for _ in answer.sites]

    def cotangents(passes: range) -> Tensor:
        """Unit vectors, so that half precision neither overflows nor vanishes on the way back."""
        out = torch.zeros(len(passes), *read.shape, dtype=read.dtype, device=read.device)
        for i, (answer, start) in enumerate(zip(answers, starts)):
            lo, hi = max(start, passes.start), min(start + len(answer.norms), passes.stop)
            if lo < hi:
                v = answer.explained.vectors[lo - start : hi - start]
                norms = answer.norms[lo - start : hi - start].to(v)
                norms = torch.where(norms > 0, norms, 1).reshape(-1, *[1] * (v.ndim - 1))
                out[lo - passes.start : hi - passes.start, i] = (v / norms).to(out.dtype)
        return out

    slots = [slot for _, slot in live]
    for passes, norms in norms_at(view, read, slots, cotangents, max(used.values()), chunk):
        for (i, _), found in zip(live, norms):
            if found is None:
                raise SiteError(
                    f"site {recording.sites[i].label!r} has no path to what is read: its activation "
                    "is a by-product on this architecture, or a hook of yours replaces what follows; "
                    "use the residual stream, or another hook"
                )
            found = found.cpu().double().square()
            first = sum(len(rows) for rows in rows_of[:i])
            for offset, (_, index) in enumerate(rows_of[i]):
                for answer, start in zip(answers, starts):
                    part = found[(slice(None), answer.row, slice(None), *index)]
                    _accumulate(answer, first + offset, part, start, passes)


def _accumulate(answer: Answer, s: int, part: Tensor, start: int, passes: range) -> None:
    lo, hi = max(start, passes.start), min(start + len(answer.norms), passes.stop)
    if lo >= hi:
        return
    squares = part[lo - passes.start : hi - passes.start]
    own = slice(lo - start, hi - start)
    scaled = squares * (answer.norms[own, None] ** 2)
    n_exact = len(answer.norms) - answer.explained.n_sampled
    exact = max(0, min(hi - start, n_exact) - (lo - start))
    answer.exact[s] += answer.explained.weights[own][:exact].double() @ scaled[:exact]
    if exact < len(scaled):
        at = lo - start + exact - n_exact
        answer.sampled[s][at : at + len(scaled) - exact] = scaled[exact:]


def components_of(site: Site, slot: Tensor | None) -> list[tuple[str, tuple[int, ...]]]:
    """The result rows of one site: a label and an index into the axes after `pos` for each."""
    if slot is None or (slot.ndim == 2 and site.component is None):
        return [(site.label, ())]
    shape = slot.shape[2:]
    every = list(product(*(range(n) for n in shape)))
    if site.component is None:
        return [(site.component_label(index), index) for index in every]
    if site.component not in every:
        raise SiteError(
            f"site {site.label!r} does not exist: {site.hook} has "
            + (f"axes {list(shape)} between pos and the last" if shape else "no head axis")
            + f"; allowed: {site.hook!r}"
            + (f", or with indices below {list(shape)}" if shape else "")
        )
    return [(site.label, site.component)]
