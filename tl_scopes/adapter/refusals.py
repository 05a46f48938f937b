"""Texts that are refused before a tokenizer sees them: halves of characters, whole books; and what is no text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_scopes.errors import PromptTooLongError, ScopesError

# Characters; no vocabulary has longer tokens.
LONGEST_TOKEN = 2000
# Ways out in Python; the command line has its own.
ALL_TOGETHER = (
    "give them to ContinuationScope, which has one score for all; attribute_sequence(model, prompt + answer, "
    "SemanticScope(NEXT_TOKEN)) has a result for each"
)
MEND = "mend it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
# A text is known to be too long by its first characters: so many, or for each token of the context.
_LONG = 100_000
_CHARACTERS = 8


def refuse_surrogates(text: str, what: str, error: type[ScopesError]) -> None:
    """Raises `error` where `text` cannot be written in UTF-8, and says how to mend it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as found:
        half = text[found.start]
        raise error(
            f"{what} holds {half!a} at character {found.start}, which is half of a surrogate pair and no "
            "character of its own (text cut apart, or bytes that are not UTF-8): correct it where it "
            f"comes from, or {MEND}"
        ) from None


def refuse_long(text: str, tokenizer: Any, n_ctx: int | None) -> None:
    """Raises `PromptTooLongError` before a whole book is tokenised, whose first pages are too long.

    Texts of ordinary length are for `prompts.encode`, which counts their tokens.
    Not by the longest token of the vocabulary: a token for unknown text may stand for any length.
    """
    n = max(_LONG, _CHARACTERS * (n_ctx or 0))
    while n_ctx is not None and n < len(text):
        count = len(tokenizer(text[:n], add_special_tokens=False, verbose=False)["input_ids"])
        # The last word is cut, and a part of a token may be a token for each of its characters.
        if count > n_ctx + min(n_ctx, LONGEST_TOKEN):
            raise PromptTooLongError(
                f"the prompt has {len(text)} characters, of which the first {n} alone are {count} "
                f"tokens; the model's context is {n_ctx}: shorten it"
            )
        n *= 2


def is_conversation(prompt: Any) -> bool:
    """Whether it is messages, or a message, of a chat."""
    if isinstance(prompt, (list, tuple)) and prompt:
        return isinstance(prompt[0], Mapping) and is_conversation(prompt[0])
    return isinstance(prompt, Mapping) and ("role" in prompt or "messages" in prompt)
