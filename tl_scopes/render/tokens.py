"""Tokens as a reader sees them: nothing invisible, nothing that a page or a terminal would obey.

A token is any string at all: markup, control sequences, half of an emoji. Every drawing goes
through `pieces`, which splits it into literal text and marks that stand for what has no glyph.
"""

from __future__ import annotations

import html
import unicodedata

from tl_scopes._characters import FIRST, JOINERS, LAST, UNSEEN, escape, isolated, units

SPACE, NEWLINE, TAB, EMPTY = "·", "↵", "⇥", "∅"


def pieces(text: str) -> list[tuple[str, bool]]:
    """`text` as `(shown, is_mark)` parts in order; neighbouring parts of one kind are joined.

    Spaces become `·`, newlines `↵`, tabs `⇥`, nothing `∅`; control characters, bidirectional
    overrides, unusual spaces, private and surrogate code points their escape (`\\x1b`). No part
    contains whitespace or a character that moves a cursor.
    """
    if not text:
        return [(EMPTY, True)]
    parts: list[tuple[str, bool]] = []
    for i, char in enumerate(text):
        alone = i == 0 or i == len(text) - 1
        shown, mark = _shown(char, alone)
        if i == 0 and unicodedata.category(char).startswith("M"):
            shown = "◌" + shown  # a combining mark would sit on the token before it
        if parts and parts[-1][1] == mark:
            parts[-1] = (parts[-1][0] + shown, mark)
        else:
            parts.append((shown, mark))
    return parts


def visible(text: str) -> str:
    """`text` on one line, with marks for what has no glyph. For terminals, labels and figures."""
    return "".join(shown for shown, _ in pieces(text))


def words(text: str) -> str:
    """A label, a unit or a name: as `visible`, but plain spaces stay."""
    return " ".join(visible(word) if word else "" for word in text.split(" "))


def escaped(text: str) -> str:
    """`visible` for a web page: every character displays literally, marks inside `<i>`."""
    return "".join(
        f"<i>{html.escape(shown)}</i>" if mark else html.escape(shown)
        for shown, mark in pieces(text)
    )


def clipped(text: str, length: int) -> str:
    """`visible`, cut to `length` characters with an ellipsis; escapes stay whole."""
    shown = visible(text)
    if len(shown) <= length:
        return shown
    parts = units(shown[: length + 16])
    while sum(map(len, parts)) > length - 1:
        parts.pop()
    return "".join(parts) + "…"


def quoted(text: str, length: int = 40) -> str:
    """A token as a part of a sentence: `clipped`, in quotes that stay on its two sides."""
    return f"“{isolated(clipped(text, length))}”"


def sentence(text: str) -> str:
    """`text`, which `quoted` parts may be in, for a web page."""
    return html.escape(text).replace(FIRST, "<bdi>").replace(LAST, "</bdi>")


def _shown(char: str, alone: bool) -> tuple[str, bool]:
    named = {" ": SPACE, "\n": NEWLINE, "\t": TAB, "\r": "\\r"}.get(char)
    if named:
        return named, True
    if char in JOINERS and not alone:
        return char, False
    if unicodedata.category(char) in UNSEEN:
        return escape(char), True
    return char, False
