"""What the explorer knows, without its page: requests and links, the worker, the view model, files, Python."""

from __future__ import annotations

import contextlib
import io
import json
import os

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from matplotlib.image import imread

import tl_scopes as ts
from support import zoo
from support.pictures import attribution
from support.served_app import ask
from tl_scopes import models, render
from tl_scopes.app import view_model as files
from tl_scopes.app.request import LONGEST_LINK, SCALES, Request, View, link, read, scopes, write
from tl_scopes.app.settings import Settings
from tl_scopes.app.snippet import python
from tl_scopes.app.view_model import view_model
from tl_scopes.app.worker import Worker
from tl_scopes.errors import (
    EmptyPromptError,
    ModelUnavailableError,
    PositionError,
    PromptTooLongError,
    RenderError,
    ScopeParameterError,
    SiteError,
    TargetError,
)
from tl_scopes.models import bundled
from tl_scopes.models.quiet import message_of
from tl_scopes.render.colours import colour, contrast
from tl_scopes.render.picture import build
from tl_scopes.render.tokens import visible

USUAL = Request("usual", "m")


@pytest.fixture(scope="module")
def desk(folder) -> Worker:
    return Worker(Settings(models=(folder,), max_tokens=20))


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
targets = text.filter(lambda t: not t.startswith("id:")) | st.integers(0, 10**6).map("id:{}".format)
requests = st.builds(
    Request,
    prompt=text,
    model=text,
    scope=st.sampled_from(list(scopes())),
    target=targets,
    versus=targets,
    continuation=text,
    rank=st.integers(1, 64),
    sites=st.sampled_from(["all", "embed", "embed,1,-1", "blocks.0.hook_mlp_out"]),
    position=st.integers(-(10**6), 10**6),
)
views = st.builds(View, text, st.sampled_from(SCALES), st.booleans(), st.booleans())


@given(requests, views)
def test_a_link_says_everything_that_is_computed(request, view):
    query = write(request, view)
    got, seen, errors = read(query, USUAL)
    assert (seen, errors) == (view, ())
    assert (got.to_scope(), got.to_sites()) == (request.to_scope(), request.to_sites())
    assert (got.prompt, got.model, got.position) == (
        request.prompt,
        request.model,
        request.position,
    )


@given(
    st.dictionaries(
        st.sampled_from([*write(USUAL, View("s", "log", True, False)), "rank", "x"]), text
    )
)
def test_any_link_is_read_or_answered(query):
    request, view, errors = read(query, USUAL)
    request.check()
    view.check()
    assert all(message_of(error, "") for error in errors)


@pytest.mark.parametrize(
    ("query", "error", "said"),
    [
        (
            {"scope": "entropy"},
            ScopeParameterError,
            "semantic, logit-difference, continuation, temperature, fisher",
        ),
        ({"scope": "fisher", "rank": "65"}, ScopeParameterError, "1 to 64"),
        ({"rank": "4.5"}, ScopeParameterError, "'4.5'"),
        ({"rank": "0"}, ScopeParameterError, "1 to 64"),
        ({"target": "id:x"}, ScopeParameterError, "id:"),
        (
            {"scope": "logit-difference", "versus": "id:-x"},
            ScopeParameterError,
            "versus is 'id:-x'",
        ),
        ({"sites": "embed,,3"}, SiteError, "empty entry"),
        ({"position": "last"}, PositionError, "-1 is the last"),
        ({"position": "9" * 5000}, PositionError, "whole number"),
        ({"scale": "square"}, RenderError, "allowed: 'linear', 'log'"),
        ({"include_bos": "yes"}, RenderError, "allowed: '0', '1'"),
    ],
)
def test_a_wrong_link_says_so_and_keeps_the_rest(query, error, said):
    request, view, errors = read(query | {"prompt": "kept"}, USUAL)
    assert [type(e) for e in errors] == [error] and said in str(errors[0])
    assert request.prompt == "kept"
    assert (view, request.rank, request.sites, request.position) == (View(), 4, "all", -1)


def test_links_have_a_length_that_browsers_take():
    query = write(Request("é" * 100, "m"), View())
    address = link("http://127.0.0.1:8501/", query)
    assert address.startswith("http://127.0.0.1:8501/?prompt=%C3%A9%C3%A9") and "+" not in address
    assert link("", write(Request("é" * LONGEST_LINK, "m"), View())) is None


def test_a_site_that_is_a_number_of_any_length_is_no_crash(desk):
    with pytest.raises(SiteError):
        desk.answer(ask(desk, sites="7" * 6000))


@pytest.mark.parametrize(
    ("changes", "scope", "options"),
    [
        ({}, ts.SemanticScope(), {"sites": "all"}),
        ({"target": " Paris"}, ts.SemanticScope(" Paris"), {"sites": "all"}),
        ({"target": "id:7", "position": 3}, ts.SemanticScope(7), {"sites": "all", "position": 3}),
        (
            {"scope": "logit-difference", "target": " Paris", "versus": "id:7"},
            ts.LogitDifferenceScope(" Paris", 7),
            {"sites": "all"},
        ),
        (
            {"scope": "logit-difference", "versus": " Paris"},
            ts.LogitDifferenceScope(None, " Paris"),
            {"sites": "all"},
        ),
        (
            {"scope": "continuation", "continuation": " Paris of"},
            ts.ContinuationScope(" Paris of"),
            {"sites": "all"},
        ),
        (
            {"scope": "continuation", "continuation": " Paris of", "versus": " cat"},
            ts.ContinuationScope(" Paris of", " cat"),
            {"sites": "all"},
        ),
        ({"scope": "fisher", "rank": 3, "sites": "embed"}, ts.FisherScope(3), {"sites": "embed"}),
        ({"scope": "temperature", "sites": "0, -1"}, ts.TemperatureScope(), {"sites": [0, -1]}),
        ({"prompt": "Paris'\n<b>\"\\"}, ts.SemanticScope(), {"sites": "all"}),
    ],
)
def test_the_python_makes_the_same_picture(desk, tmp_path, monkeypatch, changes, scope, options):
    request = ask(desk, **changes)
    found = desk.answer(request)
    expected = ts.attribute(models.load(request.model), request.prompt, scope, **options)
    torch.testing.assert_close(found.scores, expected.scores)
    view = View(found.sites[-1], "log", include_bos=True)
    monkeypatch.chdir(tmp_path)
    made: dict = {}
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        exec(compile(python(request, view, desk.settings), "copied", "exec"), made)
    assert torch.equal(made["found"].scores, found.scores)
    assert made["found"].sites == found.sites and made["found"].position == found.position
    assert (tmp_path / "scope.html").read_bytes() == files.html(found, view)
    assert (tmp_path / "scope.png").read_bytes() == files.png(found, view)


def test_the_python_loads_as_the_page_does(desk):
    settings = Settings(models=("a'b",), backend="bridge", dtype="bfloat16", device="cpu")
    code = python(Request("p", "a'b"), View(), settings)
    assert """load("a'b", backend='bridge', dtype='bfloat16', device='cpu')""" in code


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prompt": ""}, EmptyPromptError),
        ({"prompt": " cat" * 21}, PromptTooLongError),
        ({"prompt": " cat" * zoo.N_CTX}, PromptTooLongError),
        ({"prompt": "x" * 10**6}, PromptTooLongError),
        ({"target": " Parisian"}, TargetError),
        ({"target": "id:99999"}, TargetError),
        ({"scope": "logit-difference"}, TargetError),
        ({"scope": "continuation"}, TargetError),
        ({"scope": "continuation", "continuation": " cat" * 20}, PromptTooLongError),
        ({"position": 6}, PositionError),
        ({"sites": "resid(99)"}, SiteError),
        ({"sites": "nowhere"}, SiteError),
        ({"model": "elsewhere"}, ModelUnavailableError),
        ({"scope": "fisher", "rank": 65}, ScopeParameterError),
    ],
)
def test_bad_requests_are_answered_and_hold_nobody_up(desk, changes, error):
    with pytest.raises(error) as caught:
        desk.answer(ask(desk, **changes))
    assert str(caught.value).split() == (message_of(caught.value, "") or "").split()
    assert desk.waiting == 0
    desk.answer(ask(desk))


def test_bugs_are_not_explained_away():
    assert message_of(ZeroDivisionError("x"), "") is None
    assert message_of(MemoryError(), "use less") == "out of memory: use less"


def test_who_may_name_models():
    offered = Settings(models=("a", "b", "a")).offered
    assert (
        offered == ("a", "b")
        and set(Settings().offered) <= set(bundled.BUNDLES)
        and Settings().offered
    )
    Settings(naming=True).check_model("anything")
    for settings, name in ((Settings(models=("a",)), "b"), (Settings(naming=True), "")):
        with pytest.raises(ModelUnavailableError, match="offered"):
            settings.check_model(name)
    assert Settings.from_json(Settings(models=("a",), held=3).to_json()) == Settings(("a",), held=3)


def test_the_panel_shows_what_the_package_draws(desk):
    found = desk.answer(ask(desk, position=3, target=" Paris"))
    view = View("resid(1)", "log")
    got = json.loads(json.dumps(view_model(found, view)))
    (row,) = build(found, site="resid(1)", scale="log").rows
    assert ["".join(part for part, _ in t["pieces"]) for t in got["tokens"]] == [
        visible(t) for t in found.str_tokens
    ]
    assert [t["light"][0] for t in got["tokens"]] == [
        "#{:02x}{:02x}{:02x}".format(*colour(float(v))) for v in row.colours
    ]
    assert len({t["dark"][0] for t in got["tokens"]}) > 2
    assert [t["later"] for t in got["tokens"]] == [False] * 4 + [True] * (len(got["tokens"]) - 4)
    assert got["tokens"][0]["plain"] and not got["tokens"][3]["plain"]
    assert float(got["tokens"][2]["score"]) == pytest.approx(float(found.scores[2, 2]), rel=0.01)
    assert got["map"]["sites"] == list(found.sites) and got["map"]["chosen"] == 2
    for site, steps in enumerate(got["map"]["rows"]):
        colours = build(found, site=site, scale="log").rows[0].colours
        assert [step / 32 for step in steps] == pytest.approx(list(colours), abs=1 / 64 + 1e-9)
    assert got["title"] == render.picture.build(found).title
    assert got["next"][0]["text"].endswith("%") and any("BOS" in n for n in got["notes"])


def test_text_on_colours_can_be_read():
    """A contrast of 4.5, as WCAG 2.2 asks for, on light pages and dark ones."""
    scores = torch.linspace(-1, 1, 65).tolist()
    found = attribution(tokens=["<bos>"] + [" sea"] * 64, scores=[scores])
    for token in view_model(found, View())["tokens"]:
        for chip in (token["light"], token["dark"]):
            ground, ink = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in chip)
            assert contrast(ground, ink) > 4.5


def test_files(desk):
    found = desk.answer(ask(desk))
    page = files.html(found, View("resid(1)", "log")).decode()
    assert page == render.html(found, scale="log")
    assert files.png(found, View()).startswith(b"\x89PNG\r\n\x1a\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_PIXELS", 300)  # of a prompt that is too long for its usual size
        small = imread(io.BytesIO(files.png(found, View())))
    assert max(small.shape) <= 300
    assert json.loads(files.json(found, View()))["scores"] == found.scores.tolist()
