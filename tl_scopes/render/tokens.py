"""Tokens as a reader sees them: nothing invisible, nothing that a page or a terminal would obey.

A token is any string at all: markup, control sequences, half of an emoji. Every drawing goes
through `pieces`, which splits it into literal text and marks that stand for what has no glyph.
"""

from __future__ import annotations

import html
from itertools import groupby
from operator import itemgetter

import regex

from tl_scopes.results.escapes import FIRST, JOINERS, LAST, escape, is_unseen, isolated, units

SPACE, NEWLINE, TAB, EMPTY = "·", "↵", "⇥", "∅"
_NAMED = {" ": SPACE, "\n": NEWLINE, "\t": TAB, "\r": "\\r"}
_MARKS = SPACE + NEWLINE + TAB + EMPTY
_LIKE_MARKS = _MARKS + "".join(_NAMED)


def pieces(text: str) -> list[tuple[str, bool]]:
    """`text` as `(shown, is_mark)` parts in order; neighbouring parts of one kind are joined.

    Spaces become `·`, newlines `↵`, tabs `⇥`, nothing `∅`; control characters, bidirectional
    overrides, unusual spaces, private and surrogate code points their escape (`\\x1b`). A text
    of nothing but spaces and what looks like a mark has escapes for the latter. No part contains
    whitespace or a character that moves a cursor.
    """
    if not text:
        return [(EMPTY, True)]
    last = len(text) - 1
    letters = [_shown(char, i in (0, last)) for i, char in enumerate(text)]
    if not text.strip(_LIKE_MARKS):
        letters = [(escape(c), True) if c in _MARKS else (x, m) for c, (x, m) in zip(text, letters)]
    if regex.match(r"\p{M}", text):
        # A combining mark would sit on the token before it.
        letters[0] = "◌" + letters[0][0], letters[0][1]
    return [
        ("".join(shown for shown, _ in run), mark)
        for mark, run in groupby(letters, key=itemgetter(1))
    ]


def visible(text: str) -> str:
    """`text` on one line, with marks for what has no glyph. For terminals, labels and figures."""
    return "".join(shown for shown, _ in pieces(text))


def words(text: str) -> str:
    """A label, a unit or a name: as `visible`, but plain spaces stay."""
    return " ".join(visible(word) if word.strip(_MARKS) else word for word in text.split(" "))


def escaped(text: str) -> str:
    """`visible` for a web page: every character displays literally, marks inside `<i>`."""
    return "".join(
        f"<i>{html.escape(shown)}</i>" if mark else html.escape(shown)
        for shown, mark in pieces(text)
    )


def clipped(text: str, length: int) -> str:
    """`visible`, cut to `length` characters with an ellipsis; escapes stay whole."""
    shown = visible(text[: length + 1])  # no character is shown as less than one
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
    if char in _NAMED:
        return _NAMED[char], True
    if char in JOINERS and not alone:
        return char, False
    if is_unseen(char):
        return escape(char), True
    return char, False
