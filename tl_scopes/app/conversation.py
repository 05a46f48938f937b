"""A conversation with a model: what was said, and the answer that the model writes with what moved it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tl_scopes.app.request import sites_of
from tl_scopes.errors import ScopeParameterError, check_choice
from tl_scopes.results.attribution import SequenceAttribution
from tl_scopes.scopes.base import NEXT_TOKEN, Scope
from tl_scopes.scopes.prediction import FisherScope, SemanticScope, TemperatureScope

MAX_LENGTH = 500
# What can be asked of each token that is written; its `repr` is Python.
SCOPES: dict[str, Scope] = {
    "the logit of the token": SemanticScope(NEXT_TOKEN),
    "the model's confidence": TemperatureScope(),
    "the whole distribution": FisherScope(rank=1),
}


@dataclass(frozen=True)
class Reply:
    """An answer: what moved each of its tokens, its text without special tokens, and what the model was given."""

    result: SequenceAttribution
    text: str
    prompt: str | list[dict[str, str]]


@dataclass(frozen=True)
class Conversation:
    """What was said so far, whose last message the model answers. Equal ones have equal answers.

    `messages`: (role, text) pairs. `length`: the answer's most tokens, 1 to 500. `temperature`, `seed`:
    as in `tl_scopes.attribute_generation`. `scope`: one of `SCOPES`. `sites`: as in `Request`.
    """

    messages: tuple[tuple[str, str], ...]
    model: str
    length: int = 64
    temperature: float = 0.0
    seed: int = 0
    scope: str = next(iter(SCOPES))
    sites: str = "embed"

    def check(self) -> None:
        """Raises the package's errors for what can be told without a model."""
        check_choice("scope", self.scope, SCOPES)
        sites_of(self.sites)
        if not 1 <= self.length <= MAX_LENGTH:
            raise ScopeParameterError(
                f"an answer of {self.length} tokens was asked for; allowed here: 1 to {MAX_LENGTH}"
            )

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(text for _, text in self.messages)

    def prompt(self, model: Any) -> str | list[dict[str, str]]:
        """What the model is given: messages, or, without a chat template, a text that goes on."""
        if getattr(model.tokenizer, "chat_template", None):
            return [{"role": role, "content": text} for role, text in self.messages]
        return self.text

    def answered(self, model: Any, on_token: Callable[[Any], None]) -> Reply:
        """The model's answer. `on_token` is called with each token as it is written."""
        import tl_scopes as ts

        prompt = self.prompt(model)
        result = ts.attribute_generation(
            model,
            prompt,
            SCOPES[self.scope],
            sites=sites_of(self.sites),
            max_new_tokens=self.length,
            temperature=self.temperature,
            seed=self.seed,
            on_token=on_token,
        )
        answer = result.tokens[result.answer_start :]
        text = model.tokenizer.decode(answer, skip_special_tokens=True)
        return Reply(result, text, prompt)

    def said(self, role: str, text: str) -> Conversation:
        """The conversation with one message more."""
        return replace(self, messages=(*self.messages, (role, text)))
