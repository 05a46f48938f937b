"""How text comes out in a figure: which characters a font has, how long it is, where it is cut or broken.

Everything is measured as it is drawn. A character that no installed font has is drawn as its escape,
six letters or ten, so that what fits is not known before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from matplotlib import font_manager, ft2font
from rich.cells import cell_len

from tl_scopes.render.tokens import clipped
from tl_scopes.results.escapes import FIRST, LAST, escape, units, without_isolates

# Families that draw what DejaVu Sans cannot; those that are installed are used, in this order.
FAMILIES = (
    "DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP",
    "Noto Sans SC", "Noto Sans KR", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Emoji",
    "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic",
    "Segoe UI Symbol", "Arial Unicode MS",
)  # fmt: skip
# Of a token's label: characters, and how many letters they may take where some are wide or escapes.
TOKEN, MOST_CELLS = 14, 26
LETTER = 0.075  # inches, of the labels of tokens
# Older versions of matplotlib put letters in their order of writing, and have a glyph for all others.
_ORDERS_LETTERS = hasattr(ft2font, "__libraqm_version__")


def drawable(content: str) -> str:
    """Characters that no installed font has become escapes: matplotlib would warn for each."""
    content = content if _ORDERS_LETTERS else without_isolates(content)
    return "".join(char if _has_glyph(char) else escape(char) for char in content)


def cells(content: str) -> int:
    """How many letters wide a line is as it is drawn: some characters are two."""
    return cell_len(without_isolates(drawable(content)))


def cut(content: str, most: int, start: bool = False) -> str:
    """`content` as it is drawn, in `most` cells: its beginning with an ellipsis, or (`start`) its end.

    Escapes stay whole, and marks stay on their letters.
    """
    shown = drawable(content)
    if cells(shown) <= most:
        return shown
    shown = without_isolates(shown)
    parts = units(shown[-4 * most :] if start else shown[: 4 * most])
    while len(parts) > 1 and cells("".join(parts)) > most - 1:
        parts.pop(0 if start else -1)
    return "…" + "".join(parts) if start else "".join(parts) + "…"


def token(text: str, most: int = TOKEN, wide: int = MOST_CELLS) -> str:
    """The label of a token: at most `most` characters, no wider than `wide` letters."""
    return cut(clipped(text, most), wide)


def tokens(texts: Sequence[str]) -> list[str]:
    """The labels of `texts`."""
    return [token(text) for text in texts]


def room(labels: Sequence[str], usual: int = TOKEN) -> float:
    """Inches that the longest of `labels` takes, beyond those that figures leave for `usual` letters."""
    return LETTER * max(max(map(cells, labels), default=0) - usual, 0)


def beyond(content: str, width: int) -> int:
    """How many more lines of `width` letters `content` takes than its length says."""
    return -(-max(cells(content) - len(content), 0) // width)


def broken(content: str, width: int, after: str = " ") -> list[str]:
    """Lines of `content` as it is drawn, at most `width` cells each, that end `after` a space, or after
    another of these characters, where possible."""
    lines: list[str] = []
    shown = " ".join(drawable(content).split())
    for word in re.findall(f"[^{after}]*[{after}]*", shown):
        for i, piece in enumerate(_chopped(word, width)):
            if i == 0 and lines and cells((lines[-1] + piece).rstrip()) <= width:
                lines[-1] += piece
            else:
                lines.append(piece)
    lines = [line.rstrip() for line in lines if line.strip()]
    inside = 0  # an isolate ends with its line, and goes on in the next one
    for i, line in enumerate(lines):
        line = FIRST * inside + line
        inside = line.count(FIRST) - line.count(LAST)
        lines[i] = line + LAST * inside
    return lines


def balanced(content: str, width: int) -> list[str]:
    """In as few lines as `width` allows, none much shorter than the others."""
    lines = broken(content, width)
    while width > 1 and len(narrower := broken(content, width - 1)) == len(lines):
        lines, width = narrower, width - 1
    return lines


def wrapped(parts: Sequence[str], width: int, between: str) -> list[str]:
    """Lines of at most `width` cells, broken between `parts` where that is possible."""
    lines: list[str] = []
    for part in parts:
        for piece in broken(part, width) if cells(part) > width else [drawable(part)]:
            if lines and cells(lines[-1]) + len(between) + cells(piece) <= width:
                lines[-1] += between + piece
            else:
                lines.append(piece)
    return lines


def _chopped(word: str, width: int) -> list[str]:
    if cells(word.rstrip()) <= width:
        return [word]
    pieces = [""]
    for unit in units(word):
        if pieces[-1] and cells((pieces[-1] + unit).rstrip()) > width:
            pieces.append("")
        pieces[-1] += unit
    return pieces


@lru_cache(maxsize=1)
def fonts() -> list[str]:
    """Naming a family that is not installed would make matplotlib warn at every text."""
    installed = set(font_manager.fontManager.get_font_names())
    return [name for name in FAMILIES if name in installed]


@lru_cache(maxsize=4096)
def _has_glyph(char: str) -> bool:
    if char in ("\n", FIRST, LAST):
        return True
    paths = (font_manager.findfont(name) for name in fonts())
    return any(font_manager.get_font(path).get_char_index(ord(char)) for path in paths)
