"""Results in words: what was scored, what a sign means, with which settings and how well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tl_scopes.errors import RenderError
from tl_scopes.render.colours import number
from tl_scopes.render.tokens import quoted, words
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.characters import Spans
from tl_scopes.results.escapes import FIRST, LAST, isolated
from tl_scopes.results.records import Continuation, ScopeInfo, Token
from tl_scopes.rules import Rules

# What a method measured about its own result stands among its parameters, but is no setting.
MEASURED = "convergence_delta"
DOT = " · "
JOINED = {"sum": "summed", "norm": "root of summed squares", "max": "largest token"}
_LONGEST_VALUE, _LONGEST = 60, 240
_STANDS = re.compile(r"\{\w+\}")


def explained(scope: ScopeInfo, target: Token | None) -> str:
    """What a scope explains, as the end of a sentence."""
    return _filled(scope.explains or f"{words(scope.name)}{{target}}", scope, target)


def title(scope: ScopeInfo, target: Token | None, each: str = "") -> str:
    """What the scores are. `each`: what several reads are of, where each explains the token after it."""
    whom = " for{target}" if target else ""
    text = scope.title or f"Scores by {words(scope.name)}{whom}"
    if each and scope.parameters.get("target") == "NEXT_TOKEN":
        text = text.replace("the next token{target}", each)
    return _filled(text, scope, target)


def signs(scope: ScopeInfo, target: Token | None) -> str:
    """What scores above and below zero mean, with the colours that they have in every drawing."""
    above, below = (f": {_filled(sign, scope, target)}" if sign else "" for sign in scope.signs)
    return f"blue above 0{above}, red below 0{below}"


def method(scope: ScopeInfo) -> str:
    """Name and settings on one line; long values are cut one by one, so that none hides the rest."""
    told = [k for k, v in scope.parameters.items() if v is not None and not _is_measured(k)]
    return _with(scope, told)


def read_at(read: tuple[int, str]) -> str:
    """Where a result was read: the token's position and text."""
    return f"read at {read[0]} {quoted(read[1])}"


def continued(continuation: Continuation) -> list[str]:
    """Where a continuation was read, how likely it is, and what it is compared with."""
    first, last, n = min(continuation.reads), max(continuation.reads), len(continuation.reads)
    some = "" if last - first == n - 1 else f"{n} positions from "
    told = [f"read at {some}{first}{f' to {last}' if last > first else ''}"]
    less = (
        f" less {number(sum(continuation.versus_log_probs))}" if continuation.versus_tokens else ""
    )
    return [*told, f"log-probability {number(sum(continuation.log_probs))}{less} nats"]


def answered(result: SequenceAttribution) -> list[str]:
    """How likely the answer is; nothing where there is none, or where the result does not say."""
    start = result.answer_start
    pairs = zip(result.positions, result.log_probs)
    values = [x for p, x in pairs if start is not None and p + 1 >= start]
    known = [x for x in values if x is not None]
    whole = known and len(known) == len(values)
    return [f"log-probability of the answer {number(sum(known))} nats"] if whole else []


def counted(n: int, what: str) -> str:
    """`1 token`, `2 tokens`."""
    return f"{n} {what}{'s' * (n != 1)}"


def size(n: int, spans: Spans = (), how: str = "") -> str:
    """How many tokens there are, and how they are grouped into `n`, if they are (`spans`)."""
    if not spans:
        return counted(n, "token")
    joined = f" ({JOINED[how]})" if how else ""
    return f"{counted(n, 'group')}{joined} of {counted(spans[-1][1], 'token')}"


def distinct(
    results: Sequence[Attribution], labels: Iterable[str] | None, settings: Sequence[Sequence[str]]
) -> list[str]:
    """Names that tell `results` apart, in as few words as do; or `labels`, one for each.

    `settings`: where and how each was made, in the same columns for all.
    """
    if labels is None:
        scopes = _among([a.scope for a in results])
        targets = [quoted(a.target.text, 24) if a.target else "" for a in results]
        facts = [
            [scope, target, *more, words(a.provenance.model)]
            for scope, target, a, more in zip(scopes, targets, results, settings)
        ]
        names = [
            DOT.join(told or [fact for fact in row[:3] if fact])
            for told, row in zip(differing(facts), facts)
        ]
    else:
        given = isinstance(labels, Iterable) and not isinstance(labels, str)
        names = [isolated(words(str(label))) for label in labels] if given else []
        if len(names) != len(results):
            raise RenderError(f"labels={labels!r} must name {len(results)} results: give as many")
    names = [_cut(name, _LONGEST) for name in names]
    return [f"{name} #{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def differing(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each row, what stands in the columns that are not the same in every row."""
    told = [i for i, column in enumerate(zip(*rows)) if len(set(column)) > 1]
    return [[row[i] for i in told if row[i]] for row in rows]


def convergence(scope: ScopeInfo, sites: Sequence[str], units: str) -> list[str]:
    """How far integrated gradients at `sites` (labels) are from adding up, where they say so."""
    deltas: dict[str, float] = {}
    for key, value in scope.parameters.items():
        site = key.removeprefix(MEASURED).removeprefix(" at ")
        drawn = not site or any(s == site or s.startswith(f"{site}[") for s in sites)
        if _is_measured(key) and drawn and isinstance(value, (int, float)):
            deltas[site] = value
    if not deltas:
        return []
    worst = max(deltas, key=lambda site: abs(deltas[site]))
    some = f"largest at {words(worst)}, " if len(deltas) > 1 else ""
    return [
        f"Convergence delta: {some}{number(deltas[worst])} {units} between the sum along the path and "
        "the change from the baseline."
    ]


def hooked(places: Sequence[str]) -> str:
    """That hooks of the user's were in force, and where; nothing where there were none."""
    if not places:
        return ""
    shown = [words(place) for place in dict.fromkeys(places)]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return f"with your own hooks at {', '.join(shown[:3])}{more}"


def ruled(rules: Rules | None) -> str:
    """Which rules gradients followed, beside what they held constant; nothing where none did."""
    apart = None if rules is None else replace(rules, frozen=())
    return "" if apart in (None, Rules()) else f"gradient rules: {words(str(rules))}"


def _among(scopes: Sequence[ScopeInfo]) -> list[str]:
    """`method` of each; of several with one name, only the settings in which they differ."""
    names = []
    for scope in scopes:
        same = [other.parameters for other in scopes if other.name == scope.name]
        keys = dict.fromkeys(k for parameters in same for k in parameters if not _is_measured(k))
        told = [k for k in keys if len({_value(parameters.get(k)) for parameters in same}) > 1]
        names.append(_with(scope, told) if told else method(scope))
    return names


def _with(scope: ScopeInfo, keys: Sequence[str]) -> str:
    values = [_cut(words(_value(scope.parameters.get(k))), _LONGEST_VALUE) for k in keys]
    inside = ", ".join(f"{words(k)}={isolated(value)}" for k, value in zip(keys, values))
    name = words(scope.name)
    return _cut(f"{name}({inside})" if inside else name, _LONGEST)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _filled(text: str, scope: ScopeInfo, target: Token | None) -> str:
    """`text` of a record, with what its words in braces stand for: the target, or a parameter."""
    meanings = {f"{{{key}}}": quoted(str(value)) for key, value in scope.parameters.items()}
    meanings["{target}"] = f" {quoted(target.text)}" if target else ""
    return _STANDS.sub(lambda word: meanings.get(word[0], word[0]), words(text))


def _is_measured(key: str) -> bool:
    return key == MEASURED or key.startswith(f"{MEASURED} at ")


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    kept = text[: length - 1]
    return kept + "…" + LAST * (kept.count(FIRST) - kept.count(LAST))
