"""Four tasks of circuit analysis as pairs of prompts, each in two wordings, and sentences of your own.

Each function makes pairs whose two prompts differ in as few tokens as can be, and whose scope is
positive where the model does the task: its mean sign over the clean prompts is the model's accuracy. No
prompt stands in two pairs, so `pairs[:100]` and `pairs[100:]` of 200 are a split to attribute on and to
judge by.

    >>> pairs = tasks.indirect_object(model, n=200)
    >>> find, judge = pairs[:100], pairs[100:]
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompts import encode
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.circuits.pairs.pairs import Pairs
from tl_scopes.circuits.pairs.templates import Row, drawn, one_token, template
from tl_scopes.errors import DataError, check_choice
from tl_scopes.scopes.custom import FunctionScope
from tl_scopes.scopes.prediction import LogitDifferenceScope

__all__ = ["agreement", "greater_than", "indirect_object", "repeated_list", "template"]

_NAMES = """Mary John Tom James Mark Paul Anna Kate Sarah David Peter Emma Lucy Susan Robert Alice Michael
Laura Kevin Linda George Helen Simon Jane Adam Rachel Daniel Karen Steven Julia Andrew Maria Martin Lisa
Brian Amy Richard Sophie Frank Emily""".split()
_PLACES = (
    "store park school office station hotel garden library restaurant beach market museum".split()
)
_THINGS = "drink book letter ring ball gift key flower card picture ticket map coat phone".split()
_NOUNS = """key keys author authors boy boys girl girls teacher teachers doctor doctors picture pictures book
books farmer farmers friend friends student students lawyer lawyers king kings brother brothers sister sisters
driver drivers writer writers player players singer singers house houses table tables window windows garden
gardens cabinet cabinets pilot pilots guard guards nurse nurses painter painters soldier soldiers""".split()
_EVENTS = """war siege project strike expedition campaign voyage conflict dispute revolt journey study trial
tour reign search construction debate movement program""".split()
_CENTURIES = ("16", "17", "18")
_WORDS = """apple river stone table horse music paper garden window bridge winter summer silver orange doctor
market bottle camera forest island kitchen ladder mirror needle ocean pencil rabbit shadow tower valley wagon
yellow basket button candle dragon engine finger guitar hammer jacket lemon monkey palace pocket rocket school
spider ticket tunnel violin""".split()
_N_LISTED = 8

_INDIRECT_OBJECT = (
    "When {one} and {two} went to the {place}, {s2} gave a {thing} to",
    "After {one} and {two} arrived at the {place}, {s2} handed a {thing} to",
)
_GREATER_THAN = (
    "The {event} lasted from the year {century}{year} to the year {century}",
    "The {event} began in {century}{year} and it ended in {century}",
)
_AGREEMENT = (
    "The {subject} near the {attractor} in the picture",
    "I think that the {subject} behind the {attractor} there",
)
_REPEATED_LIST = ("Words: {first}. Words: {again}", "First list: {first}\nSecond list: {again}")


def indirect_object(model: Any, n: int = 100, seed: int = 0, template: int = 0) -> Pairs:
    """Who is given something: "When Mary and John went to the store, John gave a drink to" (Mary).

    The corrupted prompt repeats the other name: "..., Mary gave a drink to" (John). In half of the pairs
    the repeated name is the first of the two. Scope: `LogitDifferenceScope(" Mary", " John")`.

    Args:
        model: its tokenizer decides which names and words are taken, those of one token.
        n, seed: how many pairs, and the seed of their draws.
        template: which of two wordings, 0 or 1.

    Returns:
        `Pairs` with the roles "io" (the name that is the answer), "s1" and "s2" (the other name, first
        and repeated) and "last".

    Raises:
        DataError: too few of the words are one token of this model.
        ScopeParameterError: for n, seed or template.

    Source: Wang et al. 2022, arXiv 2211.00593, with the corruption of arXiv 2309.16042.

        >>> pairs = circuits.tasks.indirect_object(model, n=200)
    """
    view, text = view_of(model), _wording(_INDIRECT_OBJECT, template)
    names, places, things = (
        one_token(view, text, slot, words)
        for slot, words in (("two", _NAMES), ("place", _PLACES), ("thing", _THINGS))
    )

    def draws(rng: random.Random) -> Iterator[Row]:
        while True:
            io, s = _sample(rng, names, 2)
            order = ("one", "two") if rng.random() < 0.5 else ("two", "one")
            words = dict(zip(order, (io, s)), place=rng.choice(places), thing=rng.choice(things))
            roles = {order[0]: "io", order[1]: "s1", "s2": "s2"}
            scope = LogitDifferenceScope(" " + io, " " + s)
            yield Row(text, words | {"s2": s}, words | {"s2": io}, scope, roles)

    return drawn(view, draws, n, seed)


def greater_than(model: Any, n: int = 100, seed: int = 0, template: int = 0) -> Pairs:
    """A later year: "The war lasted from the year 1742 to the year 17" (43 or later).

    The corrupted prompt begins in the first decade, 1702, after which nearly every year is later. What is
    asked depends on how the tokenizer writes years. Where digits stand alone (both bundled models) the next
    token is the decade's digit: 5 to 9 are later, 0 to 3 earlier, and 4, which may be either, is left
    out. Where two digits are one token (GPT-2), 43 to 99 are later and 00 to 42 are not.

    Scope: a `FunctionScope` whose number is the log odds of the two, `logsumexp(z[later]) -
    logsumexp(z[earlier])`, in nats. The source takes the difference of the two probabilities, which does not
    change any more where the model is sure; the sign is the same.

    Args, Returns, Raises: as `indirect_object`; the roles are "event", "century" (of both years), "year" (the
    last two digits of the first one) and "last". `DataError` also where the tokenizer writes a
    whole year, or three digits of it, as one token.

    Source: Hanna et al. 2023, arXiv 2305.00586.

        >>> pairs = circuits.tasks.greater_than(model, n=200)
    """
    view, text = view_of(model), _wording(_GREATER_THAN, template)
    events = one_token(view, text, "event", _EVENTS)
    first = {"event": events[0], "century": _CENTURIES[0], "year": "42"}
    following = _following(view, text.format(**first))

    def draws(rng: random.Random) -> Iterator[Row]:
        while True:
            words = {"event": rng.choice(events), "century": rng.choice(_CENTURIES)}
            # With single digits both sides have a decade then, and the year's own may be either.
            year = 10 * rng.randrange(1, 9) + rng.randrange(9)
            later, earlier = {*following[year + 1 :]}, {*following[: year + 1]}
            odds = _LogOdds(tuple(sorted(later - earlier)), tuple(sorted(earlier - later)))
            scope = FunctionScope(odds, label="log odds of later against earlier years")
            years = {"year": f"{year}"}, {"year": f"0{year % 10}"}
            yield Row(text, words | years[0], words | years[1], scope)

    return drawn(view, draws, n, seed)


def agreement(model: Any, n: int = 100, seed: int = 0, template: int = 0) -> Pairs:
    """Verbs agree with their subject: "The keys near the cabinet in the picture" (are).

    The corrupted prompt has the subject in the other number: "The key near the cabinet ..." (is). Half of
    the subjects are plural, and so are half of the nouns in between. Scope: `LogitDifferenceScope(" are",
    " is")`, the other way round for a singular subject.

    Args, Returns, Raises: as `indirect_object`; the roles are "subject", "attractor" (the noun in
    between) and "last".

    Source: Linzen et al. 2016, arXiv 1611.01368; as a task for circuits in arXiv 2403.17806.

        >>> pairs = circuits.tasks.agreement(model, n=200)
    """
    view, text = view_of(model), _wording(_AGREEMENT, template)
    known = {*one_token(view, text, "subject", _NOUNS)}
    numbers = [pair for pair in zip(_NOUNS[::2], _NOUNS[1::2]) if known >= {*pair}]

    def draws(rng: random.Random) -> Iterator[Row]:
        while True:
            subject, attractor = _sample(rng, numbers, 2)
            plural = rng.randrange(2)
            others = {"attractor": rng.choice(attractor)}
            clean, corrupted = ({"subject": subject[i]} | others for i in (plural, 1 - plural))
            verbs = (" are", " is") if plural else (" is", " are")
            yield Row(text, clean, corrupted, LogitDifferenceScope(*verbs))

    return drawn(view, draws, n, seed)


def repeated_list(model: Any, n: int = 100, seed: int = 0, template: int = 0) -> Pairs:
    """Induction: a list of eight words, then its beginning again; what followed the last word before?

    In "Words: a b c d e f g h. Words: a b c" the answer is d. The corrupted prompt has two words of the
    first list exchanged, c and f say, so that the last word was followed by another one, g. Scope:
    `LogitDifferenceScope(" d", " g")`. The exchanged words and the answers keep their places, so that heads
    that look at the previous token and induction heads both count.

    Args, Returns, Raises: as `indirect_object`; the roles are "exchanged" (the two words), "answers" (the
    two that follow them), "again" (the second list, its last word left out) and "last".

    Source: induction heads, Olsson et al. 2022, arXiv 2209.11895.

        >>> pairs = circuits.tasks.repeated_list(model, n=200)
    """
    view, wording = view_of(model), _wording(_REPEATED_LIST, template)
    known = one_token(view, "Words: a {word}", "word", _WORDS)

    def draws(rng: random.Random) -> Iterator[Row]:
        while True:
            words = _sample(rng, known, _N_LISTED)
            cue = rng.randrange(1, _N_LISTED - 4)
            # After the second list's end: its words tell nothing of the other answer.
            other = rng.randrange(cue + 2, _N_LISTED - 1)
            first = {f"first {i}": word for i, word in enumerate(words)}
            again = {f"again {i}": word for i, word in enumerate(words[: cue + 1])}
            exchanged = {f"first {cue}": words[other], f"first {other}": words[cue]}
            roles = dict.fromkeys(exchanged, "exchanged") | dict.fromkeys(again, "again")
            roles |= {f"first {i + 1}": "answers" for i in (cue, other)}
            text = wording.format(
                **{k: " ".join(f"{{{slot}}}" for slot in own) for k, own in
                   (("first", first), ("again", again))}
            )  # fmt: skip
            scope = LogitDifferenceScope(" " + words[cue + 1], " " + words[other + 1])
            yield Row(text, first | again, first | again | exchanged, scope, roles)

    return drawn(view, draws, n, seed)


@dataclass(frozen=True)
class _LogOdds:
    """Of one set of tokens against another, in nats."""

    later: tuple[int, ...]
    earlier: tuple[int, ...]

    def __call__(self, logits: Float[Tensor, "d_vocab"]) -> Tensor:
        later, earlier = (logits[[*ids]].logsumexp(0) for ids in (self.later, self.earlier))
        return later - earlier


def _wording(texts: tuple[str, ...], template: Any) -> str:
    check_choice("template", template, range(len(texts)), hint=" (which wording)")
    return texts[template]


def _sample(rng: random.Random, known: list[Any], count: int) -> list[Any]:
    if len(known) < count:
        raise DataError(
            f"{len(known)} of this task's words are one token of this model, and {count} are needed: make "
            "pairs of your own words, with tasks.template"
        )
    return rng.sample(known, count)


def _following(view: ModelView, prompt: str) -> list[int]:
    """The token that comes after the prompt where 00, 01, ... 99 follow."""
    ids = encode(view, prompt, None)
    longer = [encode(view, f"{prompt}{year:02d}", None) for year in range(100)]
    if any(own[: len(ids)] != ids for own in longer):
        raise DataError(
            f"this tokenizer takes the digits at the end of {prompt!r} together with those that follow, so "
            "that no token is the year's: make pairs of your own with tasks.template"
        )
    return [own[len(ids)] for own in longer]
