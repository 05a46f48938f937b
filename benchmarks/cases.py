"""What is measured: pairs of callables whose ratio says something, with the bound we set ourselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import tl_scopes as ts
from benchmarks import floor, passages, prompts, spans
from benchmarks.case import Call, Case
from benchmarks.circuit_runs import bare_passes, scores_of_all
from benchmarks.published import Published
from tl_scopes import circuits

LENGTHS = (32, 128, 512, 2048)
# The length that the bounds are meant for, except where a row says otherwise.
MAIN = 128
# Longer prompts take so many seconds that a round which does not count would cost more than it tells.
LONGEST_WARMED = 512


# Upper bounds on ours over a bare forward pass, by model: at 128 tokens on 2 threads in float32.
MOST = {
    "gemma-3-270m": {"single": 1.1, "all sites": 1.10, "fisher 4": 2.5},
    "smollm2-135m-instruct": {"single": 1.6, "all sites": 1.05, "fisher 4": 4.5},
}
# Lower bounds on the published method over ours.
LEAST = {
    "gemma-3-270m": {"semantic": 2.0, "fisher 1": 3.5},
    "smollm2-135m-instruct": {"semantic": 1.2, "fisher 1": 1.8},
}
SAMPLED = ts.FisherScope(rank=24, samples=16)


def cases(
    model: Any, name: str, hf_model: Any | None, quick: bool, lengths: tuple[int, ...]
) -> Iterator[Case]:
    """All rows for one model; those against the published method need `hf_model`."""
    for n in lengths:
        yield from _against_bare(model, name, n, quick)
    if hf_model is not None:
        for n in lengths:
            yield from _against_published(model, name, Published(hf_model), n, quick)
    if MAIN in lengths:
        # One model and class: to see how the prompt matters, and time is short.
        if hf_model is not None and name == "gemma-3-270m":
            yield from of_passages(model, quick)
        yield from _shared(model, quick)
        yield from spans.of_continuations(model, MAIN, quick)
        yield from spans.of_generation(model, MAIN, quick)
        if not quick:
            yield from _circuits(model, name)
    if hf_model is not None and not quick and min(LENGTHS) in lengths:
        yield from _full_fisher(model, Published(hf_model))


def _against_bare(model: Any, name: str, n: int, quick: bool) -> Iterator[Case]:
    ids = prompts.tokens(model, n)
    most = MOST[name] if n == MAIN else {}

    def bare() -> None:
        with torch.no_grad():
            model(ids)

    def ours(scope: Any, sites: Any = "embed") -> Call:
        return lambda: ts.attribute(model, ids, scope, sites=sites)

    single: dict[str, ts.Scope] = {"semantic": ts.SemanticScope()}
    if not quick:
        single["temperature"] = ts.TemperatureScope()
    if n == MAIN and not quick:
        single |= {
            "logit difference": ts.LogitDifferenceScope(10, 11),
            "entropy (FunctionScope)": ts.FunctionScope(_entropy),
            "direction": ts.DirectionScope(torch.ones(model.cfg.d_model)),
        }
    for what, scope in single.items():
        bound = most.get("single") if what in ("semantic", "temperature") else None
        yield Case(
            what,
            n,
            ours(scope),
            bare,
            "bare forward",
            most=bound,
            needed=floor.scope(model, n, 1),
            warm=n <= LONGEST_WARMED,
        )
    yield Case(
        "temperature, all sites",
        n,
        ours(ts.TemperatureScope(), "all"),
        ours(ts.TemperatureScope()),
        "one site",
        most=most.get("all sites"),
        needed=floor.scope(model, n, 1),
        warm=n <= LONGEST_WARMED,
    )
    for k in (1, 4) if n != MAIN or quick else (1, 4, 16):
        yield Case(
            f"fisher {k}",
            n,
            ours(ts.FisherScope(rank=k)),
            bare,
            "bare forward",
            most=most.get(f"fisher {k}"),
            needed=floor.scope(model, n, k, vocabulary_passes=2),
            warm=n <= LONGEST_WARMED,
        )


def _against_published(
    model: Any, name: str, published: Published, n: int, quick: bool
) -> Iterator[Case]:
    ids = prompts.tokens(model, n)
    least = LEAST[name] if n == MAIN else {}
    rows: dict[str, tuple[Call, Any]] = {
        "semantic": (lambda: published.semantic(ids), ts.SemanticScope()),
        "temperature": (lambda: published.temperature(ids), ts.TemperatureScope()),
        "fisher 1": (lambda: published.fisher(ids, 1), ts.FisherScope(rank=1)),
        "fisher 4": (lambda: published.fisher(ids, 4), ts.FisherScope(rank=4)),
    }
    for what, (theirs, scope) in rows.items():
        if quick and what not in least:
            continue
        yield Case(
            f"published {what}",
            n,
            theirs,
            lambda scope=scope: ts.attribute(model, ids, scope),
            "ours",
            least=least.get(what),
            warm=n <= LONGEST_WARMED,
        )


def of_passages(model: Any, quick: bool) -> Iterator[Case]:
    """Fisher rank 4 on the twelve passages, or on every fourth of them, with their entropies."""
    listed = list(passages.tokens(model, MAIN).items())
    for what, ids in listed[3::4] if quick else listed:

        def bare(ids: torch.Tensor = ids) -> torch.Tensor:
            with torch.no_grad():
                return model(ids)

        def entropy(bare: Callable[[], torch.Tensor] = bare) -> dict[str, float]:
            return {"entropy": float(_entropy(bare()[0, -1].double()))}

        yield Case(
            passages.LABEL + what,
            ids.shape[1],
            lambda ids=ids: ts.attribute(model, ids, ts.FisherScope(rank=4)),
            bare,
            "bare forward",
            rounds=5,
            facts=entropy,
        )


def _shared(model: Any, quick: bool) -> Iterator[Case]:
    n = 16 if quick else 64
    ids = prompts.tokens(model, n)
    scope = ts.SemanticScope()
    yield Case(
        f"sequence, all {n} positions",
        n,
        lambda: ts.attribute_sequence(model, ids, scope),
        lambda: [ts.attribute(model, ids, scope, position=p) for p in range(n)],
        f"{n} calls",
        most=None if quick else 0.35,
        rounds=3,
    )
    count = 8 if quick else 32
    many = prompts.batch(model, count, 20, 60)
    yield Case(
        f"batch of {count}, 20 to 60 tokens",
        sum(map(len, many)),
        lambda: ts.attribute_batch(model, many, scope),
        lambda: [ts.attribute(model, p, scope) for p in many],
        f"{count} calls",
        most=None if quick else 0.7,
        rounds=5,
    )


def _circuits(model: Any, name: str) -> Iterator[Case]:
    n = 64
    ids = prompts.tokens(model, n)
    scope = ts.SemanticScope()
    heads = model.cfg.n_layers * model.cfg.n_heads
    yield Case(
        f"components, {heads} heads",
        n,
        lambda: circuits.components(model, ids, scope),
        lambda: ts.attribute(model, ids, scope),
        "attribute",
    )
    pairs = circuits.tasks.indirect_object(model, n=100)
    alone = list(zip(pairs.clean, pairs.scopes, pairs.corrupted))
    yield Case(
        "components, 100 pairs of one length",
        sum(len(model.to_tokens(prompt)[0]) for prompt in pairs.clean),
        lambda: circuits.components(model, pairs),
        lambda: [circuits.components(model, a, own, corrupted=b) for a, own, b in alone],
        "100 calls with corrupted=",
        most=0.6,
        rounds=3,
    )
    own = ids[0].tolist()
    pair = circuits.Pairs([own], [[*own[:4], *own[6:3:-1], *own[7:]]], scope)
    yield Case(
        "edges of one pair",
        n,
        lambda: circuits.edges(model, pair),
        lambda: ts.attribute(model, ids, scope),
        "attribute",
        most=4 if name == "gemma-3-270m" else None,
    )
    few, scores = pairs[:20], scores_of_all(model)
    # No bound for edges: every reader's own sum, norm and projection come to the passes.
    for of, found, most in (
        ("faithfulness", scores, 1.15),
        ("faithfulness of edges", circuits.edges(model, few, progress=False), None),
    ):
        passes, rows = bare_passes(model, few, found)
        yield Case(
            f"{of} at ten sizes, 20 pairs",
            rows * sum(len(model.to_tokens(prompt)[0]) for prompt in few.clean),
            lambda found=found: circuits.faithfulness(model, few, found, random=0),
            passes,
            "the bare forward passes",
            most=most,
            rounds=3,
        )
    yield Case(
        f"head paths, {heads} heads",
        n,
        lambda: circuits.head_paths(model, ids, scope),
        _backward(model, ids),
        "one backward pass",
        most=60 if name == "gemma-3-270m" else None,
        rounds=3,
    )
    yield Case(
        f"flow, {n} positions",
        n,
        lambda: circuits.flow(model, ids, scope, model.cfg.n_layers // 2),
        _backward(model, ids),
        "one backward pass",
        rounds=3,
    )


def _backward(model: Any, ids: torch.Tensor) -> Call:
    """A backward pass from the final state to the embedding, over a graph that is kept."""
    leaf: list[torch.Tensor] = []
    final: list[torch.Tensor] = []

    def root(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        leaf.append(activation.detach().requires_grad_())
        return leaf[0] * 1

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    handle = model.unembed.register_forward_pre_hook(lambda _, args: final.append(args[0]))
    with model.hooks(fwd_hooks=[("hook_embed", root)]):
        model(ids)
    handle.remove()
    v = model.W_U[:, 0].detach()
    return lambda: torch.autograd.grad(final[0][0, -1], leaf, v, retain_graph=True)


def _full_fisher(model: Any, published: Published) -> Iterator[Case]:
    n = 32
    ids = prompts.tokens(model, n)
    exact = ts.FisherScope(rank="full")
    yield Case(
        "published full fisher",
        n,
        lambda: published.fisher(ids, None),
        lambda: ts.attribute(model, ids, exact),
        "ours, exact",
        least=1.1,
        rounds=1,
        warm=False,
    )

    def errors() -> dict[str, float]:
        truth = ts.attribute(model, ids, exact).scores[0, 1:]
        found = ts.attribute(model, ids, SAMPLED)
        assert found.standard_error is not None
        share = (found.scores[0, 1:] / truth - 1).abs()
        return {
            "median relative standard error": float(
                (found.standard_error[0, 1:] / found.scores[0, 1:]).median()
            ),
            "median relative error": float(share.median()),
            "tokens within 2 standard errors": float(
                ((found.scores[0, 1:] - truth).abs() <= 2 * found.standard_error[0, 1:])
                .float()
                .mean()
            ),
        }

    yield Case(
        "published full fisher",
        n,
        lambda: published.fisher(ids, None),
        lambda: ts.attribute(model, ids, SAMPLED),
        f"ours, rank {SAMPLED.rank} + {SAMPLED.samples} samples",
        least=10.0,
        rounds=2,
        warm=False,
        facts=errors,
    )


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)
