"""Prefixes in which one word decides the next: read from a file, checked, drawn, and given another form of their
word to be held against."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_scopes.errors import DataError

OWN = Path(__file__).with_name("forty.json")
_SHAPE = (
    "allowed: a JSON object, by paradigm a list of objects with prefix, evidence (the index of the deciding "
    "word among the prefix's words, split at single spaces), good, and one of contrast (the prefix with that word "
    "exchanged) and bad (a word that the prefix rules out)"
)
_SINGULAR, _PLURAL = ("this", "that"), ("these", "those")
# What is said in place of a word that needs its licensor: "Even they never", "No guest left at all".
_FORMS = {"ever": "never", "least": "all", "most": "all"}
_IRREGULAR = {
    "alumnus": "alumni", "analysis": "analyses", "cactus": "cacti", "child": "children", "foot": "feet",
    "fungus": "fungi", "goose": "geese", "louse": "lice", "man": "men", "mouse": "mice", "nucleus": "nuclei",
    "oasis": "oases", "octopus": "octopi", "ox": "oxen", "person": "people", "scarf": "scarves",
    "stimulus": "stimuli", "synopsis": "synopses", "thesis": "theses", "tooth": "teeth", "woman": "women",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A prefix whose word number `evidence` asks for `good` as what follows.

    `contrast`: the prefix with that word exchanged, after which `good` is wrong; or `bad`: what is wrong after the
    prefix as it is. `number`: what the file calls it.
    """

    paradigm: str
    number: int
    prefix: str
    evidence: int
    good: str
    bad: str | None = None
    contrast: str | None = None

    @property
    def words(self) -> list[str]:
        return self.prefix.split(" ")

    @property
    def other(self) -> str | None:
        """What `good` is held against: `bad`, or its other form; None where there is none.

        Of a noun after *this*, *that*, *these* or *those* the other number; of *ever* "never", of *least* and *most*
        "all".
        """
        if self.bad is not None or self.good in _FORMS:
            return self.bad or _FORMS[self.good]
        determiner = self.words[self.evidence].lower()
        if determiner in _SINGULAR:
            return _of_last(self.good, plural)
        return _of_last(self.good, singular) if determiner in _PLURAL else None


def plural(noun: str) -> str:
    """By English spelling, and a list of nouns that do otherwise."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if re.search("[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search("(s|x|z|ch|sh)$", noun) else "s")


def singular(noun: str) -> str:
    """The noun whose `plural` it is."""
    for one, many in _IRREGULAR.items():
        if noun == many:
            return one
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    return noun[: -2 if re.search("(ss|x|zz|ch|sh|[^o]us)es$", noun) else -1]


def _of_last(words: str, change: Any) -> str:
    """Of *movie theater* it is the theater that changes."""
    *others, last = words.split(" ")
    return " ".join([*others, change(last)])


def read(path: Path) -> tuple[dict[str, list[Item]], str]:
    """By paradigm, and the SHA-256 of the file. Raises `DataError` for what is not of the form."""
    try:
        raw = path.read_bytes()
        data = json.loads(raw)
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read ({error}); {_SHAPE}") from error
    if not isinstance(data, Mapping) or not data:
        raise DataError(f"{path.name} holds {type(data).__name__}; {_SHAPE}")
    made = {
        name: [_item(name, number, each) for number, each in enumerate(listed)]
        for name, listed in data.items()
    }
    return made, hashlib.sha256(raw).hexdigest()


def _item(paradigm: str, number: int, each: Any) -> Item:
    try:
        item = Item(
            paradigm,
            int(each.get("pair", number)),
            each["prefix"],
            each["evidence"],
            each["good"],
            each.get("bad"),
            each.get("contrast"),
        )
        sound = 0 <= item.evidence < len(item.words) and len(item.words) > 1 and all(item.words)
        if sound and (item.bad is None) != (item.contrast is None):
            return item
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise DataError(f"item {number} of {paradigm} is {each!r}; {_SHAPE}")


def drawn(items: Mapping[str, Sequence[Item]], n: int, seed: int) -> dict[str, list[Item]]:
    """`n` of each paradigm in an order of the seed: more of them begin with the same ones."""
    return {
        name: random.Random(f"{seed} {name}").sample(listed, len(listed))[:n]
        for name, listed in items.items()
    }


def elsewhere(items: Mapping[str, Sequence[Item]], item: Item, seed: int) -> str:
    """A word that another paradigm asks for: nothing in this prefix decides it."""
    draw = random.Random(f"{seed} {item.paradigm} {item.number}")
    words = sorted({i.good for name, own in items.items() if name != item.paradigm for i in own})
    return draw.choice([word for word in words if word not in (item.good, item.other)])
