"""A vocabulary's entries as text, each by itself, and the entry that a text names.

Decoding one token alone loses what only its neighbours would complete: part of a character becomes
U+FFFD, and decoders of SentencePiece's kind (Llama 2's, Mistral's) drop a leading space. Here both
come from the entry's own spelling in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tl_scopes.results import characters

# How SentencePiece writes a space.
SPACE = "▁"
_LOST = "\ufffd"


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level vocabularies (GPT-2's kind) write for each byte, and that byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): b for i, b in enumerate(rest)}


_BYTE_OF = _byte_letters()
_LETTER_OF = {byte: letter for letter, byte in _BYTE_OF.items()}


def texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each of `ids` adds to a text that goes on; part of a character as `characters.shown`."""
    alone = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    return [_text(tokenizer, piece, text) for piece, text in zip(pieces, alone)]


def find(tokenizer: Any, text: str) -> int | None:
    """The entry that `text` is, or None. " in" begins a word and "in" goes on in one, in every
    vocabulary: also where the tokenizer puts a space before all that it is given."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if adds_space(tokenizer, text, ids) or characters.BYTE.search(text):
        return _spelled(tokenizer, text)
    unknown = getattr(tokenizer, "unk_token_id", None)
    if text == getattr(tokenizer, "unk_token", None):
        unknown = None  # it may be a real token too: GPT-2's is its end of text
    return int(ids[0]) if len(ids) == 1 and ids[0] != unknown else None


def adds_space(tokenizer: Any, text: str, ids: Sequence[int]) -> bool:
    """Whether `ids`, the tokens of `text`, say a space more in front than `text` does."""
    return characters.together(texts(tokenizer, ids)) == " " + text.replace(SPACE, " ")


def _text(tokenizer: Any, piece: Any, alone: str) -> str:
    if isinstance(piece, bytes):
        return characters.shown(piece)
    if not piece:
        return alone  # an id beyond the vocabulary's last, where the model is padded
    if characters.BYTE.fullmatch(piece):
        # A whole character is shown as such, unless another entry is that character. Not what a decoder
        # makes of it alone: some drop a space in front.
        whole = characters.shown(characters.data_of(piece))
        return piece if _entry(tokenizer, whole.replace(" ", SPACE)) is not None else whole
    if _LOST in alone and _LOST not in piece:
        added = piece in tokenizer.get_added_vocab()  # taken from the text as it stands
        if not added and _BYTE_OF.keys() >= set(piece):
            return characters.shown(bytes(_BYTE_OF[letter] for letter in piece))
        return piece if added else alone
    if piece.startswith(SPACE):
        # What one more of them adds: the spaces that a decoder drops are those in front.
        fewer, more = (tokenizer.convert_tokens_to_string([piece] * n) for n in (2, 3))
        added = more.removeprefix(fewer)
        return added if added.strip(" ") == alone.strip(" ") else alone
    return alone


def _spelled(tokenizer: Any, text: str) -> int | None:
    """The entry whose own text is `text`, whatever the tokenizer would make of it."""
    meant = text.replace(SPACE, " ")
    for piece in _spellings(text):
        found = _entry(tokenizer, piece)
        if found is not None and texts(tokenizer, [found])[0] == meant:
            return found
    return None


def _spellings(text: str) -> Iterator[str]:
    yield text.replace(" ", SPACE)
    data = characters.data_of(text)
    yield "".join(_LETTER_OF[byte] for byte in data)
    if len(data) == 1:
        yield f"<0x{data[0]:02X}>"


def _entry(tokenizer: Any, piece: str) -> int | None:
    found = tokenizer.convert_tokens_to_ids(piece)
    if found is None or tokenizer.convert_ids_to_tokens(found) != piece:
        return None
    return int(found)
