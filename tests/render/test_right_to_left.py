"""Sentences that quote tokens of Arabic and Hebrew keep their order: on a page, in a terminal, in errors."""

from __future__ import annotations

import dataclasses
import re

import pytest

from support import circuit_drawings as circuits
from support import zoo
from support.infos import info
from support.pictures import attribution, printed, sequence
from tl_scopes import SemanticScope, attribute, render
from tl_scopes.errors import RenderError, TargetError
from tl_scopes.render.figures import letters
from tl_scopes.render.figures.letters import broken
from tl_scopes.render.picture import build
from tl_scopes.render.tokens import sentence
from tl_scopes.results.escapes import isolated, literal, message, without_isolates
from tl_scopes.results.records import Candidate, ScopeInfo, Token

TOKENS = ("<شروع>", " مدينة", "שלום", " x", " القاهرة")
TURNS = re.compile("[\u0590-\u08ff]")


def one(**changes):
    given = {
        "prediction": tuple(Candidate(i, text, 0.2) for i, text in enumerate(TOKENS)),
        "target": Token(7, " عاصمة"),
        "scope": info("semantic", {"target": " عاصمة"}),
    }
    return attribution(TOKENS, **{**given, **changes})


def outside(text: str) -> list[str]:
    """Letters that go right to left and could turn what is around them."""
    assert text.count("\u2068") == text.count("\u2069")
    return TURNS.findall(re.sub("\u2068[^\u2066-\u2069]*\u2069", "", text))


def test_only_what_turns_is_isolated():
    assert isolated(" Paris") == " Paris" and isolated("日本 🙂 é 5%") == "日本 🙂 é 5%"
    assert isolated("٣") == "\u2068٣\u2069"  # an Arabic digit turns its neighbours too
    assert literal(" مدينة") == "\u2068' مدينة'\u2069"
    assert without_isolates(f"a {isolated('שלום')} b") == "a שלום b"
    assert broken(f"a {isolated('שלום שלום')} b", 6) == [
        f"a {isolated('שלום')}", f"{isolated('שלום')} b"
    ] or not letters._ORDERS_LETTERS  # fmt: skip
    assert sentence(f"<{isolated('שלום')}>") == "&lt;<bdi>שלום</bdi>&gt;"


@pytest.mark.parametrize(
    "result",
    [one(), one(sites=("embed", "resid(3)")), sequence(TOKENS), one().group([(1, 3)])],
    ids=["one site", "several sites", "reads", "groups"],
)
def test_terminal_lines_keep_their_order(result):
    lines = printed(result, width=100).splitlines()
    prompt = "".join(map(str, TOKENS)).replace(" ", "·")
    told = [line for line in lines if without_isolates(line) != prompt]
    assert len(told) >= len(lines) - 1
    assert [line for line in told if outside(line)] == []
    assert sum(bool(TURNS.search(line)) for line in told) >= 3


def test_columns_of_a_terminal_stay_in_line():
    """Isolates are no letters."""
    lines = [without_isolates(line) for line in printed(one(), width=80).splitlines()]
    top = lines[lines.index("Strongest tokens") + 1 :][:3]
    assert len({line.index("█") for line in top}) == 1 and len(set(map(len, top))) == 1


@pytest.mark.parametrize(
    "page",
    [
        lambda: render.html(one()),
        lambda: render.html(sequence(TOKENS)),
        lambda: render.attention(circuits.flow(tokens=TOKENS)),
        lambda: render.attention(circuits.head_paths(tokens=TOKENS)),
    ],
    ids=["attribution", "sequence", "flow", "head paths"],
)
def test_sentences_of_a_page_hold_tokens_in_bdi(page):
    text = page()
    body = re.sub(r"<(style|script)\b.*?</\1>", "", text[text.index("<section") :], flags=re.S)
    assert body.count("<bdi") == body.count("</bdi>") >= 2
    for part in re.findall(r"<(?:h1|h2|p|footer)\b[^>]*>(.*?)</(?:h1|h2|p|footer)>", body, re.S):
        assert not TURNS.search(re.sub(r"<bdi\b.*?</bdi>", "", part)), part
    assert not re.search("[\u2066-\u2069]", body)


FIGURES = {
    "figure": lambda: render.figure(one()),
    "map": lambda: render.figure(sequence(TOKENS)),
    "prediction": lambda: render.prediction(one()),
    "compare": lambda: render.compare([one(), one(position=2)]),
    "compare labels": lambda: render.compare([one(), one()], labels=["عاصمة", "מילה"]),
    "compare map": lambda: render.compare([one(), one(position=2)], kind="map"),
    "paths": lambda: render.circuit(circuits.head_paths(tokens=TOKENS), source=1),
    "bands": lambda: render.circuit(circuits.flow_path(tokens=TOKENS)),
    "flow": lambda: render.circuit(circuits.flow(tokens=TOKENS)),
}


@pytest.mark.parametrize("orders", [True, False])
@pytest.mark.parametrize("name", FIGURES)
def test_figures_isolate_where_matplotlib_orders_letters(monkeypatch, name, orders):
    monkeypatch.setattr("tl_scopes.render.figures.letters._ORDERS_LETTERS", orders)
    figure = FIGURES[name]()
    said = " ".join([figure.get_suptitle(), figure.get_supxlabel()])
    texts = [ax.get_title(loc="left") for ax in figure.axes] + said.splitlines()
    if name == "map":
        texts += [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert any(map(TURNS.search, texts))
    if orders:
        assert [text for text in texts if outside(text)] == []
    else:
        assert not any("\u2068" in text or "\u2069" in text for text in texts)


def test_errors_and_reprs_isolate_what_they_quote():
    assert outside(repr(one())) == [] and TURNS.search(repr(one()))
    bad = (Candidate(0, " مدينة", float("nan")),)
    with pytest.raises(RenderError) as error:
        render.prediction(one(prediction=bad))
    assert outside(str(error.value)) == [] and TURNS.search(str(error.value))
    assert message(f"got {isolated('שלום')} here") == f"got {isolated('שלום')} here"


def test_a_target_of_several_tokens_is_quoted_so():
    model = zoo.shared(zoo.names()[0])
    with pytest.raises(TargetError) as error:
        attribute(model, zoo.TEXT, SemanticScope(" مدينة القاهرة"))
    assert outside(str(error.value)) == [] and TURNS.search(str(error.value))


def test_a_name_that_is_cut_ends_what_it_began():
    long = dataclasses.replace(
        one(), scope=ScopeInfo("function", dict.fromkeys("abcdef", "مدينة" * 11))
    )
    assert outside(build(long).subtitle) == []
