"""What a hurried user gets wrong, and the one kind of error that answers it."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo
from tl_scopes.errors import (
    DoubleBosError,
    EmptyPromptError,
    PromptError,
    PromptTooLongError,
    ScopesError,
)

LAST = zoo.D_VOCAB - 1


def refused(call: Callable[[], object], error: type[ScopesError], *words: str) -> str:
    """`call` raises exactly `error`, whose one message has every word, and drags no inner exception along."""
    with pytest.raises(error) as caught:
        call()
    found = caught.value
    assert type(found) is error
    message = str(found)
    assert "\n" not in message and len(message) > 30
    missing = [w for w in words if not re.search(w, message)]
    assert not missing, f"{missing} not in: {message}"
    assert found.__cause__ is None and (found.__context__ is None or found.__suppress_context__)
    return message


PROMPTS = {
    "empty text": ("", EmptyPromptError, "empty", "give"),
    "no ids": ([], EmptyPromptError, "no tokens", "give"),
    "list of lists": ([[1, 5], [1, 6]], PromptError, "list", "allowed", "attribute_batch"),
    "list of words": (["The", "cat"], PromptError, "list", "allowed", "attribute_batch"),
    "float ids": ([1.0, 2.0], PromptError, "list", "int"),
    "float array": (np.array([1.0, 2.0]), PromptError, "ndarray", "int"),
    "float tensor": (torch.tensor([1.0]), PromptError, "float32", "integer"),
    "bool tensor": (torch.tensor([True]), PromptError, "bool", "integer"),
    "two rows": (torch.zeros(2, 3, dtype=torch.long), PromptError, r"\(2, 3\)", "attribute_batch"),
    "scalar tensor": (torch.tensor(3), PromptError, r"\[pos\]"),
    "None": (None, PromptError, "NoneType", "allowed"),
    "number": (7, PromptError, "int", "allowed"),
    "float": (3.0, PromptError, "float", "allowed"),
    "bytes": (b"\x05\x06", PromptError, "bytes", "allowed"),
    "set": ({5, 6}, PromptError, "set", "allowed"),
    "id too large": ([5, 10**6], PromptError, "1000000", f"0 to {LAST}"),
    "negative id": ([-1], PromptError, "-1", f"0 to {LAST}"),
    "too long": ([5] * 33, PromptTooLongError, "33", "32", "shorten"),
    "two BOS": ([0, 0, 5], DoubleBosError, "two BOS", "id 0", "drop"),
    "messages": ([{"role": "user", "content": "The"}], PromptError, "chat_template", "give one"),
    "a message": ({"role": "user", "content": "The"}, PromptError, "one message", "list"),
    "BOS text": ("<bos>The", DoubleBosError, "two BOS", "prepend_bos=False"),
}
TARGETS = {
    "empty": ("", "''", "no token|one token", "id"),
    "two tokens": ("The cat", "2 tokens", r"\['The', ' cat'\]", "give"),
    "pieces": (zoo.SPLIT_WORD, "4 tokens", "' Paris', 'i', 'a', 'n'", "give"),
    "space helps": ("capital", "7 tokens", "' capital', with a leading space, is one token"),
    "unknown": ("Qqq", "'Qqq'", "one known token"),
    "id -1": (-1, "-1", f"0 to {LAST}"),
    "id too large": (10**9, "1000000000", f"0 to {LAST}"),
    "bool": (True, "True", "bool", "token id"),
    "float": (3.0, "3.0", "float", "token id"),
    "list": ([1], r"\[1\]", "list"),
    "array": (np.array([1, 2]), "ndarray"),
    "next": (ts.NEXT_TOKEN, "NEXT_TOKEN", "earlier position"),
}
