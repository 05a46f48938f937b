"""Where the right sentence ranks among the facts, by each scope, at two sites, by each joining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tl_scopes as ts
from benchmarks.answers.questions import Question
from tl_scopes.scopes.base import Explained, Read

SCOPES = {
    "first": "`ContinuationScope`, the answer's first token alone",
    "span": "`ContinuationScope`, the whole answer",
    "versus": "the same `versus` another person's place",
    "fisher first": "`FisherScope(rank=1)`, first token alone",
    "fisher": "`FisherScope(rank=1)` over the answer",
}
HOW = ("norm", "sum")
SITES = ("embed", "middle")


@dataclass(frozen=True)
class _Span(ts.ContinuationScope):
    """Notes what the model itself would write at each read, from the state that is there anyway."""

    greedy: list[int] = field(default_factory=list)

    def explain(self, read: Read) -> Explained:
        logits = read.head.logits(read.head.raw_logits(read.value))
        self.greedy.extend(logits.argmax(-1).tolist())
        return super().explain(read)


def row(model: Any, question: Question, every: bool) -> dict[str, Any]:
    """What became of one question. `ranks`: 1 is best, and a tie counts against the right sentence.
    `every`: all of `SCOPES`, not only the first two, which are the fastest."""
    prompt = model.to_tokens(question.prompt)[0].tolist()
    answer, versus = (
        model.to_tokens(text, prepend_bos=False)[0].tolist()
        for text in (question.answer, question.versus)
    )
    sites = ["embed", model.cfg.n_layers // 2]
    whole = _Span(answer)
    found = {
        "first": ts.attribute(model, prompt, ts.ContinuationScope(answer[:1]), sites=sites),
        "span": ts.attribute(model, prompt, whole, sites=sites),
    }
    if every:
        against = ts.ContinuationScope(answer, versus)
        found["versus"] = ts.attribute(model, prompt, against, sites=sites)
        reads = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        fisher = ts.FisherScope(rank=1)
        sequence = ts.attribute_sequence(
            model, prompt + answer, fisher, positions=reads, sites=sites
        )
        found |= {"fisher first": sequence.at(reads[0]), "fisher": sequence.over_reads()}
    total = found["span"].continuation
    assert total is not None
    return {
        "place": question.right,
        "shared": question.shared,
        "tokens": len(answer),
        "log_prob": round(total.total, 3),
        "right": whole.greedy == answer,
        "ranks": {name: ranks(each, question) for name, each in found.items()},
    }


def ranks(found: ts.Attribution, question: Question) -> dict[str, list[int]]:
    """Of the right sentence among the facts, at each site, by joining."""
    return {
        how: [
            _rank(scores, question.right)
            for scores in _of_facts(found.group("sentence", how), question.facts)
        ]
        for how in HOW
    }


def _of_facts(grouped: ts.Attribution, facts: Sequence[str]) -> list[list[float]]:
    where = {text.strip(): i for i, text in enumerate(grouped.str_tokens)}
    return grouped.scores[:, [where[fact] for fact in facts]].tolist()


def _rank(scores: list[float], right: int) -> int:
    return sum(score >= scores[right] for score in scores)
