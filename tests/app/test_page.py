"""The explorer's page as Streamlit runs it, without a browser; the command that starts it; Space files."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

import tl_scopes
from support import zoo
from support.cli_calls import call, refused
from support.marks import needs_streamlit
from tl_scopes import render
from tl_scopes.app import request
from tl_scopes.app.gate import Door
from tl_scopes.app.settings import Settings
from tl_scopes.cli import app

HOSTILE = (
    "<script>document.title='pwned'</script><img src=x onerror=alert(1)> ![a](http://b.test/c.png)"
)
APP = Path(tl_scopes.__file__).parent / "app"


@pytest.fixture
def visit(folder, monkeypatch):
    """A visit of the page, with a link's query. Visits of one test share a process, as people do; who
    comes by a link finds the model loaded by somebody before, unless the process is `new`."""
    testing = pytest.importorskip("streamlit.testing.v1", reason="needs the extra app")

    def begin(naming: bool = False, max_tokens: int = 20, new: bool = False, **query: str):
        if query and not new:
            run(begin(naming, max_tokens), zoo.TEXT)
        settings = Settings(models=(folder,), naming=naming, max_tokens=max_tokens, held=2 + new)
        monkeypatch.setattr(sys, "argv", ["explorer.py", settings.to_json()])
        page = testing.AppTest.from_file(str(APP / "page" / "explorer.py"), default_timeout=120)
        return arrive(page, query)

    return begin


def arrive(page, query: dict[str, str]):
    """As by a link, or by the browser's buttons."""
    page.query_params.clear()
    for name, value in query.items():
        page.query_params[name] = value
    return page.run()


def run(page, prompt: str | None = None):
    """Press Run, after typing a prompt."""
    if prompt is not None:
        page.text_area(key="prompt").set_value(prompt)
    page = page.button[0].click().run()
    assert not page.exception
    return page


def shown(page) -> dict | None:
    """The data of the component that draws tokens, None if nothing is drawn."""
    found = page.get("bidi_component")
    return json.loads(found[0].proto.json) if found else None


def told(page) -> list[str]:
    """The markup of the page's messages: all its HTML but the style sheet."""
    return [e.proto.body for e in page.get("html") if not e.proto.body.startswith("<style>")]


def said(page) -> list[str]:
    return [html.unescape(re.sub(r"<[^>]*>", "", body)) for body in told(page)]


def code(page, language: str) -> str:
    (found,) = [c.value for c in page.code if c.language == language]
    return found


def test_a_visit_from_the_first_look_to_the_link(visit, folder):
    page = visit()
    assert not page.exception and shown(page) is None and said(page) == []
    page = run(page, zoo.TEXT)
    data = shown(page)
    assert data["read"] == 5 and data["title"].startswith("What moves the logit")
    assert said(page) == [] and len(page.get("download_button")) == 3
    page = page.select_slider[0].set_value("resid(1)").run()
    assert data["ticks"] != shown(page)["ticks"] and "at resid(1)" in shown(page)["subtitle"]
    page = page.segmented_control[-1].set_value("log").run()
    page = page.radio(key="scope").set_value("fisher").run()
    page.number_input(key="rank").set_value(2)
    page = run(page)
    data, query = shown(page), page.query_params
    assert "fisher(rank=2" in data["subtitle"]
    expected = {"prompt": zoo.TEXT, "model": folder, "scope": "fisher", "rank": "2", "sites": "all"}
    expected |= {"position": "-1", "site": "resid(1)", "scale": "log"}
    assert dict(query) == expected
    again = visit(**expected)
    assert not again.exception and shown(again) == data
    assert code(again, "python") == code(page, "python")
    assert "FisherScope(rank=2)" in code(again, "python")
    assert [again.text_area[0].value, again.radio[0].value] == [zoo.TEXT, "fisher"]


def test_two_tokens_are_compared(visit):
    page = visit(prompt=zoo.TEXT, scope="logit-difference", target=" Paris", versus=" cat")
    title = "What moves the logit of “·Paris” against that of “·cat”"
    assert shown(page)["title"] == title and said(page) == []
    assert "LogitDifferenceScope(' Paris', ' cat')" in code(page, "python")
    page.text_input(key="versus").set_value(" Paris")
    assert shown(run(page)) is None and "both targets are token" in said(page)[0]


def fields(page) -> set[str]:
    """The fields of a scope that are drawn."""
    keys = {each.key for each in (*page.text_input, *page.number_input)}
    return keys & {"continuation", "target", "versus", "rank"}


def test_fields_are_those_of_the_scope(visit):
    """What a field held that is no longer drawn is neither used nor refused."""
    page = visit(prompt=zoo.TEXT, scope="logit-difference", target=" Paris", versus=" cat")
    assert fields(page) == {"target", "versus"}
    for scope, drawn in (("fisher", {"rank"}), ("temperature", set()), ("semantic", {"target"})):
        page = page.radio(key="scope").set_value(scope).run()
        assert fields(page) == drawn and "against" in shown(page)["title"]  # until Run
    page.text_input(key="target").set_value(" Parisian")
    page = page.radio(key="scope").set_value("fisher").run()
    page = run(page)
    assert "fisher(rank=4" in shown(page)["subtitle"] and said(page) == []
    assert not {"target", "versus"} & set(page.query_params)


def test_a_whole_answer(visit):
    page = visit(prompt=zoo.TEXT)
    page = page.radio(key="scope").set_value("continuation").run()
    assert fields(page) == {"continuation", "versus"}
    page.text_input(key="continuation").set_value(" Paris of")
    page = run(page)
    data = shown(page)
    assert data["heading"] == "Probability of the answer" and said(page) == []
    texts = ["".join(part for part, _ in row["pieces"]) for row in data["next"]]
    assert texts == ["·Paris", "·of"] and len(data["tokens"]) == 8
    assert "ContinuationScope(' Paris of')" in code(page, "python")
    again = visit(**dict(page.query_params))
    assert shown(again) == data


def say_to(page, text: str):
    page = page.chat_input[0].set_value(text).run()
    assert not page.exception
    return page


def answer_of(page) -> str | None:
    """The page that shows the conversation's last answer."""
    found = page.get("iframe")
    return found[0].proto.srcdoc if found else None


def test_a_conversation(visit, folder):
    page = run(visit(max_tokens=zoo.N_CTX), zoo.LONG_TEXT)
    data = shown(page)
    page = page.segmented_control(key="mode").set_value("Conversation").run()
    assert shown(page) is None and answer_of(page) is None
    page.number_input(key="length").set_value(5)
    page = say_to(page, zoo.TEXT)
    model = tl_scopes.models.load(folder)
    answer = tl_scopes.attribute_generation(model, zoo.TEXT, max_new_tokens=5)
    assert answer_of(page) == render.html(answer) and said(page) == []
    page.number_input(key="length").set_value(3)
    page = say_to(page, " The cat")
    told = model.tokenizer.decode(answer.tokens[answer.answer_start :], skip_special_tokens=True)
    longer = f"{zoo.TEXT}{told} The cat"
    answer = tl_scopes.attribute_generation(model, longer, max_new_tokens=3)
    assert answer_of(page) == render.html(answer)
    page = say_to(page, " cat" * zoo.N_CTX)  # a mistake, which is no part of what comes after
    assert answer_of(page) is None and "context" in said(page)[0]
    page = page.run()
    assert answer_of(page) == render.html(answer) and said(page) == []
    page = widget(page, "button", "New conversation").click().run()
    assert answer_of(page) is None and said(page) == []
    page = page.segmented_control(key="mode").set_value("Next token").run()
    assert shown(page) == data and page.text_area(key="prompt").value == zoo.LONG_TEXT


def test_another_scope_at_every_site_and_the_python_of_it(visit, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = visit().segmented_control(key="mode").set_value("Conversation").run()
    page.number_input(key="length").set_value(3)
    page.selectbox(key="moves").set_value("the whole distribution")
    page.selectbox(key="places").set_value("all")
    page = say_to(page, zoo.TEXT)
    model, scope = tl_scopes.models.load(folder), tl_scopes.FisherScope(rank=1)
    answer = tl_scopes.attribute_generation(model, zoo.TEXT, scope, max_new_tokens=3, sites="all")
    assert answer_of(page) == render.html(answer)
    made: dict[str, Any] = {}
    exec(page.code[0].value, made)
    assert torch.equal(made["answer"].scores, answer.scores)
    assert (tmp_path / "conversation.html").read_text("utf-8") == answer_of(page)


def test_an_answer_is_stopped(visit, monkeypatch, folder):
    """The button is pressed while the model writes: Streamlit ends that run at the next thing that it draws."""
    from streamlit.runtime.scriptrunner import StopException

    real = tl_scopes.attribute_generation

    def interrupted(*args, on_token, **options):
        written = []

        def write(token) -> None:
            on_token(token)
            written.append(token)
            if len(written) == 2:
                raise StopException

        return real(*args, on_token=write, **options)

    page = visit().segmented_control(key="mode").set_value("Conversation").run()
    page.number_input(key="length").set_value(10)
    with monkeypatch.context() as patch:
        patch.setattr(tl_scopes, "attribute_generation", interrupted)
        page = say_to(page, zoo.TEXT)
    assert answer_of(page) is None and said(page)[0].startswith("Writing, 2 of at most 10 tokens: ")
    page = widget(page, "button", "Stop").click().run()
    assert not page.exception and said(page) == []
    answer = real(tl_scopes.models.load(folder), zoo.TEXT, max_new_tokens=2)
    assert answer_of(page) == render.html(answer)


def widget(page, kind: str, label: str):
    (found,) = [each for each in page.get(kind) if each.label == label]
    return found


def test_colours_are_those_that_were_asked_for(visit):
    page = visit(prompt=zoo.TEXT)
    before = shown(page)
    page = widget(page, "toggle", "Colour BOS").set_value(True).run()
    assert "BOS" in before["notes"][0] and "BOS" not in shown(page)["notes"][0]
    assert before["tokens"][0]["plain"] and not shown(page)["tokens"][0]["plain"]
    page = widget(page, "toggle", "Colour read").set_value(False).run()
    assert shown(page)["tokens"][5]["plain"] and not before["tokens"][5]["plain"]
    assert "include_bos=True, include_read=False" in code(page, "python")
    assert [page.query_params[k] for k in ("include_bos", "include_read")] == ["1", "0"]


@pytest.mark.parametrize("mistake", [("target", " Parisian"), ("position -1", "last")])
def test_a_mistake_leaves_what_was_looked_at_as_it_was(visit, mistake):
    page = visit(prompt=zoo.TEXT)
    page = page.select_slider[0].set_value("resid(1)").run()
    page = page.segmented_control[-1].set_value("log").run()
    page = widget(page, "toggle", "Colour read").set_value(False).run()
    before, query = shown(page), dict(page.query_params)
    key, wrong = mistake
    page.text_input(key=key).set_value(wrong)
    page = run(page)
    assert shown(page) is None and len(said(page)) == 1
    (field,) = [each for each in page.text_input if each.value == wrong]
    field.set_value("" if key == "target" else "-1")
    page = run(page)
    assert shown(page) == before and dict(page.query_params) == query
    assert page.select_slider[0].value == "resid(1)" and page.segmented_control[-1].value == "log"
    assert widget(page, "toggle", "Colour read").value is False


@pytest.mark.parametrize("rank", ["0", "65", "-3", "999999999"])
def test_a_link_with_a_rank_that_no_field_can_hold(visit, rank):
    page = visit(prompt=zoo.TEXT, rank=rank)
    assert not page.exception and shown(page) is not None
    assert said(page) == [
        f"rank is {rank}; allowed here: a whole number from 1 to 64 (more, shares and rank='full' "
        "from Python)"
    ]


def test_back_and_forth(visit):
    """What the browser's buttons do: another address, and all that was typed since."""
    page = run(visit(), zoo.TEXT)
    first, query = shown(page), dict(page.query_params)
    page = page.segmented_control[-1].set_value("log").run()
    page.radio(key="scope").set_value("temperature")
    page = run(page, zoo.LONG_TEXT)
    last, later = shown(page), dict(page.query_params)
    for address, data in ((query, first), (later, last)):
        page = arrive(page, address)
        assert shown(page) == data and said(page) == [] and dict(page.query_params) == address
        assert page.text_area(key="prompt").value == address["prompt"]
        assert page.radio(key="scope").value == address["scope"]
        assert page.segmented_control[-1].value == address.get("scale", "linear")
    page = arrive(page, {})  # the first of all: nothing was asked yet
    assert shown(page) is None and page.text_area(key="prompt").value.startswith("The Eiffel")


def test_what_is_too_long_for_a_link_is_told(visit, monkeypatch):
    monkeypatch.setattr(request, "LONGEST_LINK", 100)
    page = run(visit(max_tokens=zoo.N_CTX), zoo.LONG_TEXT)
    assert "too long for a link" in said(page)[0] and dict(page.query_params) == {}
    assert shown(page.run()) is not None


def test_another_prompt_is_read_at_its_end(visit):
    page = visit(prompt=zoo.TEXT, position="2")
    assert shown(page)["read"] == 2
    page = run(page, zoo.LONG_TEXT)
    assert shown(page)["read"] == len(shown(page)["tokens"]) - 1
    assert page.text_input(key="position -1").value == "-1"
    page.text_input(key="position -1").set_value("4")
    assert shown(run(page))["read"] == 4


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"prompt": ""}, "the prompt is an empty string: give some text"),
        ({"prompt": " cat" * 20}, "the prompt has 21 tokens, this page takes 20: shorten it"),
        ({"prompt": zoo.TEXT, "target": " Parisian"}, "not one known token"),
        ({"prompt": zoo.TEXT, "position": "77"}, "position 77 is out of range"),
        ({"prompt": zoo.TEXT, "sites": "nowhere"}, "the model has no site 'nowhere'"),
        ({"prompt": zoo.TEXT, "target": HOSTILE}, HOSTILE.split("'")[0]),
    ],
)
def test_mistakes_are_answered_in_the_page(visit, query, words):
    page = visit(**query)
    assert not page.exception and shown(page) is None
    (message,), (markup,) = said(page), told(page)
    assert words in message
    assert "<script>" not in markup and "<img" not in markup
    assert [*page.markdown, *page.error, *page.warning, *page.info] == []  # Markdown draws pictures
    page.text_input(key="target").set_value("")
    page.text_input[-1].set_value("-1")
    page.selectbox(key="sites").set_value("all")
    page = run(page, zoo.TEXT)
    assert shown(page) is not None and said(page) == []


def test_a_wrong_link_and_a_wrong_position_are_told(visit):
    page = visit(prompt=zoo.TEXT, scope="magic", site="resid(9)")
    assert shown(page) is not None
    wrong, other = said(page)
    assert "there is no scope 'magic' here" in wrong and "no site 'resid(9)'" in other
    page.text_input(key="position -1").set_value("last")
    page = run(page)
    assert shown(page) is None and said(page) == [
        "position is 'last'; give a whole number; -1 is the last token"
    ]


def test_a_link_never_makes_the_machine_load_what_nobody_asked_for(visit, folder):
    page = visit(prompt=zoo.TEXT, model=HOSTILE)
    assert not page.exception and shown(page) is None
    assert "is not offered here" in said(page)[0] and page.selectbox(key="model").value == folder
    page = visit(naming=True, prompt=zoo.TEXT, model=HOSTILE)
    assert shown(page) is None and "press Run" in said(page)[0]
    page = run(page)
    assert (shown(page) is None and "no model is called" in said(page)[0]) or "path" in said(page)[
        0
    ]


def test_a_link_alone_loads_nothing(visit, monkeypatch):
    load = Mock(wraps=tl_scopes.models.load)
    monkeypatch.setattr(tl_scopes.models, "load", load)
    page = visit(new=True, prompt=zoo.TEXT, scope="fisher", rank="2")
    assert not page.exception and shown(page) is None and not load.called
    assert said(page) == ["press Run to compute what this link asks"]
    assert (page.text_area[0].value, page.radio[0].value) == (zoo.TEXT, "fisher")
    page = run(page)
    assert "fisher(rank=2" in shown(page)["subtitle"] and said(page) == [] and load.call_count == 1
    assert shown(visit(new=True, prompt=zoo.TEXT)) is not None  # on a model that is there now


@pytest.mark.parametrize(
    "dear",
    [
        {"prompt": "The cat sat on the mat. " * 50},
        {"prompt": zoo.LONG_TEXT, "scope": "fisher", "rank": "64"},
    ],
)
def test_a_link_computes_only_what_is_cheap(visit, dear):
    page = visit(max_tokens=zoo.N_CTX, **dear)
    assert shown(page) is None and said(page) == ["press Run to compute what this link asks"]
    assert page.text_area[0].value == dear["prompt"]


def test_a_link_to_what_is_remembered_shows_it(visit):
    dear = {"prompt": f"{zoo.LONG_TEXT} {zoo.LONG_TEXT}", "scope": "fisher", "rank": "10"}
    page = visit(max_tokens=zoo.N_CTX, **dear)
    assert shown(page) is None
    first = shown(run(page))
    again = visit(max_tokens=zoo.N_CTX, **dear)
    assert shown(again) == first and first is not None and said(again) == []


def test_a_hostile_prompt_is_tokens(visit):
    page = visit(prompt="<img> <script>")
    data = shown(page)
    texts = ["".join(part for part, _ in token["pieces"]) for token in data["tokens"]]
    assert texts[0] == "<bos>" and "<" in texts and ">" in texts
    assert "'<img> <script>'" in code(page, "python")


def test_the_command_serves_this_machine_only_unless_told(served):
    assert call("app", "--port", "0").exit_code == 0
    settings, host, port, opened, _ = served.pop()
    assert host == "127.0.0.1" and opened == f"http://127.0.0.1:{port}" and 1024 < port < 65536
    assert settings == Settings(naming=True)
    result = call("app", "--host", "0.0.0.0", "--port", "0", "--no-browser", "--max-tokens", "9")
    settings, host, _, opened, _ = served.pop()
    assert (host, opened, settings) == ("0.0.0.0", "", Settings(max_tokens=9))
    assert "no password" in result.stderr
    assert call("app", "--port", "0", "--model", "a", "--model", "b", "--held", "1").exit_code == 0
    assert served.pop()[0] == Settings(("a", "b"), held=1)
    assert call("app", "--host", "::1", "--port", "0", "--model", "a", "--naming").exit_code == 0
    assert served.pop()[0].naming


def test_a_port_in_use_is_told(served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        error = refused(call("app", "--port", str(taken.getsockname()[1])))
    assert "give another --port" in error and served == []
    assert "cannot be listened at" in refused(call("app", "--host", "no.such.host.invalid"))


def test_without_streamlit_the_command_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "streamlit" else real(name)
    )
    assert "pip install 'tl-scopes[app]'" in refused(call("app", "--port", "0"))


@needs_streamlit
def test_options_that_keep_streamlit_at_home(monkeypatch):
    from streamlit.web import cli as streamlit

    seen: list = []
    monkeypatch.setattr(streamlit, "main", lambda args, **_: seen.append(args))
    door = Door.of("127.0.0.1", True, (), ())
    app._serve(Settings(), "127.0.0.1", 8600, "", door)
    args = seen[0]
    assert {
        "--server.address=127.0.0.1", "--server.port=8600", "--server.headless=true",
        "--browser.gatherUsageStats=false", "--client.showErrorDetails=none",
    } <= set(args)  # fmt: skip
    assert Path(args[-5]).is_file() and args[-4] == "--"
    assert Settings.from_json(args[-3]) == Settings()
    assert Door.from_json(args[-2]) == door and args[-1] == ""
    done = subprocess.run(
        [sys.executable, "-m", "streamlit", "run", "--help"], capture_output=True, text=True
    )
    known = set(re.findall(r"--[a-z]+\.[A-Za-z.]+", done.stdout))
    assert {a.split("=")[0] for a in args if "=" in a and a.startswith("--")} <= known


def test_space_files_are_what_hugging_face_documents(tmp_path, served):
    space = tmp_path / "space"
    assert call("app", "--space", str(space)).exit_code == 0
    assert served == [] and "already holds" in refused(call("app", "--space", str(space)))
    other = str(tmp_path / "other")
    error = refused(call("app", "--model", "gpt2", "--space", other, "--max-tokens", "9"))
    assert "ignore --model, --max-tokens" in error and not Path(other).exists()
    assert "is a file" in refused(call("app", "--space", str(space / "README.md")))
    front = (space / "README.md").read_text().split("---\n")[1]
    card = dict(line.split(": ", 1) for line in front.splitlines())
    assert card["sdk"] == "docker" and card["license"] and len(card["short_description"]) <= 60
    docker = (space / "Dockerfile").read_text()
    command = json.loads(re.findall(r"^CMD (\[.*\])$", docker, re.M)[0])
    assert command[:2] == ["tl-scopes", "app"]
    assert command[command.index("--port") + 1] == card["app_port"]
    assert f"EXPOSE {card['app_port']}" in docker and "USER user" in docker
    taken = command.index("--port") + 1
    result = call(*command[1:taken], "0", *command[taken + 1 :])
    assert result.exit_code == 0, result.stderr
    settings, host, _, opened, door = served.pop()
    assert (host, opened, settings.naming) == ("0.0.0.0", "", False)
    assert door.framed_by == ("https://huggingface.co",)
    assert set(settings.models) <= set(tl_scopes.models.loading.BUNDLES) and settings.models
    wheel = f"tl_scopes-{tl_scopes.__version__}-py3-none-any.whl"
    assert f"./{wheel}[app,models]" in (space / "requirements.txt").read_text()
