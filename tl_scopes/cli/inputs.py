"""What `tl-scopes attribute` explains, and of which prompt: options made into scopes, texts and messages."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_scopes.baselines import named
from tl_scopes.cli.options import bad, items
from tl_scopes.errors import EmptyPromptError, PromptError, ScopeParameterError
from tl_scopes.models.quiet import say
from tl_scopes.rules import GIM, Rules

# What --rules may name, and the field of `Rules` that it is for.
_PARTS = {
    "attention": "split_products",
    "mlp": "split_products",
    "norms": "frozen",
    "patterns": "frozen",
}


def scope_of(
    named_as: str,
    given: Mapping[str, str | int | None],
    position: int | None = None,
    *,
    follows: bool = False,
    writes: bool = False,
) -> Any:
    """The scope or method that the options describe.

    `position`: None where it is not given. `follows`, `writes`: with `--next`, `--generate`. Raises
    `ScopeParameterError` or BadParameter.
    """
    from tl_scopes.scopes.base import NEXT, Scope, target_from

    name, colon, _ = named_as.partition(":")
    try:
        taken = named.takes(name)
    except ScopeParameterError as error:
        raise bad("--scope", str(error)) from None
    typed = {option: f"--{option}" for option in given}
    if follows or (writes and "target" in taken):
        given, typed["target"] = {**given, "target": NEXT}, "--next"
        position = -2 if position is None else position
    spans = "continuation" in taken and (
        name == "continuation" or given["continuation"] is not None
    )
    for option, value in given.items():
        if value is None or option in taken or (spans and option == "versus"):
            continue
        users = [other for other in named.names() if option in named.takes(other)]
        raise ScopeParameterError(
            f"{typed[option]} means nothing to {name}: drop it, or use --scope " + ", ".join(users)
        )
    if spans and given["target"] is not None:
        raise bad(typed["target"], "--continuation says what is explained: drop one of the two")
    if spans and position is not None:
        raise bad("--position", "a continuation is read from the prompt's end on: drop it")
    if spans and given["continuation"] is None and not colon:
        raise ScopeParameterError(f"--scope {name} needs a text: add --continuation TEXT")
    if "versus" in taken and given["versus"] is None and not spans:
        raise ScopeParameterError(f"--scope {name} needs a second token: add --versus TOKEN")
    if "samples" in taken and given["seed"] is not None and given["samples"] is None:
        raise ScopeParameterError(
            "--seed is for --samples, which is missing: add it or drop --seed"
        )
    values: dict[str, Any] = dict(given)
    for option in () if spans else ("target", "versus"):
        text = values[option]
        if text == NEXT and position in (None, -1):
            raise bad(
                typed[option], f"{NEXT} is the token after the read position: add --position -2"
            )
        values[option] = target_from(text, f"--{option}")
    if values["rank"] is not None:
        values["rank"] = rank = named.number(values["rank"])
        if isinstance(rank, str) and rank != "full":
            raise bad("--rank", f"{rank!r}; give a whole number, a share such as 0.9, or full")
    method = named.made(named_as, values)
    if writes and (spans or not isinstance(method, Scope)):
        raise bad(
            "--generate",
            f"{name} does not explain token by token: use semantic, fisher or temperature",
        )
    return method


def rules_of(text: str) -> Rules:
    """The gradient rules that `--rules` names. Raises BadParameter."""
    if text == "gim":
        return GIM()
    given: dict[str, Any] = {}
    for part in items("--rules", text):
        name, _, value = part.partition(":")
        temperature = named.number(value)
        if name == "softmax" and isinstance(temperature, (int, float)):
            given["softmax_temperature"] = temperature
        elif part in _PARTS:
            given.setdefault(_PARTS[part], []).append(part)
        else:
            raise bad(
                "--rules",
                f"{part!r} is not allowed; give gim, or some of softmax:2 (a temperature), {', '.join(_PARTS)}, "
                "with commas between",
            )
    try:
        return Rules(**given)
    except ScopeParameterError as error:
        raise bad("--rules", str(error)) from None


def prompt_of(text: str | None, chat: str | None) -> Any:
    """The prompt: text, or the messages of a JSON file. `-` is stdin.

    Raises BadParameter, `EmptyPromptError` or `PromptError`.
    """
    if text is None and chat is not None:
        return _messages(chat)
    if text is None or chat is not None:
        both = "" if text is None else "; both were given"
        raise ScopeParameterError(f"give one prompt: PROMPT, or --chat FILE{both}")
    try:
        if text == "-":
            # The line break that echo, editors and heredocs add: it is no part of the prompt.
            text = _stdin().decode("utf-8").removesuffix("\n").removesuffix("\r")
        text.encode("utf-8")
    except UnicodeError as error:
        raise PromptError(f"the prompt is not UTF-8 text ({error}): convert it first") from None
    if not text:
        raise EmptyPromptError("the prompt is empty: give some text, or - to read it from stdin")
    return text


def _messages(path: str) -> Any:
    """What the file holds: a list of messages, or an object with `messages`."""
    try:
        found = json.loads(_stdin() if path == "-" else Path(path).read_bytes())
    except OSError as error:
        raise bad("--chat", f"{path!r} cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # of UTF-8 and of JSON
        raise bad("--chat", f"{path!r} is not JSON ({error})") from None
    if not isinstance(found, (list, dict)):
        raise bad(
            "--chat", f'{path!r} holds no list of messages, {{"role": "user", "content": "..."}}'
        )
    return found


def _stdin() -> bytes:
    if sys.stdin.isatty():
        say("reading the prompt from the terminal; Ctrl-D ends it")
    return sys.stdin.buffer.read()
