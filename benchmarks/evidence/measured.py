"""Prefixes: where each method puts the word that decided, among its words, by each joining and at every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tl_scopes as ts
from benchmarks.evidence import passes
from benchmarks.evidence.items import Item
from tl_scopes import baselines
from tl_scopes.adapter.prompts import bos_id, texts
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.baselines.random import generator
from tl_scopes.errors import DataError
from tl_scopes.evaluation.methods import score
from tl_scopes.jacobian.likely import Kind
from tl_scopes.results.characters import Spans
from tl_scopes.results.joining import HOW, exact_how, joined
from tl_scopes.rules import GIM, Rules
from tl_scopes.scopes.custom import entropy

SEMANTIC, CONTRAST, ELSEWHERE = "Semantic", "Semantic, contrast", "Semantic of another word"
FISHER, TOKENS, OF_GIM = "Fisher k=1", "{}, likely tokens", "{}, GIM"
RANDOM, RANDOM_TOKENS = "Random, a score a word", "Random, a score a token"
LAST, RAREST = "the last word first", "the rarest word first"
SHORTEST = "the shortest embedding first"
# Of these the scores are one a word: nothing is joined.
WORD = "word"
STEPS = 5
# Of random scores an item: their mean rank is known to a hundredth where an item's own rank is not.
DRAWS = 100
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
    return lambda word, other: make(ts.ContinuationScope(word, other if contrast else None), **more)


@dataclass(frozen=True)
class Asked:
    """A scope of the tokens of the good word and of the other, and how its gradients become scores."""

    make: _Make
    rules: Rules | None = None
    measure: Kind = "norm"

    def scope(self, word: list[int], other: list[int] | None) -> ts.Scope:
        made = self.make(word, other)
        return made if self.rules is None else self.rules.on(made)


_SEMANTIC = _of_token(ts.SemanticScope, "logit")
_RULES = {
    "softmax at T=2": Rules(softmax_temperature=2),
    "attention split": Rules(split_products="attention"),
    "MLP split": Rules(split_products="mlp"),
    "norms held": Rules(frozen="norms"),
}
RULED = {rule: f"{SEMANTIC}, {rule}" for rule in _RULES}
# These come at every site, those over likely tokens at the embedding.
SCOPES: Mapping[str, Asked] = {
    SEMANTIC: Asked(_SEMANTIC),
    CONTRAST: Asked(_contrast),
    "Gradient norm": Asked(_of_token(baselines.GradientNorm, "log_prob")),
    "Temperature": Asked(lambda *_: ts.TemperatureScope()),
    FISHER: Asked(lambda *_: ts.FisherScope()),
    "Fisher k=4": Asked(lambda *_: ts.FisherScope(rank=4)),
    "Entropy": Asked(lambda *_: entropy()),
    TOKENS.format(SEMANTIC): Asked(_SEMANTIC, measure="tokens"),
    TOKENS.format(FISHER): Asked(lambda *_: ts.FisherScope(), measure="tokens"),
    OF_GIM.format(SEMANTIC): Asked(_SEMANTIC, GIM()),
    **{RULED[rule]: Asked(_SEMANTIC, rules) for rule, rules in _RULES.items()},
    OF_GIM.format(FISHER): Asked(lambda *_: ts.FisherScope(), GIM()),
}
PRODUCTS: Mapping[str, _Make] = {
    "Input x gradient": _baseline(baselines.InputXGradient),
    "Input x gradient, contrast": _baseline(baselines.InputXGradient, contrast=True),
    "Input x gradient, contrast, signed": _baseline(
        baselines.InputXGradient, contrast=True, reduce="sum"
    ),
}
# These take several times as long as all the others together, a prefix at a time.
SLOW: Mapping[str, _Make] = {
    "IG": _baseline(baselines.IntegratedGradients, steps=STEPS),
    "Semantic path": _baseline(baselines.SemanticPath, steps=STEPS),
    "SmoothGrad": _baseline(baselines.SmoothGrad, draws=STEPS),
    "Leave-one-out, KL": lambda *_: baselines.LeaveOneOut(),
    "Leave-one-out": _baseline(baselines.LeaveOneOut, measure="log_prob"),
    "Leave-one-out, contrast": _baseline(baselines.LeaveOneOut, contrast=True, measure="log_prob"),
    "Attention rollout": lambda *_: baselines.AttentionRollout(),
}
# Which plain scope each of them varies.
VARIANTS = {
    name: SEMANTIC if name.startswith(SEMANTIC) else FISHER
    for name, asked in SCOPES.items()
    if asked.rules is not None or asked.measure != "norm"
}
METHODS = (*SCOPES, *PRODUCTS, *SLOW)
FAST = (*SCOPES, *PRODUCTS)
ALWAYS = (ELSEWHERE, RANDOM, RANDOM_TOKENS, LAST, RAREST, SHORTEST)


@dataclass(frozen=True)
class Task:
    """An item of which `methods` are to be measured, and the controls where there is no row `before`.

    `elsewhere`: a word that the prefix does not ask for.
    """

    item: Item
    elsewhere: str
    methods: Sequence[str]
    before: Mapping[str, Any] | None = None


def rows(model: Any, tasks: Sequence[Task], seed: int) -> list[dict[str, Any]]:
    """What became of each item, without its text: the row before, and what it lacks. Items share their passes.

    `ranks`: by method and joining (the exact one first), how many words are ahead of the deciding one. `layers`: the
    same at every site, by the first joining. `draws`: of random scores, of which a rank is the mean over draws, how
    often the word is first, and its mean reciprocal rank. `effect`: how far the log-probability of the good word falls
    when the deciding word is exchanged; `margin`: how far it is above that of the other word; nats.
    """
    view = view_of(model)
    prompts = [_ids(model, task.item.prefix, None) for task in tasks]
    words = [_ids(model, f" {task.item.good}") for task in tasks]
    named = [task.item.other for task in tasks]
    others = [None if other is None else _ids(model, f" {other}") for other in named]
    spans = [words_of(view, ids, task.item) for ids, task in zip(prompts, tasks)]
    wanted = [lacking(task.item, task.methods, task.before) for task in tasks]

    found: dict[passes.Key, Any] = {}
    for kind in ("norm", "tokens"):
        scopes = {
            (i, name): SCOPES[name].scope(words[i], others[i])
            for i, names in enumerate(wanted)
            for name in names
            if name in SCOPES and SCOPES[name].measure == kind
        }
        if kind == "norm":
            scopes |= {
                (i, ELSEWHERE): ts.SemanticScope(_ids(model, f" {task.elsewhere}")[0])
                for i, task in enumerate(tasks)
                if task.before is None
            }
        found |= passes.attributions(view, prompts, scopes, kind)
    made = {
        (i, name): {**PRODUCTS, **SLOW}[name](words[i], others[i])
        for i, names in enumerate(wanted)
        for name in names
        if name not in SCOPES
    }
    scores = passes.products(view, prompts, {k: own for k, own in made.items() if k[1] in PRODUCTS})
    for i, prompt in enumerate(prompts):
        own = [key for key in made if key[0] == i and key[1] in SLOW]
        if own:  # which share their passes
            (each,) = score(view, [prompt], [made[key] for key in own], -1)
            scores |= zip(own, each)
    placed = {
        key: _places(values, spans[key[0]], how, tasks[key[0]].item)
        for key, (values, how) in found.items()
    }
    for (i, name), each in scores.items():
        how = exact_how(made[i, name].info({}), made[i, name].units)
        placed[i, name] = _places(each[None], spans[i], how, tasks[i].item)

    measured = []
    effects = _effects(view, tasks, prompts, words, others)
    for i, task in enumerate(tasks):
        row = task.before
        if row is None:
            controls = _controls(view, prompts[i], spans[i], task.item, seed)
            row = {
                "item": task.item.number,
                "words": len(task.item.words),
                "tokens": len(words[i]),
                **effects[i],
                **controls,
            }
        own = [name for j, name in placed if j == i]
        measured.append(
            {
                **row,
                "ranks": {n: placed[i, n][0] for n in own} | row["ranks"],
                "layers": {n: placed[i, n][1] for n in own if n not in SLOW} | row["layers"],
            }
        )
    return measured


def lacking(item: Item, methods: Sequence[str], before: Mapping[str, Any] | None) -> list[str]:
    """Those of the methods that are not in `before`; a contrast is asked for only where there is one."""
    known = {} if before is None else before["ranks"]
    asked = [name for name in methods if name not in known]
    return [name for name in asked if item.other is not None or "contrast" not in name]


def _places(
    scores: Tensor, spans: Spans, exact: str | None, item: Item
) -> tuple[dict[str, float], list[float]]:
    """By joining at the first site, and by the first joining at all of them."""
    first = exact or "sum"
    each = {how: joined(scores, None, spans, how)[0] for how in dict.fromkeys((first, *HOW))}
    at_all = _listed(place(each[first], item.evidence))
    return {how: _listed(place(rows[:1], item.evidence))[0] for how, rows in each.items()}, at_all


def words_of(view: ModelView, prompt: Sequence[int], item: Item) -> Spans:
    """The tokens of each of the prefix's words, which spaces part. Raises `DataError` where tokens do so otherwise."""
    names = texts(view, prompt)
    first = int(prompt[0] == bos_id(view))
    begins = [i for i in range(first, len(names)) if i == first or names[i].startswith(" ")]
    spans = tuple(zip(begins, [*begins[1:], len(names)]))
    found = ["".join(names[start:end]).strip() for start, end in spans]
    if found != item.words:
        raise DataError(
            f"the words of {item.prefix!r} are not those of its tokens, which make {found}: leave it out"
        )
    return spans


def place(scores: Any, right: int) -> np.ndarray:
    """How many others are ahead of `scores[..., right]`, the greatest first; each that ties counts half."""
    scores = np.asarray(scores, dtype=float)
    own = scores[..., right, None]
    # It ties with itself.
    return (scores > own).sum(-1) + ((scores == own).sum(-1) - 1) / 2


def _listed(places: np.ndarray) -> list[float]:
    return [int(each) if each == int(each) else round(each, 4) for each in places.tolist()]


def _controls(
    view: ModelView, prompt: list[int], spans: Spans, item: Item, seed: int
) -> dict[str, Any]:
    """What does not look at what the model does."""
    tokens = [prompt[start:end] for start, end in spans]
    ranks = {name: {WORD: each} for name, each in _by_word(tokens, item).items()}
    # The first norm divides by an embedding's length, and so does a gradient there.
    lengths = torch.linalg.vector_norm(view.model.W_E[prompt].detach().float(), dim=-1)
    ranks[SHORTEST], _ = _places(1 / lengths[None], spans, "norm", item)
    source = generator(seed, item.paradigm, item.number)
    shape = DRAWS, len(view.sites("all")), len(prompt)
    scores = torch.rand(shape, generator=source, dtype=torch.float64, device="cpu")
    layers, draws = {}, {}
    joinings = {how: joined(scores, None, spans, how)[0] for how in HOW}
    by_name = {RANDOM_TOKENS: joinings, RANDOM: {WORD: scores[..., [start for start, _ in spans]]}}
    for name, each in by_name.items():
        places = {how: place(own, item.evidence) for how, own in each.items()}
        ranks[name] = {how: _listed(own[:, :1].mean(0))[0] for how, own in places.items()}
        at_all = next(iter(places.values()))
        layers[name] = _listed(at_all.mean(0))
        first, reciprocal = (at_all[:, 0] == 0).mean(), (1 / (1 + at_all[:, 0])).mean()
        draws[name] = {"first": float(first), "reciprocal": round(float(reciprocal), 4)}
    return {"ranks": ranks, "layers": layers, "draws": draws}


def _by_word(words: Sequence[list[int]], item: Item) -> dict[str, float]:
    """Of each word's tokens. Byte pairs enter a vocabulary in the order of how often they were read, so that a word of
    more tokens, or of a later one, is rarer."""
    rarity = [(len(ids), max(ids)) for ids in words]
    order = sorted(set(rarity))
    scores = {LAST: range(len(words)), RAREST: [order.index(own) for own in rarity]}
    return {name: _listed(place([list(own)], item.evidence))[0] for name, own in scores.items()}


def _effects(
    view: ModelView,
    tasks: Sequence[Task],
    prompts: Sequence[list[int]],
    words: Sequence[list[int]],
    others: Sequence[list[int] | None],
) -> dict[int, dict[str, float | None]]:
    """Of the tasks that have no row before."""
    asked: dict[tuple[int, str], tuple[list[int], list[int]]] = {}
    for i, task in enumerate(tasks):
        if task.before is not None:
            continue
        asked[i, "right"] = prompts[i], words[i]
        if task.item.contrast is not None:
            asked[i, "effect"] = _ids(view.model, task.item.contrast, None), words[i]
        other = others[i]
        if other is not None:
            asked[i, "margin"] = prompts[i], other
    known = dict(zip(asked, passes.log_probs(view, [*asked.values()])))
    return {
        i: {
            name: round(known[i, "right"] - known[i, name], 3) if (i, name) in known else None
            for name in ("effect", "margin")
        }
        for i, what in known
        if what == "right"
    }


def _ids(model: Any, text: str, prepend_bos: bool | None = False) -> list[int]:
    """Of what follows a prefix; with None of a prefix."""
    return model.to_tokens(text, prepend_bos=prepend_bos)[0].tolist()
