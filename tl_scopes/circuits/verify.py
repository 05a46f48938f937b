"""Predicted against measured: real ablations of what an attribution names, and of random others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt, encode, texts
from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.view import view_of
from tl_scopes.circuits.checks import (
    check_options,
    check_prompt,
    check_scope,
    scope_of,
    shares,
    token_site,
)
from tl_scopes.circuits.interventions import Move, scalars
from tl_scopes.circuits.references import Baseline
from tl_scopes.circuits.stream import last_stream
from tl_scopes.circuits.trace import Question, Trace, ask, traced
from tl_scopes.errors import NumericalError, ScopeParameterError, UnsupportedModelError
from tl_scopes.jacobian import forward
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.circuits import Components, Verification
from tl_scopes.results.flows import Flow, HeadPaths
from tl_scopes.results.records import Agreement
from tl_scopes.results.statistics import rank_agreement
from tl_scopes.scopes.base import Scope

STEPS = (1e-3, 1e-2, 0.1, 0.3, 1.0)
_BASELINES = {"zero": "zero", "mean": "mean", "corrupt": "corrupted"}


def verify(
    model: Any,
    prompt: Prompt,
    attribution: Attribution | Components | HeadPaths | Flow,
    by: Literal["token", "head"] = "token",
    intervention: Literal["zero", "mean", "pad", "corrupt"] = "zero",
    *,
    scope: Scope | None = None,
    corrupted: Prompt | None = None,
    top: int = 10,
    random: int = 10,
    k: int = 5,
    steps: Sequence[float] = STEPS,
    seed: int = 0,
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
            embedding only), or the same place of another prompt: `"corrupt"`, with `corrupted`.
        scope: the scope of the attribution; needed where its record cannot tell (a function, a
            direction, a scope of your own).
        top, random: how many of the highest scores, and how many of the others, are ablated.
        k: of how many the overlap is taken.
        steps: shares of the whole intervention, for the step curve. In float32 the smallest of
            them may show rounding, in half precision most; a model in float64 tells.
        seed: of the random choice and of the bootstrap.

    Returns:
        `Verification`. Changes are in the unit of the scope's scalar (Fisher: nats, the quadratic form
        of the change of y). 95% intervals from 2,000 bootstrap resamples of the rows.

    Raises:
        PromptError: for another prompt than the attribution's.
        ScopeParameterError: for an intervention or choice that does not fit.
        ScopesError: as `attribute`.

    Source: the honesty check of first-order methods, as in Kramar et al., arXiv 2403.00745.
    """
    check_options(attribution, by, intervention, corrupted, (top, random, k), seed)
    steps = shares(steps)
    chosen_scope = scope if scope is not None else scope_of(attribution.scope, attribution)
    view = view_of(model)
    check_prompt(attribution, encode(view, prompt, prepend_bos))
    frozen = getattr(attribution, "frozen", ())
    question = ask(model, prompt, chosen_scope, attribution.position, prepend_bos, frozen)
    check_scope(attribution, question)
    heads = _head_sites(question) if by == "head" else []
    site = view.site(token_site(attribution)) if by == "token" else embed_site()
    sites = [site] if by == "token" else heads
    start = Baseline.chosen(
        question, _BASELINES.get(intervention, "zero"), corrupted, None, prepend_bos
    )
    with traced(question, site, heads) as trace:
        start.measure(sites, trace.kept)
        if intervention == "pad":
            start.values[site.label] = _pad_embedding(question, site)
        candidates = _tokens(trace, start, site) if by == "token" else _heads(trace, start, heads)
        scores = _scores(attribution, by, candidates)
        order = _choose(scores, top, random, seed)
        rows = [candidates[i] for i in order]
        moves = [row.move for row in rows]
        predicted = torch.stack([row.predicted for row in rows])
        measured = scalars(trace, moves)
        curve = torch.stack(
            [measured if step == 1 else scalars(trace, moves, step) for step in steps]
        )
        power = 2 if trace.squared else 1
        at = torch.tensor(steps, dtype=torch.float64, device="cpu")
        expected = at[:, None] ** power * predicted
        error = (curve - expected).abs() / expected.abs()
        ranked = scores[order]
        first = min(k, len(rows))
        likely, real = (set(x.topk(first).indices.tolist()) for x in (ranked, measured.abs()))
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
            k=first,
            top_overlap=len(likely & real) / first,
            slope=float((measured * predicted).sum() / predicted.square().sum()),
            steps=tuple(float(step) for step in steps),
            step_measured=curve.float(),
            step_errors=tuple(float(row.nanmedian()) for row in error),
        )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Something that can be ablated. `key`: its position, or its layer and head."""

    label: str
    key: tuple[int, ...]
    move: Move
    predicted: Tensor


def _tokens(trace: Trace, start: Baseline, site: Site) -> list[_Candidate]:
    question = trace.question
    (gradient,) = trace.gradients([site.label])
    x = trace.kept[site.label].detach()[0]
    delta = start.of(site.label) - x
    names = texts(question.view, question.ids)
    component = site.component or ()
    found = []
    for t in range(question.position + 1):
        own = torch.zeros_like(delta)
        own[(t, *component)] = delta[(t, *component)]
        label = f"{t}: {names[t]!r}"
        found.append(_Candidate(label, (t,), Move(site, own), _predict(trace, gradient, own)))
    return found


def _heads(trace: Trace, start: Baseline, sites: list[Site]) -> list[_Candidate]:
    found = []
    gradients = trace.gradients([site.label for site in sites])
    for site, gradient in zip(sites, gradients):
        z = trace.kept[site.label].detach()[0]
        delta = start.of(site.label) - z
        layer = site.block
        assert layer is not None
        for head in range(z.shape[1]):
            own = torch.zeros_like(delta)
            own[:, head] = delta[:, head]
            predicted = _predict(trace, gradient, own)
            found.append(_Candidate(f"L{layer}H{head}", (layer, head), Move(site, own), predicted))
    return found


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
    found = Agreement(*rank_agreement(a.tolist(), b.tolist(), seed))
    if found.value != found.value:
        raise NumericalError(
            "all changes are equal (nothing that was ablated matters, or nothing was predicted), so "
            "their ranks agree with nothing: choose another intervention, target or read position"
        )
    return found


def _head_sites(question: Question) -> list[Site]:
    view = question.view
    layers = last_stream(view, question.read_site).attn_layers
    hooks = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    known = view.hooks
    missing = [hook for hook in hooks if hook not in known]
    if missing or not hooks:
        raise UnsupportedModelError(
            f'by="head" needs {missing[0] if missing else "a block before what is read"!r}, which '
            'this model does not have: use by="token"'
        )
    return list(view.sites(hooks))


def _pad_embedding(question: Question, site: Site) -> Float[Tensor, "pos d_model"]:
    pad = getattr(getattr(question.view.model, "tokenizer", None), "pad_token_id", None)
    if pad is None or not 0 <= int(pad) < int(question.view.cfg.d_vocab):
        raise ScopeParameterError(
            f'intervention="pad" needs a pad token with an embedding, but the tokenizer\'s is {pad}: '
            'use "zero" or "mean"'
        )
    tokens = torch.full((1, len(question.run)), int(pad), device=question.view.device)
    return forward.activations(question.view, tokens, [site])[site.label][0]
