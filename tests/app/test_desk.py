"""The explorer's desk: many people, one at a time, each in turn, and no more kept than allowed."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.cli_calls import save_tiny
from support.served_app import ask
from tl_scopes import models
from tl_scopes.app.conversation import Conversation
from tl_scopes.app.request import Request
from tl_scopes.app.settings import Settings
from tl_scopes.app.worker import Worker, _bytes
from tl_scopes.errors import (
    ModelUnavailableError,
    PositionError,
    PromptTooLongError,
    ScopeParameterError,
    SiteError,
)


class Left(BaseException):
    """What Streamlit raises when somebody clicks elsewhere is no Exception."""


def remembered(worker: Worker) -> int:
    """Bytes of the answers that are kept."""
    return sum(map(_bytes, worker._results.values()))


class Watched(Worker):
    """A desk whose work waits to be let go, and that writes down who works."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.go, self.started, self.order, self.inside = threading.Event(), threading.Event(), [], 0

    def _compute(self, request, tell, on_token):
        self.inside += 1
        assert self.inside == 1, "two requests at one time"
        self.order.append(request)
        self.started.set()
        assert self.go.wait(30)
        try:
            return super()._compute(request, tell, on_token)
        finally:
            self.inside -= 1


def queued(desk: Watched, requests: list[Request]) -> tuple[list[threading.Thread], dict, dict]:
    """A thread for each request, started in this order; what each got and was told."""
    got: dict = {}
    heard: dict = {}

    def work(i: int, request: Request) -> None:
        heard[i] = []
        try:
            got[i] = desk.answer(request, heard[i].append)
        except Exception as error:
            got[i] = error

    threads = []
    for i, request in enumerate(requests):
        threads.append(threading.Thread(target=work, args=(i, request)))
        threads[-1].start()
        while desk.waiting <= i:
            assert threads[-1].is_alive()
    return threads, got, heard


def test_a_class_is_served_in_order_and_one_at_a_time(folder, monkeypatch):
    load = Mock(wraps=models.load)
    monkeypatch.setattr(models, "load", load)
    desk = Watched(Settings(models=(folder,)))
    wanted = [ask(desk, position=i) for i in (1, 2, 99, 3, 1, 2)]
    threads, got, heard = queued(desk, wanted)
    desk.go.set()
    for thread in threads:
        thread.join(60)
    assert [r.position for r in desk.order] == [1, 2, 99, 3]  # who asks the same is given the same
    assert load.call_count == 1 and desk.waiting == 0
    assert got[0] is got[4] and got[1] is got[5]
    assert isinstance(got[2], PositionError)
    assert [got[i].position for i in (0, 1, 3)] == [1, 2, 3]
    alone = ts.attribute(models.load(folder), zoo.TEXT, ts.SemanticScope(), sites="all", position=3)
    torch.testing.assert_close(got[3].scores, alone.scores)
    assert heard[0][0].startswith("Loading ") and heard[0][-1].startswith("Computing")
    assert heard[1][0] == "Waiting: 1 request is before yours …"
    assert heard[3][0] == "Waiting: 3 requests are before yours …"


def test_who_leaves_the_queue_holds_nobody_up(folder):
    desk = Watched(Settings(models=(folder,)))
    threads, got, _ = queued(desk, [ask(desk)])
    assert desk.started.wait(30)

    def leave(told: str) -> None:
        raise Left

    with pytest.raises(Left):
        desk.answer(ask(desk, position=2), leave)
    assert desk.waiting == 1
    desk.go.set()
    threads[0].join(60)
    assert desk.waiting == 0 and desk.answer(ask(desk)) is got[0]


def test_answers_and_models_are_kept_up_to_a_bound(folder, tmp_path):
    other = save_tiny(tmp_path / "other")
    first = Worker(Settings(models=(folder, other), held=1))
    size = 0
    for position in range(4):
        first.answer(ask(first, position=position))
        size = size or remembered(first)
    assert remembered(first) == 4 * size
    small = Worker(first.settings, result_bytes=2 * size)
    answers = [small.answer(ask(small, position=p)) for p in range(4)]
    assert remembered(small) == 2 * size
    assert small.answer(ask(small, position=3)) is answers[3]
    assert small.answer(ask(small, position=0)) is not answers[0]
    small.answer(ask(small, model=other))
    assert list(small._models) == [other]


def test_a_typing_error_costs_nobody_a_model(folder):
    desk = Worker(Settings(models=(folder,), naming=True, held=1))
    desk.answer(ask(desk))
    held = desk._models[folder]
    for name in ("no-such-model", "./nowhere", "a/b/c"):
        with pytest.raises(ModelUnavailableError):
            desk.answer(ask(desk, model=name))
    assert desk._models == {folder: held}


def talk(desk: Worker, **changes) -> Conversation:
    said = (("user", zoo.TEXT),)
    return Conversation(
        **({"messages": said, "model": desk.settings.offered[0], "length": 4} | changes)
    )


def test_a_conversation_is_answered_and_remembered(folder):
    desk = Worker(Settings(models=(folder,), max_tokens=20))
    written: list[str] = []
    wanted = talk(desk, temperature=2.0, seed=3)
    reply = desk.answer(wanted, on_token=lambda token: written.append(token.text))
    model = models.load(folder)
    alone = ts.attribute_generation(model, zoo.TEXT, max_new_tokens=4, temperature=2.0, seed=3)
    torch.testing.assert_close(reply.result.scores, alone.scores)
    start = alone.answer_start
    assert written == list(reply.result.str_tokens[start:]) == list(alone.str_tokens[start:])
    assert reply.text == model.tokenizer.decode(alone.tokens[start:], skip_special_tokens=True)
    assert desk.answer(wanted) is reply and remembered(desk) == _bytes(reply) > 0
    longer = wanted.said("assistant", reply.text).said("user", " The cat")
    assert longer.prompt(model) == f"{zoo.TEXT}{reply.text} The cat"  # it has no chat template
    with pytest.raises(PromptTooLongError, match="its answer included"):
        desk.answer(talk(desk, length=15))
    for error, wrong in {
        "1 to 500": {"length": 501},
        "scope": {"scope": "no such"},
        "77": {"sites": "77"},
    }.items():
        with pytest.raises((ScopeParameterError, SiteError), match=error):
            desk.answer(talk(desk, **wrong))
    whole = desk.answer(talk(desk, scope="the model's confidence", sites="embed,1"))
    assert whole.result.sites == ("embed", "resid(1)") and whole.result.scope.name == "temperature"


def test_who_stops_an_answer_leaves_the_model_free(folder):
    desk = Worker(Settings(models=(folder,)))
    before = desk.answer(ask(desk)).scores
    written = []

    def stop(token) -> None:
        written.append(token)
        if len(written) == 2:
            raise Left

    with pytest.raises(Left):
        desk.answer(talk(desk), on_token=stop)
    assert desk.waiting == 0 and len(written) == 2
    fresh = Worker(desk.settings)
    fresh._models = desk._models
    assert torch.equal(fresh.answer(ask(fresh)).scores, before)
