"""Texts that are refused before a tokenizer sees them: halves of characters, whole books, messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_scopes.errors import PromptError, PromptTooLongError, ScopesError

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


def refuse_conversation(prompt: Any, tokenizer: Any) -> None:
    """Raises `PromptError` for messages of a chat, which says how they become text."""
    if not is_conversation(prompt):
        return
    raise PromptError(
        "the prompt is a list of messages, not text: "
        + (
            "this model's tokenizer has no chat template, so write them as one text"
            if getattr(tokenizer, "chat_template", None) is None
            else "make text of it by model.tokenizer.apply_chat_template(messages, tokenize=False, "
            "add_generation_prompt=True), and pass prepend_bos=False if that text begins with BOS "
            f"({getattr(tokenizer, 'bos_token', None)!r})"
        )
    )
