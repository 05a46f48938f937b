"""One prefix: where each method puts the word that decided, among its words, by each joining and at every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import tl_scopes as ts
from benchmarks.evidence.items import Item
from tl_scopes import baselines
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import DataError
from tl_scopes.evaluation.methods import score
from tl_scopes.jacobian.answers import Limits, run
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.characters import Spans
from tl_scopes.results.joining import HOW, exact_how, joined
from tl_scopes.scopes.custom import entropy

SEMANTIC, CONTRAST, ELSEWHERE = "Semantic", "Semantic, contrast", "Semantic of another word"
RANDOM, RANDOM_TOKENS = "Random, a score a word", "Random, a score a token"
LAST, RAREST = "the last word first", "the rarest word first"
SHORTEST = "the shortest embedding first"
# Of these the scores are one a word: nothing is joined.
WORD = "word"
STEPS = 5
_Make = Callable[[Any, Any], Any]


def _of_token(scope: Callable[[Any], Any], of: str) -> _Make:
    """One token as published, several as a whole: their sum."""
    return lambda word, _: (
        scope(word[0]) if len(word) == 1 else ts.ContinuationScope(word, of=of)  # pyright: ignore
    )


def _contrast(word: list[int], other: list[int]) -> ts.Scope:
    if len(word) == len(other) == 1:
        return ts.LogitDifferenceScope(word[0], other[0])
    return ts.ContinuationScope(word, other)


def _baseline(make: Callable[..., Any], contrast: bool = False, **more: Any) -> _Make:
    """Of the word's log-probability, or of its lead over the other's."""
    return lambda word, other: make(
        ts.ContinuationScope(word, other)
        if contrast
        else (word[0] if len(word) == 1 else ts.ContinuationScope(word)),
        **more,
    )


# What makes each of the tokens of the good word and of the other. Scopes come at every site.
SCOPES: Mapping[str, _Make] = {
    SEMANTIC: _of_token(ts.SemanticScope, "logit"),
    CONTRAST: _contrast,
    "Gradient norm": _of_token(baselines.GradientNorm, "log_prob"),
    "Temperature": lambda *_: ts.TemperatureScope(),
    "Fisher k=1": lambda *_: ts.FisherScope(),
    "Fisher k=4": lambda *_: ts.FisherScope(rank=4),
    "Entropy": lambda *_: entropy(),
}
BASELINES: Mapping[str, _Make] = {
    "Input x gradient": _baseline(baselines.InputXGradient),
    "Input x gradient, contrast": _baseline(baselines.InputXGradient, contrast=True),
    "Input x gradient, contrast, signed": _baseline(
        baselines.InputXGradient, contrast=True, reduce="sum"
    ),
    "IG": _baseline(baselines.IntegratedGradients, steps=STEPS),
    "Semantic path": _baseline(baselines.SemanticPath, steps=STEPS),
    "SmoothGrad": _baseline(baselines.SmoothGrad, draws=STEPS),
    "Leave-one-out, KL": lambda *_: baselines.LeaveOneOut(),
    "Leave-one-out": _baseline(baselines.LeaveOneOut, measure="log_prob"),
    "Leave-one-out, contrast": _baseline(baselines.LeaveOneOut, contrast=True, measure="log_prob"),
    "Attention rollout": lambda *_: baselines.AttentionRollout(),
}
METHODS = (*SCOPES, *BASELINES)
# The others take several times as long as these together.
FAST = (*SCOPES, *(name for name in BASELINES if name.startswith("Input x gradient")))
ALWAYS = (ELSEWHERE, RANDOM, RANDOM_TOKENS, LAST, RAREST, SHORTEST)


def row(
    model: Any,
    item: Item,
    elsewhere: str,
    methods: Sequence[str],
    seed: int,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What became of one item, without its text: `before`, and what it lacks. `elsewhere`: a word that the prefix does
    not ask for.

    `ranks`: by method and joining (the exact one first), how many words are ahead of the deciding one. `layers`: the
    same at every site, by the first joining. `effect`: how far the log-probability of the good word falls when the
    deciding word is exchanged; `margin`: how far it is above that of the other word; nats.
    """
    word = _ids(model, item.good)
    other = None if item.other is None else _ids(model, item.other)
    wanted = lacking(item, methods, before)
    made = {
        name: make(word, other) for name, make in {**SCOPES, **BASELINES}.items() if name in wanted
    }
    scopes = {name: own for name, own in made.items() if name in SCOPES}
    others = {name: own for name, own in made.items() if name not in SCOPES}
    found = {RANDOM_TOKENS: baselines.Random(seed).attribute(model, item.prefix, sites="all")}
    if before is None:
        scopes[ELSEWHERE] = ts.SemanticScope(_ids(model, elsewhere)[0])
    found |= _at_all_sites(model, item.prefix, scopes)
    spans = words_of(found[RANDOM_TOKENS], item)
    ranks, layers = {}, {}
    for name, each in found.items():
        first = exact_how(each.scope, each.units) or "sum"
        ranks[name], layers[name] = _places(each.scores, spans, first, item.evidence)
    prompt = model.to_tokens(item.prefix)[0].tolist()
    if others:  # which share their passes
        (scores,) = score(view_of(model), [prompt], [*others.values()], -1)
        for (name, own), each in zip(others.items(), scores):
            first = exact_how(own.info({}), own.units) or "sum"
            ranks[name], _ = _places(each[None], spans, first, item.evidence)
    # The first norm divides by an embedding's length, and so does a gradient there.
    lengths = torch.linalg.vector_norm(model.W_E[prompt].detach().float(), dim=-1)
    ranks[SHORTEST], _ = _places(1 / lengths[None], spans, "norm", item.evidence)
    if before is not None:
        known = {
            kind: {**new, **before[kind]} for kind, new in (("ranks", ranks), ("layers", layers))
        }
        return {**before, **known}
    of_first = found[RANDOM_TOKENS].scores[:, [start for start, _ in spans]]
    layers[RANDOM] = [place(row, item.evidence) for row in of_first]
    ranks[RANDOM] = {WORD: layers[RANDOM][0]}
    ranks |= _controls([prompt[start:end] for start, end in spans], item)
    right = _log_prob(model, prompt, word)
    effect = margin = None
    if item.contrast is not None:
        effect = right - _log_prob(model, model.to_tokens(item.contrast)[0].tolist(), word)
    if other is not None:
        margin = right - _log_prob(model, prompt, other)
    return {
        "item": item.number,
        "words": len(item.words),
        "tokens": len(word),
        "effect": None if effect is None else round(effect, 3),
        "margin": None if margin is None else round(margin, 3),
        "ranks": ranks,
        "layers": layers,
    }


def lacking(item: Item, methods: Sequence[str], before: Mapping[str, Any] | None) -> list[str]:
    """Those of the methods that are not in `before`; a contrast is asked for only where there is one."""
    known = {} if before is None else before["ranks"]
    asked = [name for name in methods if name not in known]
    return [name for name in asked if item.other is not None or "contrast" not in name]


def _at_all_sites(model: Any, prefix: str, scopes: Mapping[str, Any]) -> dict[str, ts.Attribution]:
    """Those of one token share a forward pass."""
    single = {n: s for n, s in scopes.items() if not isinstance(s, ts.ContinuationScope)}
    found = {}
    if single:
        asked = PromptRun.ask(model, prefix)
        reads = [(asked.position, scope) for scope in single.values()]
        places = asked.view.sites("all")
        (answers,) = run([replace(asked, reads=reads)], places, Limits())
        found = {n: own.attribution(asked.view, asked.ids) for n, own in zip(single, answers)}
    for name, scope in scopes.items():
        if name not in found:
            found[name] = ts.attribute(model, prefix, scope, sites="all")
    return found


def _places(
    scores: Tensor, spans: Spans, first: str, right: int
) -> tuple[dict[str, float], list[float]]:
    """By joining at the first site, and by the first joining at all of them."""
    each = {how: joined(scores, None, spans, how)[0] for how in dict.fromkeys((first, *HOW))}
    at_all = [place(row, right) for row in each[first]]
    return {how: place(rows[0], right) for how, rows in each.items()}, at_all


def words_of(found: ts.Attribution, item: Item) -> Spans:
    """The tokens of each of the prefix's words, which spaces part. Raises `DataError` where tokens do so otherwise."""
    spans, end = [], 0
    for word in item.words:
        spans.append((item.prefix, end, end + len(word)))
        end += len(word) + 1
    grouped = found.group(spans, "sum")
    texts = [text.strip() for text in grouped.str_tokens]
    chosen = [i for i in range(int(found.has_bos), len(texts)) if texts[i]]
    if [texts[i] for i in chosen] != item.words:
        raise DataError(
            f"the words of {item.prefix!r} are not those of its tokens, which make {texts}: leave it out"
        )
    return tuple(grouped.spans[i] for i in chosen)


def place(scores: Any, right: int) -> float:
    """How many others are ahead of `scores[right]`, the greatest first; each that ties counts half."""
    listed = [float(score) for score in scores]
    own = listed.pop(right)
    ahead = sum((score > own) + (score == own) / 2 for score in listed)
    return int(ahead) if ahead == int(ahead) else ahead


def _controls(words: Sequence[list[int]], item: Item) -> dict[str, dict[str, float]]:
    """What does not look at the model, of each word's tokens. Byte pairs enter a vocabulary in the order of how often
    they were read, so that a word of more tokens, or of a later one, is rarer."""
    rarity = [(len(ids), max(ids)) for ids in words]
    order = sorted(set(rarity))
    scores = {LAST: range(len(words)), RAREST: [order.index(own) for own in rarity]}
    return {name: {WORD: place(own, item.evidence)} for name, own in scores.items()}


def _ids(model: Any, text: str) -> list[int]:
    """Of what follows a prefix."""
    return model.to_tokens(f" {text}", prepend_bos=False)[0].tolist()


@torch.no_grad()
def _log_prob(model: Any, prompt: list[int], more: list[int]) -> float:
    """Of `more` after the prompt, in nats."""
    logits = model(torch.tensor([prompt + more]))[0, len(prompt) - 1 : -1].float()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(more)[:, None]).sum())
