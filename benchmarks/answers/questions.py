"""Prompts whose right sentence is known: who lives where, in any order, and a question."""

from __future__ import annotations

import random
from dataclasses import dataclass

FACTS = 5
_PEOPLE = """Agnes Albert Bertha Clara Conrad Edith Ernest Flora Gilbert Harriet Hector Hubert Ida Leopold Lydia
Mabel Martha Matilda Nora Oscar Otto Ralph Rufus Silas Stella Sylvia Theodore Ursula Vera Winifred""".split()
_FAMILIES = """Abernathy Blackwood Castellano Drummond Eversley Fairbanks Goldsmith Hathaway Ivanova Jankowski
Kowalski Lindqvist Montgomery Nakamura Oyelaran Pemberton Quintero Rosenthal Santangelo Thorvaldsen Underhill
Vasquez Whitaker Yamamoto Zielinski""".split()
_FIRST = "Port Lake Mount Fort Saint New North South Upper Lower Old Great".split()
_TOWNS = """Ambleford Brackenwell Carrowdale Dunmarsh Elderwick Fennimore Garlstone Hollinbrook Iverness
Kestrelby Larchmond Marrowby Nettleham Oakenshaw Pellington Quarrydon Ravensworth Silverton Thistledown
Wexborough""".split()


@dataclass(frozen=True)
class Question:
    """`facts[right]` holds the answer, `facts[other]` somebody else's place.

    `shared`: whether the answer's first word begins a place of one more fact.
    """

    facts: tuple[str, ...]
    prompt: str
    answer: str
    versus: str
    right: int
    other: int
    shared: bool


def questions(n: int, seed: int = 0) -> list[Question]:
    """`n` of them. Each place in the list is the right one equally often, with a first word that is shared
    and with one that is not."""
    draw = random.Random(seed)
    return [_question(draw, i % FACTS, i // FACTS % 2 == 1) for i in range(n)]


def _question(draw: random.Random, right: int, shared: bool) -> Question:
    people = [
        " ".join(parts) for parts in zip(draw.sample(_PEOPLE, FACTS), draw.sample(_FAMILIES, FACTS))
    ]
    first = draw.sample(_FIRST, FACTS)
    if shared:
        first[draw.choice([i for i in range(FACTS) if i != right])] = first[right]
    places = [" ".join(parts) for parts in zip(first, draw.sample(_TOWNS, FACTS))]
    other = draw.choice([i for i in range(FACTS) if i != right])
    facts = tuple(f"{person} lives in {place}." for person, place in zip(people, places))
    asked = f"\nQuestion: Where does {people[right]} live?\nAnswer: {people[right]} lives in"
    return Question(
        facts,
        " ".join(facts) + asked,
        f" {places[right]}",
        f" {places[other]}",
        right,
        other,
        shared,
    )
