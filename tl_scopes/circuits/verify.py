"""Predicted against measured: real ablations of what an attribution names, and of random others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt, encode, texts
from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines.replacements import likely, replacement
from tl_scopes.circuits.passes.checks import (
    check_options,
    check_prompt,
    check_scope,
    scope_of,
    shares,
    token_site,
)
from tl_scopes.circuits.passes.interventions import Move, scalars
from tl_scopes.circuits.passes.references import Baseline
from tl_scopes.circuits.passes.stream import last_stream
from tl_scopes.circuits.passes.trace import CircuitRun, Trace, ask, asked, traced
from tl_scopes.errors import NumericalError, ScopeParameterError, UnsupportedModelError
from tl_scopes.jacobian.forward import needed_sites
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.circuits import Components, Verification
from tl_scopes.results.flows import Flow, HeadPaths
from tl_scopes.results.records import Agreement
from tl_scopes.results.statistics import rank_agreement
from tl_scopes.scopes.base import Scope, check_is_scope

STEPS = (1e-3, 1e-2, 0.1, 0.3, 1.0)
_BASELINES = {"zero": "zero", "mean": "mean", "corrupt": "corrupted"}


def verify(
    model: Any,
    prompt: Prompt,
    attribution: Attribution | Components | HeadPaths | Flow,
    by: Literal["token", "head"] = "token",
    intervention: Literal["zero", "mean", "pad", "corrupt", "likely"] = "zero",
    *,
    scope: Scope | None = None,
    corrupted: Prompt | None = None,
    top: int = 10,
    random: int = 10,
    k: int = 5,
    steps: Sequence[float] = STEPS,
    seed: int = 0,
    draws: int = 5,
    prepend_bos: bool | None = None,
) -> Verification:
    """Ablate what an attribution names, and random others, and compare with what was predicted.

    For every chosen token (its activation at the attribution's site) or head (its output z, at all
    positions): the first-order change of the scope's scalar, and the real change in a forward pass
    in which the activation is replaced, wholly and by smaller steps.

    Args:
        model, prompt, prepend_bos: those that the attribution was made with.
        attribution: an `Attribution` (its first site counts), `Flow` or `HeadPaths` for tokens;
            `Components`, `HeadPaths`, or an `Attribution` (whose heads are then scored by
            `components`) for heads.
        by: what is ablated, `"token"` or `"head"`.
        intervention: what an activation is replaced by: `"zero"`, its `"mean"` over the prompt's
            tokens (BOS left out), the embedding of the tokenizer's `"pad"` token (tokens at the
            embedding only), or the same place of another prompt: `"corrupt"`, with `corrupted`. Or, for
            tokens at the embedding, by those of `"likely"` tokens: `draws` of what the model itself
            expects in that place, so that every prompt could have been written; changes, predicted and
            measured, are means over draws. The first token, which nothing predicts, is not ablated.
        scope: the scope of the attribution; needed where its record cannot tell (a function, a
            direction, a scope of your own).
        top, random: how many of the highest scores, and how many of the others, are ablated.
        k: the overlap is of the k largest predicted and the k largest measured changes.
        steps: shares of the whole intervention, for the step curve. In float32 the smallest of
            them may show rounding, in half precision most; a model in float64 tells.
        seed: of the random choice, of the bootstrap and of likely tokens.

    Returns:
        `Verification`. Changes are in the unit of the scope's scalar (Fisher: nats, the quadratic form
        of the change of y). 95% intervals from 2,000 bootstrap resamples of the rows.

    Raises:
        PromptError: for another prompt than the attribution's.
        ScopeParameterError: for an intervention or choice that does not fit.
        ScopesError: as `attribute`.

    Source: the honesty check of first-order methods, as in Kramar et al., arXiv 2403.00745.

        >>> scope = SemanticScope(" Paris")
        >>> effects = components(model, "The capital of France is", scope)
        >>> verify(model, "The capital of France is", effects, by="head").rank_agreement
    """
    check_options(attribution, by, intervention, corrupted, (top, random, k, draws), seed)
    steps = shares(steps)
    explained_scope = scope if scope is not None else scope_of(attribution)
    check_is_scope(explained_scope)
    view = view_of(model)
    ids = encode(view, prompt, prepend_bos)
    held = asked(getattr(attribution, "frozen", ()), attribution.provenance.rules)
    if explained_scope.rows(view, ids) is None:
        check_prompt(attribution, ids)
        prompt_run = ask(model, ids, explained_scope, attribution.position, None, held)
    else:
        prompt_run = ask(model, ids, explained_scope, rules=held)
        check_prompt(attribution, prompt_run.ids)
    check_scope(attribution, prompt_run)
    heads = _head_sites(prompt_run) if by == "head" else []
    site = view.site(token_site(attribution)) if by == "token" else embed_site()
    sites = [site] if by == "token" else heads
    start = Baseline.chosen(
        prompt_run, _BASELINES.get(intervention, "zero"), corrupted, None, prepend_bos
    )
    with traced(prompt_run, site, heads) as trace:
        start.measure(sites, trace.kept)
        if intervention == "pad":
            start.values[site.label] = replacement(prompt_run, site, "pad")
        starts = [start]
        if intervention == "likely":
            drawn = (likely(prompt_run, site, seed, draw) for draw in range(draws))
            starts = [replace(start, values={site.label: each}) for each in drawn]
        first = int(intervention == "likely")
        candidates = list(_candidates(trace, starts, sites, by, first))
        scores = _scores(attribution, by, candidates)
        order = _choose(scores, top, random, seed)
        rows = [candidates[i] for i in order]
        predicted = torch.stack([row.predicted for row in rows])
        measured = _measured(trace, rows)
        curve = torch.stack(
            [measured if step == 1 else _measured(trace, rows, step) for step in steps]
        )
        power = 2 if trace.squared else 1
        at = torch.tensor(steps, dtype=torch.float64, device="cpu")
        expected = at[:, None] ** power * predicted
        error = (curve - expected).abs() / expected.abs()
        ranked = scores[order]
        compared = min(k, len(rows))
        expected_first, real_first = (
            set(x.topk(compared).indices.tolist()) for x in (ranked, measured.abs())
        )
        return Verification(
            **trace.common(),
            by=by,
            intervention=intervention,
            labels=tuple(row.label for row in rows),
            chosen=tuple("top" if i < top else "random" for i in range(len(rows))),
            scores=ranked.float(),
            predicted=predicted.float(),
            measured=measured.float(),
            rank_agreement=_agreement(ranked, measured.abs(), seed),
            prediction_agreement=_agreement(predicted, measured, seed),
            k=compared,
            top_overlap=len(expected_first & real_first) / compared,
            slope=float((measured * predicted).sum() / predicted.square().sum()),
            steps=tuple(float(step) for step in steps),
            step_measured=curve.float(),
            step_errors=tuple(float(row.nanmedian()) for row in error),
        )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Something that can be ablated, by a move for each baseline. `key`: its position, or its layer and head.
    `predicted`: the mean over moves."""

    label: str
    key: tuple[int, ...]
    moves: list[Move]
    predicted: Tensor


def _candidates(
    trace: Trace, starts: Sequence[Baseline], sites: list[Site], by: str, first: int
) -> Iterator[_Candidate]:
    """Every token from `first` up to the read, or every head at all positions, taken to each of the baselines
    alone."""
    names = texts(trace.view, trace.prompt_run.ids)
    for site, gradient in zip(sites, trace.gradients([site.label for site in sites])):
        x = trace.kept[site.label].detach()[0]
        deltas = [start.of(site.label) - x for start in starts]
        if by == "token":
            component = site.component or ()
            positions = range(first, trace.prompt_run.position + 1)
            rows = [(f"{t}: {names[t]!r}", (t,), (t, *component)) for t in positions]
        else:
            layer, heads = site.block, range(x.shape[1])
            assert layer is not None
            rows = [(f"L{layer}H{head}", (layer, head), (slice(None), head)) for head in heads]
        for label, key, place in rows:
            moves = []
            for delta in deltas:
                part = torch.zeros_like(delta)
                part[place] = delta[place]
                moves.append(Move(site, part))
            predicted = [_predict(trace, gradient, move.delta) for move in moves]
            yield _Candidate(label, key, moves, torch.stack(predicted).mean(0))


def _measured(trace: Trace, rows: list[_Candidate], step: float = 1.0) -> Float[Tensor, "row"]:
    """The mean change over each one's moves."""
    draws = zip(*(row.moves for row in rows))
    return torch.stack([scalars(trace, moves, step) for moves in draws]).mean(0)


def _predict(
    trace: Trace, gradient: Float[Tensor, "vector pos ..."], delta: Float[Tensor, "pos ..."]
) -> Tensor:
    """The first-order change of the scalar; for several vectors the quadratic form of theirs."""
    each = (gradient.double() * delta.double()).flatten(1).sum(1).cpu() * trace.norms
    return trace.weights @ each.square() if trace.squared else each.sum()


def _scores(attribution: Any, by: str, candidates: list[_Candidate]) -> Float[Tensor, "row"]:
    """What the attribution says of each candidate, in magnitude."""
    if by == "token":
        row = attribution.scores[0] if isinstance(attribution, Attribution) else attribution.scores
        return row[: len(candidates)].double()
    if isinstance(attribution, Attribution):
        return torch.stack([c.predicted.abs() for c in candidates])
    grid = (
        attribution.head_grid().abs()
        if isinstance(attribution, Components)
        else attribution.norms.sum(-1)
    )
    return torch.stack([grid[c.key].double() for c in candidates])


def _choose(scores: Tensor, top: int, random: int, seed: int) -> list[int]:
    order = torch.sort(scores, descending=True, stable=True).indices
    generator = torch.Generator("cpu").manual_seed(seed)
    rest = order[top:]
    drawn = rest[torch.randperm(len(rest), generator=generator, device="cpu")[:random]]
    chosen = [*order[:top].tolist(), *drawn.tolist()]
    if len(chosen) < 3:
        raise ScopeParameterError(
            f"only {len(chosen)} of {len(scores)} can be ablated: agreement needs at least three; "
            "give a longer prompt, or raise top and random"
        )
    return chosen


def _agreement(a: Tensor, b: Tensor, seed: int) -> Agreement:
    agreement = Agreement(*rank_agreement(a.tolist(), b.tolist(), seed))
    if agreement.value != agreement.value:
        raise NumericalError(
            "all changes are equal (nothing that was ablated matters, or nothing was predicted), so "
            "their ranks agree with nothing: choose another intervention, target or read position"
        )
    return agreement


def _head_sites(prompt_run: CircuitRun) -> list[Site]:
    layers = last_stream(prompt_run.view, prompt_run.read_site).attn_layers
    if not layers:
        raise UnsupportedModelError(
            'by="head" needs a block before what is read, which there is not: use by="token"'
        )
    hooks = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    return needed_sites(prompt_run.view, hooks, 'by="head"', ': use by="token"')
