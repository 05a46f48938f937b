"""Rows of whole answers: a span of many tokens, and one that the model writes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import tl_scopes as ts
from benchmarks import passages, prompts
from benchmarks.case import Case
from tl_scopes.adapter.view import view_of
from tl_scopes.jacobian.decoding import decoding

ANSWER = 32
# Of generation in a quick run: 32 take minutes a row.
QUICK = 8


def of_continuations(model: Any, n: int, quick: bool) -> Iterator[Case]:
    """The last 32 of `n` tokens at every site, on passages of several kinds."""
    m = ANSWER
    single = ts.SemanticScope(ts.NEXT_TOKEN)
    listed = [(what, ids) for what, ids in passages.tokens(model, n).items() if ids.shape[1] == n]
    for i, (what, ids) in enumerate(listed[::4]):
        tokens = ids[0].tolist()
        scope = ts.ContinuationScope(tokens[n - m :])

        def span(tokens: list[int] = tokens, scope: ts.Scope = scope) -> object:
            return ts.attribute(model, tokens[: n - m], scope, sites="all")

        def one(position: int, tokens: list[int] = tokens) -> object:
            return ts.attribute(model, tokens, single, sites="all", position=position)

        yield Case(
            f"span of {m}, all sites: {what}",
            n,
            span,
            lambda one=one: one(n - 2),
            "one token, all sites",
            most=1.2,
            rounds=3 if quick else 9,
        )
        if i and quick:
            continue
        yield Case(
            f"{m} single tokens, all sites: {what}",
            n,
            lambda one=one: [one(p) for p in range(n - m - 1, n - 1)],
            span,
            "one span of them",
            least=20,
            rounds=2,
            warm=False,
        )


def of_generation(model: Any, n: int, quick: bool) -> Iterator[Case]:
    """32 tokens that the model writes (quick: 8), to `n` in all: what it takes beyond writing them."""
    m = QUICK if quick else ANSWER
    prompt = prompts.tokens(model, n - m)[0].tolist()
    scope = ts.SemanticScope(ts.NEXT_TOKEN)

    tokens: list[int] = []

    def answered(sites: str) -> ts.SequenceAttribution:
        found = ts.attribute_generation(
            model, prompt, scope, max_new_tokens=m, temperature=1.0, sites=sites
        )
        tokens[:] = found.tokens.tolist()
        return found

    def text() -> list[int]:
        if not tokens:
            answered("embed")
        return tokens

    def written() -> None:
        """The same answer, token by token, and nothing else of it."""
        view, ids = view_of(model), text()
        with view.locked():
            next_logits = decoding(view, view.is_hooked())
            for end in range(len(prompt), len(ids)):
                next_logits(ids[:end]).cpu().double().log_softmax(0)

    def explained(sites: str) -> ts.SequenceAttribution:
        reads = range(len(prompt) - 1, len(text()) - 1)
        return ts.attribute_sequence(model, text(), scope, positions=reads, sites=sites)

    for sites in ("embed", "all"):
        yield Case(
            f"generation of {m}, beyond writing it: {sites}",
            n,
            functools.partial(answered, sites),
            functools.partial(explained, sites),
            "sequence of its reads",
            most=None if quick else 1.2,
            rounds=2 if quick else 9,
            warm=not quick,
            less=written,
        )
