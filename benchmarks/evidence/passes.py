"""Scores of many short prompts at once: prompts of similar length share forward and backward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import tl_scopes as ts
from tl_scopes import baselines
from tl_scopes.adapter.sites import embed_site
from tl_scopes.adapter.view import ModelView
from tl_scopes.jacobian.answers import Limits, run
from tl_scopes.jacobian.batches import BATCH_TOKENS, grouped, padded
from tl_scopes.jacobian.forward import read_under
from tl_scopes.jacobian.likely import Kind, Measure
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.jacobian.ruled import read_ruled
from tl_scopes.results.joining import exact_how
from tl_scopes.rules import rules_of

# Which prompt, and what the method is called there.
Key = tuple[int, str]


def attributions(
    view: ModelView, prompts: Sequence[list[int]], scopes: Mapping[Key, ts.Scope], measure: Kind
) -> dict[Key, tuple[Tensor, str | None]]:
    """What `attribute` scores by each of the scopes, [site, pos], at every site, with `measure="tokens"` at the
    embedding; and which joining is exact.

    Scopes of one prompt that have the same rules share its forward pass; those of continuations have their own.
    """
    runs: list[PromptRun] = []
    keys: list[list[Key]] = []
    together: dict[tuple[int, Any], list[Key]] = {}
    for key, scope in scopes.items():
        if isinstance(scope, ts.ContinuationScope):
            runs.append(PromptRun.explaining(view, prompts[key[0]], scope, -1, False))
            keys.append([key])
        else:
            together.setdefault((key[0], rules_of(scope)), []).append(key)
    for (i, _), own in together.items():
        last = len(prompts[i]) - 1
        runs.append(PromptRun(view, prompts[i], last, False, [(last, scopes[key]) for key in own]))
        keys.append(own)
    places = view.sites("all" if measure == "norm" else "embed")
    found = {}
    for group in grouped(runs, BATCH_TOKENS) if runs else ():
        answers = run([runs[r] for r in group], places, Limits(), Measure(measure).over(places))
        for r, own in zip(group, answers):
            for key, answer in zip(keys[r], own):
                values, _ = answer.scores(view, len(runs[r].shown))
                scope = answer.scope
                found[key] = values, exact_how(scope.info(answer.explained), scope.units)
    return found


def products(
    view: ModelView, prompts: Sequence[list[int]], methods: Mapping[Key, baselines.InputXGradient]
) -> dict[Key, Tensor]:
    """Scores at the embedding, each method's of a `ContinuationScope`. Methods of the same one share its gradient."""
    asked: dict[tuple[int, Any], PromptRun] = {}
    for (i, _), method in methods.items():
        if (i, method.target) not in asked:
            scope: Any = method.target
            asked[i, scope] = PromptRun.explaining(view, prompts[i], scope, -1, False)
    alone = [one for each in asked.values() for one in each.alone]
    for group in grouped(alone, BATCH_TOKENS) if alone else ():
        _remember_gradients(view, [alone[r] for r in group], next(iter(methods.values())))
    with alone[0].locked() if alone else nullcontext():
        return {
            (i, name): method.scores(asked[i, method.target], embed_site()).values.detach()
            for (i, name), method in methods.items()
        }


def _remember_gradients(
    view: ModelView, runs: Sequence[PromptRun], method: baselines.InputXGradient
) -> None:
    """What the method asks of each run, from passes that they share."""
    site, head = embed_site(), view.unembedding()
    with runs[0].locked():
        tokens = padded(runs)
        x = runs[0].embedded(tokens).requires_grad_()
        states = read_ruled(view, tokens, {site: lambda a: x.to(a)}, None, rules_of(method))
        totals = []
        for row, one in enumerate(runs):
            (_, scope), places = one.reads[0], [place for _, place in one.span]
            read = one.read_of(states[row, places], None, head, one.position)
            totals.append(scope.total(read))  # pyright: ignore[reportAttributeAccessIssue]
        (gradients,) = torch.autograd.grad(torch.stack(totals).sum(), x)
    for one, activation, gradient in zip(runs, x.detach(), gradients):
        mine = replace(method, target=one.reads[0][1])
        one.remembered["activation", site.label] = activation[None, : one.length]
        one.remembered[mine.gradient_key(one, site)] = gradient[: one.length]


@torch.no_grad()
def log_probs(view: ModelView, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Of each second after its first, in nats."""
    runs = [PromptRun(view, a + b, len(a + b) - 1, False) for a, b in pairs]
    head, found = view.unembedding(), {}
    for group in grouped(runs, BATCH_TOKENS) if runs else ():
        sharing = [runs[r] for r in group]
        with sharing[0].locked(gradients=False):
            states = read_under(view, padded(sharing), {})
        for row, r in enumerate(group):
            first, second = pairs[r]
            own = states[row, len(first) - 1 : len(first) + len(second) - 1]
            logits = head.logits(head.raw_logits(own)).float().log_softmax(-1)
            found[r] = float(logits.gather(1, torch.tensor(second)[:, None]).sum())
    return [found[r] for r in range(len(pairs))]
