"""Texts of tokens put together: bytes into characters, characters into what a reader calls one.

A token may hold a part of a character only. Its text then shows the bytes, `<0xE6><0x97>`, in the
spelling of SentencePiece's byte tokens. From that, and from nothing else, tokens side by side get
their characters back, so that a saved result needs no model for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

import regex

Spans = tuple[tuple[int, int], ...]
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# While texts are put together a byte is a lone surrogate, as in Python's "surrogateescape".
_BYTES = "surrogateescape"
_PARTS = re.compile("[\udc80-\udcff]+|[^\udc80-\udcff]+")
_FIRST_BYTE = 0xDC00


def shown(data: bytes) -> str:
    """`data` as text; what is no whole character in UTF-8 as its bytes, `<0xE6><0x97>`."""
    return "".join(map(_spelled, data.decode("utf-8", _BYTES)))


def data_of(text: str) -> bytes:
    """What `shown` was given. Raises `UnicodeEncodeError` for surrogates, which are no text."""
    return _marked(text).encode("utf-8", _BYTES)


def together(texts: Sequence[str]) -> str:
    """The text that tokens make: characters that lie over several of them are whole."""
    return _joined(texts)[0]


def wholes(texts: Sequence[str]) -> tuple[str, Spans, list[int]]:
    """The text that tokens make, the smallest runs of tokens that hold whole characters (grapheme
    clusters of Unicode: a flag or a letter with its accents is one), and where in it each run begins.
    """
    text, starts = _joined(texts)
    edges = {match.start() for match in regex.finditer(r"\X", text)} | {len(text)}
    cuts = [t for t, start in enumerate(starts[:-1]) if start in edges]
    return text, tuple(pairwise([*cuts, len(texts)])), [starts[t] for t in cuts]


def _joined(texts: Sequence[str]) -> tuple[str, list[int]]:
    """The whole text, and where each token begins in it (-1: inside a character); last, its end."""
    marked = [_marked(text) for text in texts]
    characters: list[str] = []
    places: list[int] = []
    at = 0
    for part in _PARTS.findall("".join(marked)):
        if part[0] < "\udc80" or part[0] > "\udcff":
            places += range(at, at + len(part))
            characters.append(part)
            at += len(part)
            continue
        for char in part.encode("utf-8", _BYTES).decode("utf-8", _BYTES):
            places += [at] + [-1] * (len(char.encode("utf-8", _BYTES)) - 1)
            characters.append(_spelled(char))
            at += len(characters[-1])
    places.append(at)
    return "".join(characters), [places[i] for i in accumulate(map(len, marked), initial=0)]


def _marked(text: str) -> str:
    return BYTE.sub(_mark, text) if "<0x" in text else text


def _mark(match: re.Match[str]) -> str:
    byte = int(match[1], 16)
    return chr(byte if byte < 0x80 else _FIRST_BYTE + byte)


def _spelled(char: str) -> str:
    return f"<0x{ord(char) - _FIRST_BYTE:02X}>" if "\udc80" <= char <= "\udcff" else char
