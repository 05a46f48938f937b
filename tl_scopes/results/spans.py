"""Which tokens belong together: words, sentences, lines, or the texts and ranges that a user gives.

All are looked for in the text that the prompt's tokens make. No span parts a character (a grapheme
cluster of Unicode): tokens that hold one together, such as those of an emoji, stay together. A token
is not parted either: it belongs to the sentence or line that it begins in.

A message of a conversation is its turn: what it says, and the template around that; a role is the
messages in a row that have it. Words, lines and sentences of a conversation do not reach over from
what a message says into the template, nor into another message.

A word is what `word_spans` says. A line ends after its line breaks. A sentence ends at a line break,
after `.`, `!`, `?` or `…` with a space behind, unless a small letter follows a stop, and after the
full stops of other scripts (Unicode's `Sentence_Break`): "Dr. Who" is two.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import regex

from tl_scopes.errors import PositionError, ScopeParameterError
from tl_scopes.results.characters import BYTE, Spans, wholes
from tl_scopes.results.records import Chat

_SPACES, _APOSTROPHES = " ▁", "'’"
# Half of a character that cannot be made whole.
_LOST = "\ufffd"
# Python's own tables of characters are as old as Python: regex has the newer emoji.
_SYMBOL = regex.compile(r"[\p{So}\p{Sk}]")
# Combining marks, variation selectors and joiners, which are nothing alone; skin tones.
_MARK = regex.compile("[\\p{M}\u200c\u200d\U0001f3fb-\U0001f3ff]")
# Written without spaces between words.
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
)
# Characters of context around a text that stands twice, until it stands once.
_MORE = (8, 16, 32, 64, 128)
_BREAK = r"[\n\v\f\r\x85\u2028\u2029]"
_CLOSED = r"[\p{Pe}\p{Pf}\"']*"
_ENDS = {
    "line": regex.compile(f"{_BREAK}+"),
    "sentence": regex.compile(
        rf"(?:(?:[!?]+[.…!?]*|[.…]+[!?][.…!?]*|[.…]+(?!{_CLOSED}\s+\p{{Ll}})){_CLOSED}(?=\s|$)"
        rf"|[^\P{{SB=ST}}!?]+{_CLOSED})(?:[^\S\n]*{_BREAK}+)?|{_BREAK}+"
    ),
}
_TURNS: dict[str, Callable[[Chat, int], Any]] = {
    "message": lambda chat, t: chat.messages[t],
    "role": lambda chat, t: chat.role_of(t),
    "content": lambda chat, t: (chat.messages[t], chat.is_content[t]),
}
_ALLOWED = (
    'allowed: "word", "sentence", "line", of a conversation also "message", "role" and "content", or a '
    "list of texts in the prompt, of token ranges "
    "(start, end) and of characters in a text (text, start, end)"
)


def found_spans(texts: Sequence[str], has_bos: bool, by: Any, chat: Chat | None = None) -> Spans:
    """The token ranges that `by` of `Attribution.group` names, in the prompt that `texts` make."""
    if isinstance(by, str) and by in _TURNS:
        return _turns(texts, has_bos, by, chat)
    if isinstance(by, str) and (by == "word" or by in _ENDS):
        spans = word_spans(texts, has_bos) if by == "word" else _parts(texts, has_bos, by)
        if chat is None:
            return spans
        parts = [*spans, *_turns(texts, has_bos, "content", chat)]
        return tuple(pairwise(sorted({edge for span in parts for edge in span})))
    asked, runs = _asked(texts, has_bos, by)
    return _filled(asked, runs)


def one_span(texts: Sequence[str], has_bos: bool, span: Any) -> tuple[int, int]:
    """The token range of one text in the prompt, of a range, or of characters in a text.

    Raises as `found_spans` does for a list of it.
    """
    asked, runs = _asked(texts, has_bos, [span])
    _filled(asked, runs)
    ((start, end, _),) = asked
    return start, end


def _asked(
    texts: Sequence[str], has_bos: bool, by: Any
) -> tuple[list[tuple[int, int, str]], Spans]:
    """The spans that a user gave (start, end, what they are called), and the runs of whole characters."""
    text, runs, starts = _laid(texts, has_bos)
    after = len(texts[0]) if has_bos else 0
    asked: list[tuple[int, int, str]] = []
    for part, start, end in _entries(by):
        if part is None:
            asked.append((start, end, f"({start}, {end})"))
            continue
        at = _place(text, part, start, end, after)
        first, last = bisect_right(starts, at + start) - 1, bisect_left(starts, at + end)
        span = runs[first][0], runs[last - 1][1]
        asked.append((*span, f"{part[start:end]!r} at {span}"))
    return asked, runs


def _entries(by: Any) -> list[tuple[str | None, int, int]]:
    """Each span that a user gave: the text that it is counted in (None: in tokens), start and end."""
    made: list[tuple[str | None, int, int]] = []
    try:
        if isinstance(by, str):
            raise TypeError
        for entry in by:
            whole = isinstance(entry, str)
            *within, start, end = (entry, 0, len(entry)) if whole else entry
            part = within[0] if within else None
            if len(within) > 1 or (within and not (isinstance(part, str) and part)):
                raise TypeError
            made.append((part, operator.index(start), operator.index(end)))
    except (TypeError, ValueError):
        raise ScopeParameterError(f"by is {by!r}; {_ALLOWED}") from None
    for part, start, end in made:
        if part is not None and not 0 <= start < end <= len(part):
            raise PositionError(
                f"({start}, {end}) is not a range of characters in {part!r}; allowed: "
                f"0 <= start < end <= {len(part)}"
            )
    return made


def checked_spans(spans: Any, n: int) -> Spans:
    """Ranges of token positions in order, and each of the `n` tokens outside them alone. Raises as
    `group` does."""
    try:
        asked = [(operator.index(a), operator.index(b)) for a, b in spans]
    except (TypeError, ValueError):
        raise ScopeParameterError(
            f"spans are {spans!r}; allowed: a list of token ranges (start, end)"
        ) from None
    return _filled([(a, b, f"({a}, {b})") for a, b in asked], tuple((t, t + 1) for t in range(n)))


def _filled(asked: list[tuple[int, int, str]], runs: Spans) -> Spans:
    """The spans `asked` (start, end, what they are called) in order, and what of `runs` is left."""
    n, edges, held = runs[-1][1], {start for start, _ in runs}, set[int]()
    asked = sorted(asked)
    for start, end, name in asked:
        if not 0 <= start < end <= n:
            raise PositionError(
                f"span {name} is not a range of tokens; allowed: 0 <= start < end <= {n}, "
                "where end is the first token that it does not hold"
            )
        parted = [t for t in (start, end) if t < n and t not in edges]
        if parted:
            whole = next(run for run in runs if run[0] < parted[0] < run[1])
            raise ScopeParameterError(
                f"span {name} parts a character, whose tokens are {whole}: take all of them or none"
            )
        held.update(range(start, end))
    for (_, end, name), (start, _, other) in pairwise(asked):
        if start < end:
            raise ScopeParameterError(
                f"spans {name} and {other} overlap; a token can be in one only (end is the first "
                "token that a span does not hold)"
            )
    spans = [(start, end) for start, end, _ in asked]
    return tuple(sorted([*spans, *(run for run in runs if run[0] not in held)]))


def _laid(texts: Sequence[str], has_bos: bool) -> tuple[str, Spans, list[int]]:
    """As `characters.wholes` of all tokens, with BOS always one for itself."""
    if not has_bos:
        return wholes(texts)
    bos, *rest = texts
    text, runs, starts = wholes(rest)
    moved = ((start + 1, end + 1) for start, end in runs)
    return bos + text, ((0, 1), *moved), [0, *(len(bos) + start for start in starts)]


def _place(text: str, part: str, start: int, end: int, after: int) -> int:
    """Where in `text` the only `part` begins, of which `start` to `end` is meant. `after`: BOS's end."""
    places = _places(text, part, after)
    if not places:
        raise ScopeParameterError(
            f"{part!r} does not stand in the prompt, which is {_short(text[after:])}: give a text as "
            "it is written there, or token ranges"
        )
    if len(places) > 1:
        at, ways = places[1], "give token ranges (start, end)"
        for more in _MORE:
            first = max(at - more, after)
            within = text[first : at + len(part) + more]
            if len(_places(text, within, after)) == 1:
                hint = within, at - first + start, at - first + end
                ways = f"say which by the text around it, as in {hint!r}, or give token ranges"
                break
        raise ScopeParameterError(f"{part!r} stands in the prompt more than once: {ways}")
    return places[0]


def _places(text: str, part: str, after: int) -> list[int]:
    """The first two places of `part`. What begins inside BOS is none, unless it goes on behind a BOS
    that it holds whole."""
    places = [0] if len(part) > after > 0 and text.startswith(part) else []
    at = text.find(part, after)
    while at >= 0 and len(places) < 2:
        places.append(at)
        at = text.find(part, at + 1)
    return places


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}..."


def _parts(texts: Sequence[str], has_bos: bool, kind: str) -> Spans:
    """The prompt's lines or sentences; BOS stays alone."""
    text, runs, starts = _laid(texts, has_bos)
    first = int(has_bos)
    begin = len(texts[0]) if first else 0
    cuts = {bisect_left(starts, match.end()) for match in _ENDS[kind].finditer(text, begin)}
    edges = sorted({0, first, *cuts, len(runs)})
    return tuple((runs[a][0], runs[b - 1][1]) for a, b in pairwise(edges))


def _turns(texts: Sequence[str], has_bos: bool, kind: str, chat: Chat | None) -> Spans:
    """The prompt's messages, or parts of them; BOS stays alone."""
    if chat is None:
        raise ScopeParameterError(
            f"by is {kind!r}, but the prompt was text or token ids, which have no messages: give a list of "
            f"messages as the prompt; {_ALLOWED}"
        )
    _, runs, _ = _laid(texts, has_bos)
    # Tokens of one character stay together, in the turn that it begins in.
    keys = [_TURNS[kind](chat, start) for start, _ in runs]
    first = int(has_bos)
    edges = [k for k in range(first + 1, len(runs)) if keys[k] != keys[k - 1]]
    return tuple(
        (runs[a][0], runs[b - 1][1]) for a, b in pairwise(sorted({0, first, *edges, len(runs)}))
    )


def word_spans(texts: Sequence[str], has_bos: bool) -> Spans:
    """The token ranges of words, from the tokens' texts alone.

    A token that begins with a space begins a word, and so does one that follows whitespace,
    punctuation or a special token. Whitespace, punctuation, symbols and special tokens stay alone,
    as each is a token; so does BOS. These belong to their neighbours: a lone space to the word that it
    introduces, an apostrophe between letters, an underscore, the tokens of one character. In scripts
    without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each token is a word, or the
    smallest run of tokens that holds whole characters.
    """
    text, runs, places = _laid(texts, has_bos)
    texts = [BYTE.sub(_LOST, text[a:b]) for a, b in pairwise([*places, len(text)])]
    starts = [0]
    for t in range(1, len(texts)):
        after = texts[t + 1] if t + 1 < len(texts) else ""
        alone = t == 1 and has_bos
        if alone or not _is_one(texts[t - 1], texts[t], after, starts[-1] < t - 1):
            starts.append(t)
    return tuple((runs[a][0], runs[b - 1][1]) for a, b in pairwise([*starts, len(texts)]))


def _is_one(before: str, text: str, after: str, inside: bool) -> bool:
    """Whether `text` goes on with the word that `before` is, or ends. `inside`: of several parts."""
    if not text or not before:
        return not before and bool(text) and not text[0].isspace()
    # A mark, as an accent, is of the kind of what it stands on.
    last = next((char for char in reversed(before) if not _MARK.match(char)), before[-1])
    first = text[0]
    if first.isspace() or first == "▁":
        return False
    if before in _SPACES:
        return _in_word(first) or _SYMBOL.match(first) is not None
    if last == _LOST and first == _LOST:
        return True
    if _MARK.match(first):
        return not last.isspace()
    if _UNSPACED.match(last) or _UNSPACED.match(first):
        return False
    if first in _APOSTROPHES and last.isalpha():
        return (text[1:2] or after[:1]).isalpha()
    if before in _APOSTROPHES and inside:
        return first.isalpha()
    return _in_word(last) and _in_word(first)


def _in_word(char: str) -> bool:
    return char.isalnum() or char in ("_", _LOST) or _MARK.match(char) is not None
