"""Pairs from a sentence with slots, whose words are chosen so that positions and lengths stay aligned."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from tl_scopes.adapter.prompts import encode
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.circuits.pairs.pairs import ALL, REST, Pairs
from tl_scopes.circuits.pairs.roles import covering, spelled
from tl_scopes.errors import DataError, PromptError, check_seed, check_whole
from tl_scopes.scopes.base import Scope

Words = Mapping[str, str]
# The role of the position that is read.
LAST = "last"
# So many draws in a row without a new pair end the search for one.
_PATIENCE = 1000


def template(
    model: Any,
    text: str,
    words: Mapping[str, Sequence[str]],
    exchange: str,
    scope: Union[Scope, Callable[[Words, Words], Scope]],
    *,
    n: int = 100,
    seed: int = 0,
) -> Pairs:
    """Pairs from a sentence of your own, in whose corrupted prompts one slot holds another word.

    Only words that are one token where they stand are taken, so that both prompts of a pair have the
    same length and a role is at the same place in both. No word stands in two slots of a prompt, and
    no prompt in two pairs: `pairs[:100]` and `pairs[100:]` share none.

    Args:
        model: its tokenizer decides which words are one token.
        text: the prompt, with slots: `"The capital of {country} is"`. A slot may stand twice; a brace
            is written `{{`.
        words: the words of each slot.
        exchange: the slot that another of its words is put into.
        scope: one for all pairs, or a function of the clean and the corrupted words (slot -> word)
            that gives a pair's own.
        n: how many pairs.
        seed: of the draws.

    Returns:
        `Pairs` with a role for every slot and "last" (the read position, in no other role).

    Raises:
        DataError: too few words are one token, or fewer than `n` different pairs can be made.
        PromptError: `text` is no such sentence, or the model has no tokenizer.
        ScopeParameterError: for n or seed.

    Examples:
        >>> capitals = {"France": " Paris", "Germany": " Berlin", "Spain": " Madrid"}
        >>> def contrast(clean, corrupted):
        ...     a, b = (capitals[words["country"]] for words in (clean, corrupted))
        ...     return LogitDifferenceScope(a, b)
        >>> text = "The capital of {country} is"
        >>> template(model, text, {"country": list(capitals)}, "country", contrast, n=3)
    """
    view = view_of(model)
    slots = _slots(text)
    _check_words(slots, words, exchange)
    known = {slot: one_token(view, text, slot, words[slot]) for slot in slots}
    if len(known[exchange]) < 2:
        raise DataError(
            f"slot {exchange!r} has one word of one token, {known[exchange][0]!r}, and is to be "
            "exchanged: give another one"
        )

    def draws(rng: random.Random) -> Iterator[Row]:
        while True:
            clean = {slot: rng.choice(known[slot]) for slot in slots}
            corrupted = clean | {exchange: rng.choice(known[exchange])}
            if corrupted == clean or any(
                len(set(own.values())) < len(slots) for own in (clean, corrupted)
            ):
                yield Row(text, clean, clean, None)
                continue
            own = scope if isinstance(scope, Scope) else scope(clean, corrupted)
            yield Row(text, clean, corrupted, own)

    return drawn(view, draws, n, seed)


@dataclass(frozen=True)
class Row:
    """One pair's words. `roles`: slot -> role; slots that it lacks have none. None: each is its own.

    A draw that gave no pair has the same words twice.
    """

    text: str
    clean: Words
    corrupted: Words
    scope: Scope | None
    roles: Mapping[str, str] | None = None


def drawn(
    view: ModelView, draws: Callable[[random.Random], Iterator[Row]], n: int, seed: int
) -> Pairs:
    """The first `n` different pairs of `draws`. Raises as `template`."""
    check_whole("n", n, 1)
    check_seed(seed)
    clean: list[str] = []
    corrupted: list[str] = []
    places: list[dict[str, list[int]]] = []
    scopes: list[Any] = []
    taken: set[str] = set()
    contrasts: set[str] = set()
    repeats = 0
    for row in draws(random.Random(seed)):
        if len(clean) == n:
            break
        if repeats == _PATIENCE:
            raise DataError(
                f"only {len(clean)} different pairs were found, and n is {n}: lower n, or give more words "
                "that are one token"
            )
        repeats += 1
        one, two = (_filled(row.text, words)[0] for words in (row.clean, row.corrupted))
        # A clean prompt in two pairs, as either side, would stand on both sides of a split.
        if one == two or one in taken | contrasts or two in taken:
            continue
        at, other = (_places(view, row, words) for words in (row.clean, row.corrupted))
        if at != other:
            continue
        repeats = 0
        taken.add(one)
        contrasts.add(two)
        clean.append(one)
        corrupted.append(two)
        places.append(at)
        scopes.append(row.scope)
    roles = dict.fromkeys(role for at in places for role in at)
    positions = {role: [at.get(role, []) for at in places] for role in roles}
    return Pairs(clean, corrupted, scopes, positions)


def one_token(view: ModelView, text: str, slot: str, words: Sequence[str]) -> list[str]:
    """Those of `words` that are one token wherever `slot` stands in `text`. Raises `DataError`."""
    tokenizer = getattr(view.model, "tokenizer", None)
    if tokenizer is None:
        raise PromptError(
            "the model has no tokenizer, which tells the lengths of words: give pairs"
        )
    before = {literal for literal, own, *_ in string.Formatter().parse(text) if own == slot}

    def ids(piece: str) -> list[int]:
        return tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []

    starts = {literal: len(ids(literal.rstrip(" "))) for literal in before}
    unknown = getattr(tokenizer, "unk_token_id", None)

    def is_one(literal: str, word: str) -> bool:
        own = ids(literal + word)
        return len(own) == starts[literal] + 1 and own[-1] != unknown

    known = [w for w in dict.fromkeys(words) if all(is_one(literal, w) for literal in before)]
    if not known:
        raise DataError(
            f"none of the {len(words)} words of slot {slot!r} is one token of this model, "
            f"{words[0]!r} among them: give other words"
        )
    return known


def _slots(text: Any) -> list[str]:
    if not isinstance(text, str):
        raise PromptError(f"the template is a {type(text).__name__}; give a text with {{slots}}")
    try:
        fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError as error:
        raise PromptError(f"the template {text!r} has a brace alone ({error}): double it") from None
    wrong = [name for _, name, spec, kind in fields if not name or spec or kind]
    if wrong or not fields:
        what = f"the slot {wrong[0]!r}" if wrong else "no slot"
        raise PromptError(f"the template {text!r} has {what}; allowed: slots with a name, {{name}}")
    if reserved := {LAST, ALL, REST} & {str(name) for _, name, *_ in fields}:
        raise PromptError(
            f"a slot is called {min(reserved)!r}, as positions in no slot are: rename it"
        )
    return list(dict.fromkeys(str(name) for _, name, *_ in fields))


def _check_words(slots: Sequence[str], words: Any, exchange: Any) -> None:
    if not isinstance(words, Mapping) or {*words} != {*slots}:
        got = sorted(map(str, words)) if isinstance(words, Mapping) else type(words).__name__
        raise DataError(f"words are of {got}; allowed: a list of words for each of {slots}")
    for slot, own in words.items():
        if isinstance(own, str) or not own or not all(isinstance(w, str) and w for w in own):
            raise DataError(f"the words of slot {slot!r} are {own!r}; allowed: a list of words")
    if exchange not in slots:
        raise DataError(f"exchange is {exchange!r}; allowed: one of the slots {slots}")


def _filled(text: str, words: Words) -> tuple[str, list[tuple[str, int, int]]]:
    """The prompt, and where in it each slot stands."""
    whole, spans = "", []
    for literal, slot, *_ in string.Formatter().parse(text):
        whole += literal
        if slot is not None:
            spans.append((slot, len(whole), len(whole) + len(words[slot])))
            whole += words[slot]
    return whole, spans


def _places(view: ModelView, row: Row, words: Words) -> dict[str, list[int]]:
    """The positions of every role, each position in one."""
    prompt, spans = _filled(row.text, words)
    ids = encode(view, prompt, None)
    whole, pieces = spelled(view, ids)
    if not whole.endswith(prompt):
        raise PromptError(
            f"the tokenizer makes {whole!r} of {prompt!r}, so that slots have no place in it: give pairs "
            "with positions"
        )
    offset = len(whole) - len(prompt)
    roles: dict[int, str] = {len(ids) - 1: LAST}
    for slot, low, high in spans:
        role = slot if row.roles is None else row.roles.get(slot)
        if role is not None:
            for t in covering(pieces, low + offset, high + offset):
                roles.setdefault(t, role)
    places: dict[str, list[int]] = {}
    for t in sorted(roles):
        places.setdefault(roles[t], []).append(t)
    return places
