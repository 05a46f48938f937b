"""Scores of several methods for several prompts, and what compares the maps that they make.

1. Methods get labels (`labelled`).
2. Scopes share forward and backward passes over prompts of similar length; other methods take one
   prompt at a time (`score`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Union

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.guards import check_scope
from tl_scopes.adapter.padding import Ids
from tl_scopes.adapter.prompts import resolve_position
from tl_scopes.adapter.refusals import refuse_surrogates
from tl_scopes.adapter.sites import embed_site
from tl_scopes.adapter.view import ModelView
from tl_scopes.baselines.method import Method
from tl_scopes.errors import LengthMismatchError, NumericalError, ScopeParameterError, TargetError
from tl_scopes.jacobian.answers import Limits, run
from tl_scopes.jacobian.batches import grouped, padded
from tl_scopes.jacobian.forward import read_under
from tl_scopes.jacobian.prompt_run import PromptRun, check_scopes, read_position
from tl_scopes.results.statistics import rank_likeness
from tl_scopes.rules import rules_of
from tl_scopes.scopes.base import Read, Scope
from tl_scopes.scopes.continuation import ContinuationScope

# Tokens that share a pass with gradients: few enough that their activations are kept, not run again.
BATCH_TOKENS = 1024

AnyMethod = Union[Scope, Method]
Methods = Union[Sequence[AnyMethod], Mapping[str, AnyMethod]]


def labelled(methods: Methods) -> dict[str, AnyMethod]:
    """Methods by label: the keys of a mapping, else name and parameters that are not the default.

    Raises `ScopeParameterError` for what is no method, for none, and for labels that are not unique.

        >>> list(evaluation.labelled([ts.SemanticScope(), ts.FisherScope(rank=4)]))
        ['semantic', 'fisher(rank=4)']
    """
    if isinstance(methods, Mapping):
        found = dict(methods)
    elif isinstance(methods, Sequence) and not isinstance(methods, str):
        names = [label(m) for m in methods]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ScopeParameterError(
                f"two methods are called {twice!r}: give a dict with a label of yours for each"
            )
        found = dict(zip(names, methods))
    else:
        raise ScopeParameterError(
            f"methods is a {type(methods).__name__}; allowed: a list of scopes and baselines, or a "
            "dict of them by label"
        )
    if not found:
        raise ScopeParameterError("methods is empty: give at least one scope or baseline")
    for name, method in found.items():
        _check(method)
        if not isinstance(name, str) or not name:
            raise ScopeParameterError(f"a method's label is {name!r}; allowed: text")
        refuse_surrogates(name, "a method's label", ScopeParameterError)
    return found


def _check(method: Any) -> None:
    if not isinstance(method, (Scope, Method)):
        hint = f": {method.__name__}()" if isinstance(method, type) else ""
        raise ScopeParameterError(
            f"{method!r} is no method; give a scope such as FisherScope(), or a baseline such as "
            f"baselines.InputXGradient(){hint and ', an instance' + hint}"
        )


def label(method: Any) -> str:
    """The method's name, with the parameters that differ from the default; targets only if named.

    Raises `ScopeParameterError` for what is no method.

        >>> evaluation.label(ts.FisherScope(rank=4))
        'fisher(rank=4)'
    """
    _check(method)
    try:
        usual = type(method)().parameters()
    except TypeError:  # some parameters have no default
        usual = {}
    plain = method.parameters().items()
    rules = rules_of(method)
    told = [f"{k}={v}" for k, v in plain if v not in (None, "NEXT_TOKEN") and v != usual.get(k)]
    told += [] if rules is None else [f"rules={rules}"]
    return f"{method.name}({', '.join(told)})" if told else method.name


def score(
    view: ModelView,
    prompts: Sequence[list[int]],
    methods: Sequence[AnyMethod],
    position: int,
    continuations: Sequence[list[int]] | None = None,
) -> list[list[Float[Tensor, "pos"]]]:
    """Scores at the embedding, for each prompt and method: float64, zero after the read position.

    Prompts of similar length share a forward pass, all scopes their backward passes. `continuations`:
    what follows each prompt, which methods explain whose `ContinuationScope` says None; others read the
    prompt's end. Scores are of the prompt's tokens only.
    Raises what `attribute` raises, also where a score is not finite.
    """
    asked = [PromptRun.ask(view.model, ids, position) for ids in prompts]
    return score_runs(view, asked, methods, continuations)


def score_runs(
    view: ModelView,
    asked: Sequence[PromptRun],
    methods: Sequence[AnyMethod],
    continuations: Sequence[list[int]] | None = None,
) -> list[list[Float[Tensor, "pos"]]]:
    """`score`, of prompts that keep what was run of them."""
    check_methods(view, methods)
    lengths = [len(p.ids) for p in asked]
    found = _scores_of_answers(view, asked, methods, continuations)
    if continuations is not None:  # NEXT_TOKEN is the first of them
        asked = [replace(p, ids=Ids([*p.ids, *c])) for p, c in zip(asked, continuations)]
    alone = [i for i, m in enumerate(methods) if whole_answer(m) is None]
    scopes = [m for i, m in enumerate(methods) if i in alone and isinstance(m, Scope)]
    for read_site, rules in dict.fromkeys((s.read_site, rules_of(s)) for s in scopes):
        chosen = [i for i in alone if isinstance(methods[i], Scope)]
        chosen = [i for i in chosen if getattr(methods[i], "read_site", None) == read_site]
        chosen = [i for i in chosen if rules_of(methods[i]) == rules]
        runs = []
        for p in asked:
            at = [resolve_position(read_position(methods[i], p.position), p.ids) for i in chosen]
            explained = [(place, methods[i]) for place, i in zip(at, chosen)]
            runs.append(replace(p, position=max(at), reads=explained))
        for group in grouped(runs, BATCH_TOKENS):
            answers = run([runs[p] for p in group], (embed_site(),), Limits())
            for p, own in zip(group, answers):
                for i, answer in zip(chosen, own):
                    if read_site is None and answer.position == asked[p].position:
                        asked[p].expect(answer.read.value)
                    found[p][i] = answer.attribution(view, asked[p].ids).scores[0].double()
    others = [(i, m) for i, m in enumerate(methods) if isinstance(m, Method) and i in alone]
    for own, prompt_run in zip(found, asked):
        own |= {i: scores_alone(m, prompt_run) for i, m in others}
    return [[each[i][:n] for i in range(len(methods))] for each, n in zip(found, lengths)]


def whole_answer(method: AnyMethod) -> ContinuationScope | None:
    """The scope whose scalar a method explains, where it is that of a whole continuation."""
    return (
        method.whole_answer
        if isinstance(method, Method)
        else method
        if isinstance(method, ContinuationScope)
        else None
    )


def refuse_unfilled(methods: Iterable[AnyMethod]) -> None:
    """Raises `TargetError` for a method of the continuation that is measured, where none is."""
    for method in methods:
        scope = whole_answer(method)
        if scope is not None and scope.continuation is None:
            raise TargetError(
                f"{method.name} explains the continuation that is measured (None), but there is none: name "
                "the continuations of the prompts, or give a text to the ContinuationScope"
            )


def check_continuations(
    continuations: Sequence[Any] | None,
    n: int,
    methods: Iterable[AnyMethod],
    position: int,
    target: str = "predicted",
) -> None:
    """Raises `LengthMismatchError`, `ScopeParameterError` for a read before the prompt's end, or
    `TargetError` for a method of the continuation that is measured, where none is."""
    if continuations is None:
        refuse_unfilled(methods)
        return
    listed = isinstance(continuations, Sequence) or hasattr(continuations, "tolist")
    if isinstance(continuations, str) or not listed or len(continuations) != n:
        what = f"a {type(continuations).__name__}" if not listed else str(len(continuations))
        what = "one text" if isinstance(continuations, str) else what
        raise LengthMismatchError(
            f"continuations is {what} for {n} prompts: give a list with one for each"
        )
    if position != -1 or target != "predicted":
        raise ScopeParameterError(
            f"continuations follow the prompt's end and are what is measured, but settings say "
            f"position={position}, target={target!r}: drop these"
        )


def _scores_of_answers(
    view: ModelView,
    asked: Sequence[PromptRun],
    methods: Sequence[AnyMethod],
    continuations: Sequence[list[int]] | None,
) -> list[dict[int, Tensor]]:
    """Of the methods that explain a whole continuation, which follows the read position; by place."""
    found: list[dict[int, Tensor]] = [{} for _ in asked]
    runs: dict[tuple[int, int], PromptRun] = {}
    shared: dict[tuple[int, ContinuationScope], PromptRun] = {}
    for p, one in enumerate(asked):
        for i, method in enumerate(methods):
            scope = whole_answer(method)
            if scope is None:
                continue
            if continuations is not None:
                scope = scope.filled(continuations[p])
            if (p, scope) not in shared:
                ids = one.ids[: one.position + 1]
                shared[p, scope] = PromptRun.explaining(view, ids, scope, -1, one.hooked)
            runs[p, i] = shared[p, scope]
    for (p, i), one in runs.items():
        method, (_, scope) = methods[i], one.reads[0]
        if isinstance(method, Method):
            explaining: Any = replace(method, target=scope)  # pyright: ignore[reportArgumentType]
            found[p][i] = scores_alone(explaining, one)
    scopes = [place for place in runs if isinstance(methods[place[1]], Scope)]
    for group in grouped([runs[place] for place in scopes], BATCH_TOKENS) if scopes else ():
        answers = run([runs[scopes[g]] for g in group], (embed_site(),), Limits())
        for g, (answer,) in zip(group, answers):
            p, i = scopes[g]
            found[p][i] = answer.attribution(view, runs[p, i].shown).scores[0].double()
    for one, scores in zip(asked, found):
        for i, values in scores.items():
            own = values[: one.position + 1]
            scores[i] = torch.nn.functional.pad(own, (0, len(one.ids) - len(own)))
    return found


def check_methods(view: ModelView, methods: Iterable[AnyMethod]) -> None:
    """Raises `ScopeParameterError` or `ProcessedWeightsError` for one that the model cannot have; may
    warn."""
    listed = list(methods)
    check_scopes(view, [m for m in listed if isinstance(m, Scope)])
    for method in listed:
        if isinstance(method, Method):
            check_scope(view.model, method)


def scores_alone(method: Method, prompt_run: PromptRun) -> Float[Tensor, "pos"]:
    """Scores at the embedding of a method that is no scope."""
    with prompt_run.locked(method.needs_gradients):
        values = method.scores(prompt_run, embed_site()).values.detach().cpu().double()
    if not torch.isfinite(values).all():
        raise NumericalError(
            f"{method.name} gives NaN or infinity at token {int((~torch.isfinite(values)).nonzero()[0])}: "
            "check the weights and hooks, or use another baseline or replacement"
        )
    values = values[: prompt_run.position + 1]
    return torch.nn.functional.pad(values, (0, max(0, len(prompt_run.shown) - len(values))))


def ranked(scores: Float[Tensor, "pos"], first: int) -> list[int]:
    """Positions from `first` on, highest score first; of equal scores the earlier one."""
    order = torch.sort(scores[first:], descending=True, stable=True).indices
    return (order + first).tolist()


def top_overlap(a: Float[Tensor, "pos"], b: Float[Tensor, "pos"], top: int | float = 0.1) -> float:
    """Jaccard index of the highest tokens of two maps, in [0, 1]; of equal scores the first ones count.

    `top`: how many tokens, or a share of them as a float, rounded up.
    """
    k = math.ceil(top * len(a) - 1e-9) if isinstance(top, float) else top
    highest = [set(ranked(scores, 0)[:k]) for scores in (a, b)]
    return len(highest[0] & highest[1]) / len(highest[0] | highest[1])


def likeness(a: Float[Tensor, "pos"], b: Float[Tensor, "pos"]) -> float:
    """`rank_likeness` of two maps, in [-1, 1]; NaN where there is one position only."""
    return rank_likeness(a.numpy(), b.numpy()) if len(a) > 1 else math.nan


def reads(view: ModelView, prompts: Sequence[list[int]], position: int) -> Iterator[Read]:
    """The final state of each prompt in turn and its logits, from passes that prompts of similar length
    share. Raises `NumericalError` unless they are finite."""
    hooked = view.is_hooked()
    runs = [PromptRun(view, ids, resolve_position(position, ids), hooked) for ids in prompts]
    for group in grouped(runs, BATCH_TOKENS):
        sharing = [runs[i] for i in group]
        with sharing[0].locked(gradients=False), torch.no_grad():
            states = read_under(view, padded(sharing), {})
        for row, one in enumerate(sharing):
            one.expect(states[row, one.position])
    while runs:  # each with its logits, which are not kept
        one = runs.pop(0)
        with one.locked(gradients=False):
            read = one.read
        yield read
