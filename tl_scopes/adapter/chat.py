"""Conversations: messages as a chat template writes them, and which token belongs to which message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tl_scopes.adapter.turns import ANSWER, ANSWERS, Message, Turns
from tl_scopes.errors import EmptyPromptError, PromptError

# What may stand beside messages.
BESIDE = ("tools", "chat_template", "chat_template_kwargs")


@dataclass(frozen=True)
class Written:
    """A conversation as text. For each character: the message it belongs to (-1: none), and whether
    it stands in what the message says. `roles`: of the messages, and of the answer that the template
    asks for."""

    text: str
    roles: tuple[str, ...]
    owners: list[int]
    is_content: list[bool]

    def tokens(self, tokenizer: Any) -> tuple[list[int], list[int], list[bool]]:
        """Ids, and of each its message and whether it holds any of its content. Raises `PromptError`."""
        if not getattr(tokenizer, "is_fast", False):
            raise PromptError(
                f"the model's tokenizer ({type(tokenizer).__name__}) does not tell which characters its "
                "tokens hold, so that messages cannot be told apart: load a fast tokenizer, or give the "
                "conversation as text, by model.tokenizer.apply_chat_template(messages, tokenize=False)"
            )
        made = tokenizer(self.text, add_special_tokens=False, return_offsets_mapping=True)
        owners: list[int] = []
        is_content: list[bool] = []
        before = 0
        for first, end in made["offset_mapping"]:
            # Some tokenizers leave whitespace out of what they say that a token holds.
            start = min(first, before if end > before else first, len(self.text) - 1)
            chars = range(start, max(end, start + 1))
            letters = [c for c in chars if not self.text[c].isspace()] or chars
            said = next((c for c in letters if self.is_content[c]), None)
            owners.append(self.owners[letters[0] if said is None else said])
            is_content.append(said is not None)
            before = end
        return list(made["input_ids"]), owners, is_content


def written(prompt: Any, tokenizer: Any) -> Written:
    """The conversation `prompt` by its own template, or that of the tokenizer.

    Raises `PromptError` or `EmptyPromptError`.
    """
    given: Mapping[str, Any] = prompt if isinstance(prompt, Mapping) else {"messages": prompt}
    if "messages" not in given:
        raise PromptError(
            'the prompt is one message of a chat, {"role": ..., "content": ...}; allowed: a list of '
            "messages. Put it into a list"
        )
    unknown = [key for key in given if key not in ("messages", *BESIDE)]
    if unknown:
        raise PromptError(
            f"the conversation has the keys {', '.join(map(repr, unknown))}; allowed beside 'messages': "
            "'tools', 'chat_template' and 'chat_template_kwargs' (what else the template takes)"
        )
    messages = _checked(given["messages"])
    template = Template(tokenizer, given)
    roles = tuple(str(message["role"]) for message in messages)
    is_continued = roles[-1] in ANSWERS
    text = template.render(messages, goes_on=True)
    owners, is_content = Turns(template.render, messages, text, is_continued).owners()
    return Written(text, roles if is_continued else (*roles, ANSWER), owners, is_content)


def _checked(messages: Any) -> list[dict[str, Any]]:
    """Messages as templates take them: without keys that are None, each content one text."""
    if not isinstance(messages, (list, tuple)):
        raise PromptError(
            f"messages is a {type(messages).__name__}; allowed: a list of messages, "
            '{"role": ..., "content": ...}'
        )
    if not messages:
        raise EmptyPromptError("the conversation has no messages: give at least one")
    found = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            got = (
                f"the keys {', '.join(map(repr, message))}"
                if isinstance(message, Mapping)
                else f"the type {type(message).__name__}"
            )
            raise PromptError(
                f'{where} has {got}; allowed: {{"role": ..., "content": ...}}, whose role is text. '
                "Several conversations: attribute_batch"
            )
        kept = {key: value for key, value in message.items() if value is not None}
        if "content" in kept:
            kept["content"] = _text_of(kept["content"], where)
        elif not kept.get("tool_calls"):
            raise PromptError(f"{where} ({kept['role']!r}) has no content: give it a text")
        found.append(kept)
    return found


def _text_of(content: Any, where: str) -> str:
    """The text of a content; its parts with a space between, as transformers' own server joins them."""
    parts = [content] if isinstance(content, str) else content
    if isinstance(parts, (list, tuple)):
        texts = [p if isinstance(p, str) else _part(p) for p in parts]
        if all(isinstance(text, str) for text in texts):
            return " ".join(map(str, texts))
        wrong = parts[next(k for k, text in enumerate(texts) if text is None)]
        got = f"a part of the type {wrong.get('type') if isinstance(wrong, Mapping) else wrong!r}"
    else:
        got = f"a {type(content).__name__}"
    raise PromptError(
        f"the content of {where} holds {got}; allowed: text, or parts "
        '{"type": "text", "text": ...}. Images and sounds cannot be attributed: take them out'
    )


def _part(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) and part.get("type", "text") == "text" else None


class Template:
    """The chat template of a conversation, and what it takes beside messages."""

    def __init__(self, tokenizer: Any, given: Mapping[str, Any]) -> None:
        if tokenizer is None:
            raise PromptError("the model has no tokenizer: give token ids instead of messages")
        self.tokenizer = tokenizer
        self.template = given.get("chat_template")
        self.tools = given.get("tools")
        self.options = dict(given.get("chat_template_kwargs") or {})
        if self.template is None and not getattr(tokenizer, "chat_template", None):
            raise PromptError(
                "the prompt is a list of messages, but this model's tokenizer has no chat template "
                "(models that were not tuned for chat have none): give one, "
                '{"messages": messages, "chat_template": "{% for message in messages %}..."}, or set '
                "model.tokenizer.chat_template (chat_template=), or write the messages as one text"
            )

    def render(
        self, messages: Sequence[Message], *, goes_on: bool = False, has_tools: bool = True
    ) -> str:
        """The messages as text, up to where an answer begins or goes on if it `goes_on`.

        Raises `PromptError` where the template, or transformers, refuses them.
        """
        is_continued = goes_on and messages[-1]["role"] in ANSWERS
        try:
            return self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=self.tools if has_tools else None,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=goes_on and not is_continued,
                continue_final_message=is_continued,
                **self.options,
            )
        except Exception as error:  # templates raise errors of any kind
            reason = " ".join(str(error).split())[:300] or "no reason given"
            roles = ", ".join(repr(message["role"]) for message in messages[:12])
            raise PromptError(
                f"the chat template does not take these messages, of the roles {roles}"
                f"{', ...' if len(messages) > 12 else ''} ({type(error).__name__}: {reason}): give messages "
                'that it takes, or another template, {"messages": ..., "chat_template": ...}'
            ) from None
