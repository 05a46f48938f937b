"""Text that is not ours inside text that is: nothing in it is obeyed, and what is around it keeps its order.

A terminal obeys control characters, and a line with letters of Arabic or Hebrew shows what stands
after them before them. Light, as the command line needs it before torch is there.
"""

from __future__ import annotations

import re
import unicodedata

import regex

# Separators (other than the plain space), control, format, surrogate, private, unassigned. Python's
# own tables of characters are as old as Python, and would call newer emoji unassigned.
_UNSEEN = regex.compile(r"[\p{Z}\p{C}]")
# Joiners only mean something between two characters: inside an emoji or a Persian word.
JOINERS = "\u200c\u200d"
# What is between them is ordered on its own: "first strong isolate" and its end.
FIRST, LAST = "\u2068", "\u2069"
_ISOLATED = re.compile(f"{FIRST}([^\u2066-{LAST}]*){LAST}")
_UNITS = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|.", re.DOTALL)
_RIGHT_TO_LEFT = ("R", "AL", "AN")


def escape(char: str) -> str:
    """The escape that Python would write: `\\x1b`, `\\u202e`, `\\U0001f44d`."""
    if char.isascii():  # not \n, so that each has its number
        return f"\\x{ord(char):02x}"
    return char.encode("ascii", "backslashreplace").decode()


def is_unseen(char: str) -> bool:
    """Whether the character has no glyph of its own, or is a space."""
    return _UNSEEN.match(char) is not None


def units(shown: str) -> list[str]:
    """What cannot be divided: escapes, letters with the marks on them."""
    found: list[str] = []
    for unit in _UNITS.findall(shown):
        if found and unicodedata.category(unit[0]).startswith("M"):
            found[-1] += unit
        else:
            found.append(unit)
    return found


def isolated(text: str) -> str:
    """`text` as a part of a sentence: between isolates where it has letters that go right to left."""
    turns = any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in text)
    return f"{FIRST}{text}{LAST}" if turns else text


def literal(text: str) -> str:
    """A token in an error or a `repr`: as Python writes it, and `isolated`."""
    return isolated(repr(text))


def without_isolates(text: str) -> str:
    """`text`, which `isolated` parts are in, for what orders no letters and counts all characters."""
    return _ISOLATED.sub(r"\1", text)


def message(text: str) -> str:
    """One line for a terminal: whatever `text` quotes, no character in it is obeyed.

    Lines are joined by spaces; all that has no glyph becomes its escape. `isolated` parts stay.
    """
    line = " ".join(part.strip() for part in text.splitlines())
    parts = _ISOLATED.split(line)  # every second one was isolated
    return "".join(
        isolated(_escaped(part)) if i % 2 else _escaped(part) for i, part in enumerate(parts)
    )


def _escaped(text: str) -> str:
    last = len(text) - 1
    return "".join(
        escape(char)
        if char != " " and is_unseen(char) and not (char in JOINERS and 0 < i < last)
        else char
        for i, char in enumerate(text)
    )
