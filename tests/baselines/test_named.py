"""Scopes and methods by name: a user's own is one class and one registration, and is then like ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import tl_scopes as ts
from support import zoo
from support.cli_calls import save_tiny
from tl_scopes import render
from tl_scopes.app.request import Request, View, scopes
from tl_scopes.app.settings import Settings
from tl_scopes.app.snippet import python
from tl_scopes.baselines import Method, Scored, named
from tl_scopes.cli.main import app
from tl_scopes.errors import ScopeParameterError


@dataclass(frozen=True)
class TwiceScope(ts.Scope):
    """Twice (or `times`) the logit: scores are those of the semantic scope, times as much."""

    target: str | int | None = None
    times: float = 2.0
    name = "twice_logit"
    units = "logits per unit of residual"
    asks = "what moves it twice?"
    argument = "times"
    explains = "twice the logit of the next token{target}"

    def parameters(self):
        return {"target": self.target, "times": self.times}

    def explain(self, read):
        token = read.resolve(self.target)
        return ts.Explained.single(self.times * read.head.column(token.id), token)


@dataclass(frozen=True)
class PlaceMethod(Method):
    """The place of each token."""

    name = "place"
    units = "tokens"
    title = "Places of tokens"
    joining = "sum"
    needs_gradients = False

    def scores(self, prompt_run, site):
        return Scored(torch.arange(prompt_run.activation(site).shape[1]))


@pytest.fixture
def own(monkeypatch):
    """Both registered, for one test."""
    monkeypatch.setattr(named, "_known", dict(named._known))
    assert ts.register(TwiceScope) is TwiceScope
    ts.register(PlaceMethod)


def run(folder, *args):
    done = CliRunner().invoke(app, ["attribute", zoo.TEXT, "--model", folder, "--json", *args])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("own") / "tiny-llama")


def test_a_scope_of_ones_own_is_like_ours(own, folder):
    plain = run(folder, "--scope", "semantic", "--target", "id:7")
    mine = run(folder, "--scope", "twice-logit", "--target", "id:7")
    thrice = run(folder, "--scope", "twice-logit:3", "--target", "id:7")
    for factor, found in ((2, mine), (3, thrice)):
        assert torch.tensor(found["scores"]).allclose(factor * torch.tensor(plain["scores"]))
    assert mine["scope"]["joining"] == "norm"
    assert scopes()["twice-logit"] == "what moves it twice?"
    request = Request("a prompt", folder, scope="twice-logit", target="id:7")
    assert request.to_scope() == TwiceScope(7) and request.directions == 1
    code = python(request, View(), Settings((folder,)))
    assert "TwiceScope(7)" in code and f"from {__name__} import TwiceScope" in code


def test_pictures_use_its_words(own):
    model = zoo.shared(zoo.names("", "rms")[0], torch.float32)
    found = ts.attribute(model, [1, 2, 3, 4], TwiceScope(7))
    assert "What moves twice the logit of the next token" in render.html(found)
    words = found.group([(1, 3)])
    assert words.how == "norm"
    assert float(words.scores[0, 1]) == pytest.approx(float(found.scores[0, 1:3].norm()))


def test_a_method_of_ones_own_is_like_ours(own, folder):
    found = run(folder, "--scope", "place")
    assert found["scores"][0] == list(range(len(found["tokens"])))
    assert found["scope"]["title"] == "Places of tokens" and found["scope"]["joining"] == "sum"


def test_an_entry_point_is_a_registration(monkeypatch):
    point = SimpleNamespace(name="place", value=f"{__name__}:PlaceMethod")
    monkeypatch.setattr(
        named, "entry_points", lambda group: [point] if group == named.GROUP else []
    )
    named._installed.cache_clear()
    try:
        assert named.names()[-1] == "place" and named.maker("place") is PlaceMethod
    finally:
        named._installed.cache_clear()


def test_a_name_is_taken_once(own):
    with pytest.raises(ScopeParameterError, match="'semantic' is taken by"):
        ts.register(TwiceScope, "semantic")
    ts.register(TwiceScope)  # the same once more, as a reloaded notebook cell may


def test_every_name_makes_what_it_says():
    for name in named.names():
        texts = "continuation" in named.takes(name)
        made = named.made(name, {"target": 5, "versus": " b" if texts else 6, "seed": 3})
        assert isinstance(made, (ts.Scope, Method)), name
        assert getattr(made, "target", 5) == 5, name
    assert named.made("fisher:0.9", {}) == ts.FisherScope(0.9)
    assert named.made("fisher:full", {}) == ts.FisherScope("full")
    with pytest.raises(ScopeParameterError, match="close: fisher"):
        named.made("fischer", {})
