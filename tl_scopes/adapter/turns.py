"""Whose each part is of a text that a chat template wrote.

The template is rendered a second time with marks (private characters) around the words of every
message. Without its marks that text must be the first one, letter by letter; so it is known exactly
where each message stands, also where two say the same, where a template strips, quotes or drops parts
of what they say, or writes them in another order. Text around them belongs to the message of its turn:
what follows message i when nothing comes after it is i's, and so is what the template writes in front
of a message of its role. What neither says, such as a system message of the template's own, is no
message's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tl_scopes.errors import PromptError

ANSWER = "assistant"
# Roles whose last message is gone on with; Gemma's own name is the second.
ANSWERS = (ANSWER, "model")
# What a message says, beside its tool calls.
_SAID = ("content", "reasoning_content", "reasoning", "thinking")
# The last character of the last private plane; two a message, counted down.
_LAST_MARK = 0x10FFFD
_MOST = 0x7F00
# Templates look for tags and cut there (`</think>`): no mark is put beside one.
_TAG = r"<[^<>\s]*>"
_WORDS = rf"{_TAG}|((?:(?!{_TAG})\S)+)"
_INNER = re.compile(_WORDS)
_WHOLE = re.compile(rf"(^(?:\s|{_TAG})+|(?:\s|{_TAG})+\Z)|{_WORDS}")
_ASKED = {"role": "user", "content": "Why?"}
_ANSWERED = {"role": ANSWER, "content": "So."}

Message = Mapping[str, Any]
# Where a word stands in a text (start, end), and the message that says it.
Piece = tuple[int, int, int]
# Messages as the template writes them: `chat.Template.render`.
Render = Callable[..., str]


class Turns:
    """The messages of a conversation in `text`, which `render(messages, goes_on=True)` gave.

    Raises `PromptError` where it cannot be told which part of it is whose.
    """

    def __init__(
        self, render: Render, messages: Sequence[Message], text: str, is_continued: bool
    ) -> None:
        self.render, self.messages, self.text = render, messages, text
        self.is_continued = is_continued
        self._refuse_marks()
        self.inner = [_with_marks(message, i, _inner) for i, message in enumerate(messages)]
        self.marked, self.pieces = self._found()
        self.present = {i for _, _, i in self.pieces}
        for i, message in enumerate(messages):
            if message.get("content", "").strip() and i not in self.present:
                raise PromptError(
                    f"the chat template leaves out messages[{i}], of the role {message['role']!r}: take "
                    "it out, or give it a role that the template knows"
                )

    def owners(self) -> tuple[list[int], list[bool]]:
        """For each character the message that it belongs to (-1: none; the number of messages: the
        answer that the template asks for), and whether it stands in what the message says."""
        length = len(self.text)
        owners, is_content = [-1] * length, [False] * length
        before: Piece = (0, 0, -1)
        for start, end, i in [*self.pieces, (length, length, len(self.messages))]:
            gap = slice(before[1], start)
            if i == before[2]:
                said = self.text[before[0] : end]
                owners[gap] = [i] * (start - before[1])
                is_whole = any(said in text for text in _texts(self.messages[i]))
                is_content[gap] = [is_whole] * (start - before[1])
            else:
                owners[gap] = self._between(before[2], i, self.text[gap])
            owners[start:end] = [i] * (end - start)
            is_content[start:end] = [True] * (end - start)
            before = start, end, i
        return owners, is_content

    def _refuse_marks(self) -> None:
        n = len(self.messages)
        if n > _MOST:
            raise PromptError(f"the conversation has {n} messages; allowed: {_MOST} at most")
        taken = next((char for char in self.text if ord(char) in _marks(n + 1)), None)
        if taken is not None:
            raise PromptError(
                f"the conversation holds the private character {taken!a}, by which messages are told "
                "apart here: take it out"
            )

    def _found(self) -> tuple[list[Message], list[Piece]]:
        """The messages with as many marks as leave the text what it is, and where these stand."""
        each = list(enumerate(self.messages))
        more = [[_with_marks(message, i, way) for i, message in each] for way in _MORE]
        ways = [*more, self.inner]
        tries = ((k, marked, self._pieces(marked)) for k, marked in enumerate(ways))
        k, marked, pieces = next((t for t in tries if t[2] is not None), (0, [], None))
        if pieces is None:
            raise PromptError(
                "it cannot be told which part of the conversation's text belongs to which message, as the "
                "chat template writes another text where marks stand in them. Give the conversation as "
                "text, by model.tokenizer.apply_chat_template(messages, tokenize=False), with "
                "prepend_bos=False if that begins with BOS"
            )
        # The template strips some messages, or cuts them; the others may have more marks.
        for i, _ in each:
            for way in ways[:k]:
                tried = [*marked[:i], way[i], *marked[i + 1 :]]
                found = None if way[i] == marked[i] else self._pieces(tried)
                if found is not None:
                    marked, pieces = tried, found
                    break
        return marked, pieces

    def _pieces(self, marked: Sequence[Message]) -> list[Piece] | None:
        try:
            text, pieces = _parted(self.render(marked, goes_on=True), len(marked))
        except PromptError:
            return None
        return pieces if text == self.text else None

    def _between(self, i: int, j: int, text: str) -> list[int]:
        """Whose each character is of what the template writes after message i (-1: at the beginning)
        and before message j (the number of messages: at the end)."""
        n = len(self.messages)
        silent = [k for k in range(i + 1, j) if k not in self.present]
        if j == n and not self.is_continued:
            silent.append(n)
        tails = [""] if i < 0 else self._tails(i)
        heads = [""] if j == n else self._heads(j)
        a = next((len(tail) for tail in tails if text.startswith(tail)), None)
        b = next((text.rindex(head) for head in heads if head in text), None)
        owner = silent[0] if len(silent) == 1 and a is not None and b is not None else -1
        a = a or 0
        b = len(text) if b is None else max(a, b)
        return [i] * a + [owner] * (b - a) + [j] * (len(text) - b)

    def _tails(self, i: int) -> Iterator[str]:
        """What the template may write after message i, when it is the last one."""
        for marked in (self.marked, self.inner):  # of the last one less may be cut
            tail = self._around(marked[: i + 1], i)[1]
            if tail is not None:
                yield tail

    def _heads(self, j: int) -> Iterator[str]:
        """What the template may write before a message like j that is not the first one."""
        asked, answered = (_with_marks(m, len(self.messages), _inner) for m in (_ASKED, _ANSWERED))
        is_answer = self.messages[j]["role"] in ANSWERS
        base, after = ([asked], asked) if is_answer else ([asked, answered], answered)
        tail = self._around(base, len(self.messages), has_tools=False)[1]
        for others in ([after], []):  # of the last one more may be written
            chat = [*base, self.marked[j], *others]
            before = self._around(chat, j, has_tools=False)[0]
            if tail is not None and before is not None and before.startswith(tail):
                yield before.removeprefix(tail)

    def _around(
        self, messages: Sequence[Message], i: int, has_tools: bool = True
    ) -> tuple[str | None, str | None]:
        """Of a shorter conversation: what stands between message i and what is said before it, and
        what after it to the end."""
        try:
            rendered = self.render(messages, has_tools=has_tools)
        except PromptError:
            return None, None
        text, pieces = _parted(rendered, len(self.messages) + 1)
        own = [k for k, piece in enumerate(pieces or ()) if piece[2] == i]
        if not pieces or not own:
            return None, None
        begin = pieces[own[0] - 1][1] if own[0] else 0
        is_last = own[-1] == len(pieces) - 1
        return text[begin : pieces[own[0]][0]], text[pieces[own[-1]][1] :] if is_last else None


def _texts(message: Message) -> list[str]:
    """All that it says."""
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    _each_text(message, keep)
    return found


def _inner(text: str, start: str, end: str) -> str:
    """Marks around its words, but tags."""
    return _marked(_INNER, text, start, end)


def _whole(text: str, start: str, end: str) -> str:
    """Marks around tags and space too that it begins or ends with."""
    return _marked(_WHOLE, text, start, end)


def _stripped(text: str, start: str, end: str) -> str:
    """As `_whole`, but for space around it."""
    first = len(text) - len(text.lstrip())
    last = max(first, len(text.rstrip()))
    return f"{text[:first]}{_whole(text[first:last], start, end)}{text[last:]}"


_MORE = (_whole, _stripped)


def _marked(words: re.Pattern[str], text: str, start: str, end: str) -> str:
    def mark(match: re.Match[str]) -> str:
        is_tag = match.lastindex is None
        return match[0] if is_tag else f"{start}{match[0]}{end}"

    return words.sub(mark, text)


def _with_marks(message: Message, i: int, way: Callable[[str, str, str], str]) -> Message:
    start, end = chr(_LAST_MARK - 2 * i), chr(_LAST_MARK - 2 * i - 1)
    return _each_text(message, lambda text: way(text, start, end))


def _each_text(message: Message, change: Callable[[str], str]) -> Message:
    """The message with each text that it says changed."""
    made = dict(message)
    for key in _SAID:
        if isinstance(made.get(key), str):
            made[key] = change(made[key])
    if made.get("tool_calls"):
        made["tool_calls"] = _leaves(made["tool_calls"], change)
    return made


def _leaves(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):  # a call's kind and number are not said
        return {k: v if k in ("id", "type") else _leaves(v, change) for k, v in value.items()}
    return [_leaves(v, change) for v in value] if isinstance(value, (list, tuple)) else value


def _marks(n: int) -> range:
    """The characters that mark `n` messages."""
    return range(_LAST_MARK - 2 * n + 1, _LAST_MARK + 1)


def _parted(text: str, n: int) -> tuple[str, list[Piece] | None]:
    """A text without its marks, and where the words of `n` messages stand in it; None for these where
    a mark lacks its other half."""
    marks = _marks(n)
    plain: list[str] = []
    pieces: list[Piece] = []
    at, opened, is_whole = 0, None, True
    for part in re.split(f"([{chr(marks[0])}-{chr(marks[-1])}])", text):
        if len(part) != 1 or ord(part) not in marks:
            plain.append(part)
            at += len(part)
            continue
        i, is_end = divmod(_LAST_MARK - ord(part), 2)
        is_whole &= (opened is None) if not is_end else (opened is not None and opened[1] == i)
        if is_end and opened is not None:
            pieces.append((opened[0], at, i))
        opened = None if is_end else (at, i)
    return "".join(plain), pieces if is_whole and opened is None else None
