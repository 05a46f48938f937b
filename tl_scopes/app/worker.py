"""The one place of a process that computes: one request at a time, in the order they came.

A model's parameters are frozen, and its hooks set, while gradients are taken: two requests must
never share a model at one time, and two that each use every core would only be slower.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, overload

from tl_scopes.app.conversation import Conversation, Reply
from tl_scopes.app.request import Request
from tl_scopes.app.settings import Settings
from tl_scopes.errors import PromptTooLongError
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import Token

# Answers that are remembered, together: a prompt of 2,000 tokens at 31 sites takes a quarter of one.
RESULT_BYTES = 64 << 20
# A token of text is rarely longer than this: longer texts are not even tokenised.
_CHARACTERS = 50
_PATIENCE = 0.5
# Characters of the prompt times directions: about a second with Gemma-3 270M on one core.
_CHEAP = 1000

Tell = Callable[[str], None]
OnToken = Callable[[Token], None]


class Worker:
    """Answers requests for everybody who opened the page. Safe to call from several threads."""

    def __init__(self, settings: Settings, *, result_bytes: int = RESULT_BYTES) -> None:
        self.settings = settings
        self._result_bytes = result_bytes
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._results: OrderedDict[Request | Conversation, Attribution | Reply] = OrderedDict()
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @overload
    def answer(self, request: Request, tell: Tell = ...) -> Attribution: ...
    @overload
    def answer(self, request: Conversation, tell: Tell = ..., on_token: OnToken = ...) -> Reply: ...
    def answer(
        self,
        request: Request | Conversation,
        tell: Tell = lambda text: None,
        on_token: OnToken = lambda token: None,
    ) -> Attribution | Reply:
        """The attribution or the reply asked for, remembered or computed.

        `tell` is called with a line for the person who waits, from this thread, at least every half
        second while others are before; what it raises ends the wait. `on_token` is called with each token
        of a reply as it is written; what it raises ends the writing.

        Raises the errors of `tl_scopes.attribute`, `ModelUnavailableError` for a model that is not
        offered, and `PromptTooLongError` beyond the settings' own limit.
        """
        self.settings.check_model(request.model)
        request.check()
        self._check_characters(request.text)
        if (result := self._remembered(request)) is not None:
            return result
        with self._turn(tell):
            # Somebody before may have asked for the same: a class does.
            if (result := self._remembered(request)) is None:
                result = self._compute(request, tell, on_token)
                self._remember(request, result)  # before the next in turn looks
        return result

    def is_cheap(self, request: Request) -> bool:
        """Whether an answer takes no model to load, nor more than about a second."""
        if self._remembered(request) is not None:
            return True
        return request.model in self._models and len(request.text) * request.directions <= _CHEAP

    @property
    def waiting(self) -> int:
        """How many requests are being computed or wait for it."""
        return len(self._queue)

    def _compute(
        self, request: Request | Conversation, tell: Tell, on_token: OnToken
    ) -> Attribution | Reply:
        import tl_scopes as ts
        from tl_scopes.adapter.prompts import encode
        from tl_scopes.adapter.view import view_of

        model = self._model(request.model, tell)
        tell("Computing …")
        talks = isinstance(request, Conversation)
        prompt = request.prompt(model) if talks else request.text
        n = len(encode(view_of(model), prompt, None)) + (request.length if talks else 0)
        if n > self.settings.max_tokens:
            raise PromptTooLongError(
                f"the prompt has {n} tokens{', its answer included' if talks else ''}, this page takes "
                f"{self.settings.max_tokens}: shorten it, or start tl-scopes app with a higher "
                "--max-tokens"
            )
        if talks:
            return request.answered(model, on_token)
        return ts.attribute(
            model,
            request.prompt,
            request.to_scope(),
            sites=request.to_sites(),
            position=request.position,
        )

    def _model(self, name: str, tell: Tell) -> Any:
        if name in self._models:
            self._models.move_to_end(name)
            return self._models[name]
        from tl_scopes.models import load
        from tl_scopes.models.loading import check_name

        tell(f"Loading {name} …")
        check_name(name)  # a typing error must not cost a model that is in use
        while len(self._models) >= self.settings.held:  # before: both would have to fit
            self._models.popitem(last=False)
        s = self.settings
        self._models[name] = load(name, s.backend, dtype=s.dtype, device=s.device)
        return self._models[name]

    @contextmanager
    def _turn(self, tell: Tell) -> Iterator[None]:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
        try:
            while before := self._before(ticket):
                requests = "request is" if before == 1 else "requests are"
                tell(f"Waiting: {before} {requests} before yours …")
                with self._changed:
                    # Asked again with the lock held: the call between may have been missed.
                    if self._queue[0] is not ticket:
                        self._changed.wait(_PATIENCE)
            yield
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _before(self, ticket: object) -> int:
        with self._changed:
            return self._queue.index(ticket)

    def _remembered(self, request: Request | Conversation) -> Any:
        with self._changed:
            if request in self._results:
                self._results.move_to_end(request)
            return self._results.get(request)

    def _remember(self, request: Request | Conversation, result: Attribution | Reply) -> None:
        with self._changed:
            self._results[request] = result
            held = sum(map(_bytes, self._results.values()))
            while held > self._result_bytes and self._results:
                held -= _bytes(self._results.popitem(last=False)[1])

    def _check_characters(self, prompt: str) -> None:
        limit = self.settings.max_tokens * _CHARACTERS
        if len(prompt) > limit:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} characters, more than {self.settings.max_tokens} tokens, "
                "which this page takes, can have: shorten it, or start tl-scopes app with a higher "
                "--max-tokens"
            )


def _bytes(answer: Attribution | Reply) -> int:
    result = answer.result if isinstance(answer, Reply) else answer
    # Texts, ids and candidates cost about as much again for each token.
    return result.scores.numel() * result.scores.element_size() + 200 * len(result.str_tokens)
