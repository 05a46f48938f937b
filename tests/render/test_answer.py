"""Answers as readers meet them: point, drag, keys, sites, turns of a conversation, no script, long ones.
What is coloured is held to sums that a plain loop makes."""

from __future__ import annotations

import base64
import dataclasses
import re

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.browser import TOKENS, same_colour, text
from support.browser import sequence as hostile
from support.infos import info, sequence_like
from support.pictures import attribution, labels, printed, said, sequence
from support.served_app import Visitor, needs_playwright
from tl_scopes import baselines, circuits, render
from tl_scopes.render.answer import lay_out
from tl_scopes.render.colours import Scale, number
from tl_scopes.render.pages.answer import packed
from tl_scopes.render.picture import build
from tl_scopes.render.tokens import visible
from tl_scopes.results.attribution import SequenceAttribution
from tl_scopes.results.records import Candidate, Chat, Continuation, ScopeInfo, Token

WORDS = ("<bos>", "<u>", " Where", "\n", " is", "<a>", " In", " Åre", "שלום", " .")
START, N = 6, len(WORDS)
CHAT = Chat(("user", "assistant"), (-1, 0, 0, 0, 0, 1, 1, 1, 1, 1),
            tuple(t not in (0, 1, 5) for t in range(N)))  # fmt: skip
SCOPES = {
    "norm": info("semantic", {"target": " Paris"}),
    "sum": info("fisher", {"rank": 4}),
    "signed": info("input_x_gradient", {"reduce": "sum"}),
    "none": ScopeInfo("leave_one_out", joining="none"),
}


def answer(how: str = "norm", sites=("embed", "resid(1)"), **changes) -> SequenceAttribution:
    """An answer of four tokens to a prompt of six."""
    scores = torch.randn(4, len(sites), N, generator=torch.Generator().manual_seed(1))
    scores = scores if how == "signed" else scores.abs()
    positions = tuple(range(START - 1, N - 1))
    for r, p in enumerate(positions):
        scores[r, :, p + 1 :] = 0
    scores[:, :, 0] = 300.0
    predictions = tuple(
        (Candidate(p + 1, WORDS[p + 1], 0.4), Candidate(99, " or", 0.3)) for p in positions
    )
    told = {
        "scope": SCOPES[how], "predictions": predictions, "targets": (None,) * 4,
        "log_probs": (-1.0, -0.5, -2.0, -0.25), "answer_start": START, "chat": CHAT,
    }  # fmt: skip
    one = attribution(WORDS, sites=sites, units="nats")
    return sequence_like(one, positions, scores, **told | changes)


def summed(result: SequenceAttribution, rows, site: int = 0, own: bool = True) -> np.ndarray:
    """Scores of several reads together, by a loop. `own`: with what each read position has itself."""
    total = np.zeros(len(result.str_tokens))
    for r in rows:
        for t in range(len(total)):
            score = float(result.scores[r, site, t])
            if own or len(rows) == 1 or t != result.positions[r]:
                total[t] += score**2 if result.scope.joining == "norm" else score
    return np.sqrt(total) if result.scope.joining == "norm" else total


def check(visitor: Visitor, scores: np.ndarray, last: int, kind="linear", own: bool = True) -> None:
    """Tokens 1 to `last` have the colours of `scores`, and all others none; the list says the largest."""
    inside = [0 < t <= last - (not own) for t in range(len(scores))]
    values = np.where(inside, Scale.fit(scores[inside], kind)(scores), 0.0)
    chips = visitor.page.locator(".tls-t")
    seen = chips.evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    assert [same_colour(css, v) for css, v in zip(seen, values)] == [True] * len(scores)
    top = int(np.argmax(np.where(inside, np.abs(scores), -1)))
    shown = visitor.page.locator(".tls-side li").first.inner_text().split()
    assert shown[0] == visible(WORDS[top])
    assert float(shown[-1]) == pytest.approx(float(number(scores[top])), rel=6e-3)


def status(visitor: Visitor) -> str:
    return visitor.page.locator(".tls-status").inner_text()


def drag(visitor: Visitor, start: int, end: int) -> None:
    boxes = [visitor.page.locator(".tls-t").nth(t).bounding_box() for t in (start, end)]
    for i, box in enumerate(boxes):
        visitor.page.mouse.move(box["x"] + 4, box["y"] + 8, steps=3)
        (visitor.page.mouse.up if i else visitor.page.mouse.down)()


@needs_playwright
@pytest.mark.parametrize("how", ["norm", "sum", "signed"])
@pytest.mark.parametrize("kind", ["linear", "log"])
def test_pointing_dragging_and_keys_colour_what_a_loop_sums(opened, how, kind):
    made = answer(how)
    own = kind == "linear"
    visitor = opened(made.to_html(scale=kind, include_read=own))
    chips, keys = visitor.page.locator(".tls-t"), visitor.page.keyboard
    whole = summed(made, range(4), own=own)
    check(visitor, whole, N - 2, kind, own)
    assert status(visitor) == "The whole answer, 4 tokens: log-probability -3.75 nats."
    assert visitor.page.locator(".tls-later").count() == 0
    chips.nth(7).hover()
    check(visitor, summed(made, [1]), 6, kind, own)
    assert visitor.page.locator(".tls-later").all_inner_texts() == ["שלום", "·."]
    assert status(visitor) == "·Åre, read at 6 ·In: probability 60.7%."
    tip = visitor.page.locator(".tls-tip").inner_text().split("\n")
    assert tip == ["·Åre", "position 7, id 7", "probability 60.7%", "others: ·or 30.0%"]
    drag(visitor, 7, 9)
    several = "·Åreשלום·., 3 tokens: log-probability -2.75 nats, -0.917 each."
    for _ in range(2):
        check(visitor, summed(made, [1, 2, 3], own=own), 8, kind, own)
        assert status(visitor) == several
        keys.press("Escape")
        check(visitor, whole, N - 2, kind, own)
        # The same once more, by keys alone, from the first token of the answer on.
        keys.press("Home")
        check(visitor, summed(made, [0]), 5, kind, own)
        for key in ("ArrowRight", "Shift+ArrowRight", "Shift+End"):
            keys.press(key)
    chips.nth(2).hover()  # what is kept stays
    assert status(visitor) == several
    tip = visitor.page.locator(".tls-tip").inner_text().split("\n")
    there = summed(made, [1, 2, 3], own=own)[2]
    assert float(tip[2]) == pytest.approx(float(number(there)), rel=6e-3) and tip[3] == "nats"
    visitor.page.emulate_media(media="print")  # what is kept, without what takes a pointer
    check(visitor, summed(made, [1, 2, 3], own=own), 8, kind, own)
    assert status(visitor) == several and not visitor.page.locator(".tls-hint").is_visible()


@needs_playwright
def test_the_tab_key_leads_to_one_token_and_on(opened):
    visitor = opened(answer().to_html())
    focused = "() => document.activeElement.className"
    seen = []
    for _ in range(3):
        visitor.page.keyboard.press("Tab")
        seen.append(visitor.page.evaluate(focused))
    assert seen[0] == "" and "tls-read" in seen[1] and "tls-read" not in seen[2]
    pressed = visitor.page.locator("[role=button][aria-pressed=true]")
    assert pressed.all_inner_texts() == ["·In"] and status(visitor).startswith("·In, read at 5")


@needs_playwright
@pytest.mark.parametrize("normalise", ["site", "all"])
def test_a_site_is_chosen_and_the_map_follows(opened, normalise):
    made = answer("sum")
    visitor = opened(made.to_html(normalise=normalise))
    before = visitor.page.locator(".tls-heat img").get_attribute("src")
    visitor.page.locator(".tls-site input").press("ArrowRight")
    assert visitor.page.locator(".tls-site output").inner_text() == "resid(1)"
    check(visitor, summed(made, range(4), 1), N - 2)
    assert visitor.page.locator(".tls-heat img").get_attribute("src") != before
    alone = opened(made.to_html(normalise=normalise, site=1))
    ticks = []
    for page in (visitor.page, alone.page):
        page.locator(".tls-t").nth(8).click()
        ticks.append(page.locator(".tls-ticks").inner_text())
    largest = made.scores[:, 1, 1:].max() if normalise == "all" else made.scores[2, 1, 1:].max()
    assert ticks[0] == ticks[1] and number(float(largest)) in ticks[0]


@needs_playwright
def test_scores_that_nothing_joins_are_shown_one_by_one(opened):
    made = answer("none")
    visitor = opened(made.to_html())
    assert "several for their sum" not in visitor.page.locator(".tls-hint").inner_text()
    check(visitor, made.scores[3, 0].double().numpy(), 8)
    drag(visitor, 6, 8)
    check(visitor, made.scores[0, 0].double().numpy(), 5)


@needs_playwright
def test_words_of_an_answer_are_chosen_whole(opened):
    made = answer().group([(6, 8)])
    visitor = opened(made.to_html())
    visitor.page.locator(".tls-t").nth(6).click()
    assert status(visitor) == "·In·Åre, 2 tokens: log-probability -1.5 nats, -0.75 each."
    visitor.page.locator(".tls-t").nth(6).click()  # lets go; what is pointed at goes on being shown
    visitor.page.locator(".tls-t").nth(7).hover()
    assert status(visitor) == "שלום, read at 7 ·Åre: probability 13.5%."


@needs_playwright
@pytest.mark.parametrize("styled", [True, False], ids=["styled", "bare"])
def test_without_scripts_the_whole_answer_is_coloured(opened, styled):
    made = answer("signed")
    page = made.to_html()
    if not styled:
        page = re.sub(r"<style\b.*?</style>", "", page, flags=re.S)
    visitor = opened(page, scripts=False)
    check(visitor, summed(made, range(4)), N - 2)
    assert visitor.page.locator(".tls-t").all_text_contents() == [visible(word) for word in WORDS]
    body = visitor.page.locator("body").inner_text()
    assert "Point at" not in body and "The whole answer, 4 tokens" in body and "embed" in body
    assert "root of the sum" not in body and "several tokens: sum" in body
    visitor.shoot(f"no-scripts-answer-{'styled' if styled else 'bare'}")


@needs_playwright
def test_hostile_tokens_stay_text_however_they_are_touched(opened):
    visitor = opened(render.html(hostile()))
    chips = visitor.page.locator(".tls-t")
    texts = chips.all_text_contents()
    assert texts[:-1] == [visible(token) for token in TOKENS] and texts[-1] == "→ next17"
    for t in range(len(TOKENS) + 1):
        chips.nth(t).hover()
        chips.nth(t).click()
    visitor.page.keyboard.press("Shift+Home")
    assert "pwned" not in visitor.page.title()
    tags = "all => [...new Set(all.flatMap(e => [...e.querySelectorAll('*')]).map(e => e.tagName))]"
    assert set(visitor.page.locator(".tls-answer").evaluate_all(tags)) <= {"DIV", "SPAN", "I", "BR"}


@needs_playwright
def test_notebook_outputs_share_a_page(opened):
    made = [answer("norm"), answer("sum")]
    page = "<!doctype html><meta charset=utf-8>" + "".join(x._repr_html_() for x in made)
    visitor = opened(page)
    first, second = visitor.page.locator(".tls-status").all()
    visitor.page.locator(".tls-t").nth(7).click()
    assert first.inner_text().startswith("·Åre") and second.inner_text().startswith("The whole")


def test_turns_of_a_conversation_have_their_roles():
    for made in (answer(), answer().at(7)):
        page = made.to_html()
        turns = re.findall(r'<div class="tls-turn">(?:<b class="tls-role">(.*?)</b>)?', page)
        assert turns == ["", "user", "assistant"]
        dim = re.findall(r'<span class="[^"]*tls-template[^"]*"[^>]*>(.*?)</span>', page)
        assert dim == ["&lt;bos&gt;", "&lt;u&gt;", "&lt;a&gt;"]
    grouped = lay_out(answer().group([(1, 5), (5, N)]))
    assert grouped.template == {0} and [role for role, _ in grouped.turns] == [
        "",
        "user",
        "assistant",
    ]
    roles = re.findall(r'<b class="tls-role">(.*?)</b>', answer(chat=None).to_html())
    assert roles == ["prompt", "answer"]
    assert '<b class="tls-role">' not in sequence().to_html()


def test_titles_say_which_tokens_an_answer_explains():
    """Of the scope that explains whatever is written; and ids of a continuation are shown as text."""
    model = zoo.shared(zoo.names()[0])
    made = ts.attribute_generation(model, zoo.TEXT, max_new_tokens=3)
    title = "What moves the logit of each token {}"
    assert title.format("of the answer") in made.to_html()
    assert title.format("that is explained") in made.over_reads().to_html()
    assert "What moves the logit of the next token" in made.at(made.answer_start).to_html()
    other = ts.attribute_generation(model, zoo.TEXT, ts.SemanticScope(5), max_new_tokens=3)
    assert "What moves the logit of the next token" in other.to_html()
    scope = ts.ContinuationScope([9, 5], " of")
    said = "the log-probability of “·Germany·the” against that of “·of”"
    for found in (
        ts.attribute(model, zoo.TEXT, scope),
        baselines.InputXGradient(scope).attribute(model, zoo.TEXT),
        baselines.LeaveOneOut(scope, "log_prob").attribute(model, zoo.TEXT),
    ):
        assert said in re.sub("</?bdi>", "", found.to_html())
        assert found.scope.parameters["continuation"] == (9, 5), "to ask again"
    circuit = circuits.components(model, zoo.TEXT, ts.ContinuationScope([9, 5]))
    assert "“·Germany·the”" in circuit.plot().get_suptitle()
    circuits.verify(model, zoo.TEXT, circuit, by="head", top=4, steps=[1])


def test_a_continuation_is_told_from_its_prompt():
    tokens = tuple(Token(t, WORDS[t]) for t in range(START, N))
    both = Continuation((5, 6, 7, 8), tokens, (-1.0, -0.5, -2.0, -0.25), tokens[:1], (-0.5,))
    made = attribution(WORDS, position=8, target=None, prediction=(), continuation=both)
    told = "read at 5 to 8 · log-probability -3.75 less -0.5 nats"
    page = re.sub("</?bdi>", "", made.to_html())
    assert told in page and "position 7, id 7, probability 60.7%" in page
    assert re.findall(r'<b class="tls-role">(.*?)</b>', page) == ["prompt", "continuation"]
    figure = made.plot()
    assert "log-probability -3.75 less -0.5 nats" in figure.get_suptitle()
    assert "the continuation begins at the broken line" in said(figure)
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == [START - 0.5] * 2
    lines = printed(made, 200).splitlines()
    assert any(line.startswith("·In") for line in lines)


def test_a_matrix_of_sources_by_answer_tokens():
    narrow = answer()
    padded = torch.cat([torch.ones(1, 2, N), narrow.scores])
    wide = dataclasses.replace(
        narrow, positions=(2, *narrow.positions), scores=padded, targets=(None,) * 5,
        predictions=((),) * 5, fishers=(None,) * 5, log_probs=(-9.0, *narrow.log_probs),
    )  # fmt: skip
    for made in (narrow, wide):  # what was read in the prompt is no part of the answer
        figure = made.plot()
        ax = figure.axes[0]
        names = [re.sub("[\u2066-\u2069]", "", name) for name in labels(ax.yaxis)]
        assert names == ["6 ·In", "7 ·Åre", "8 שלום", "9 ·."]
        image = ax.images[0].get_array()
        assert image.shape == (4, N) and image[3, 8] == pytest.approx(
            float(narrow.scores[3, 0, 8] / narrow.scores[3, 0, 1:].max())
        )
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("source token", "answer token")
        assert "the answer -3.75 nats" in figure.get_suptitle()
    assert [row.label for row in build(sequence()).rows] == ["1 The", "2 ·capital", "3 ·is"]


def test_numbers_that_bos_towers_over_keep_their_digits():
    made = lay_out(answer())
    scores = made.scores[0] * 10.0 ** -np.arange(4)[:, None]
    scores[:, 0] = 1e4
    found = packed(scores, made.picture.rows)
    halves = np.frombuffer(base64.b64decode(found["data"]), "<f2").astype(float)
    for row, size, r in zip(made.picture.rows, found["sizes"], range(4)):
        part, halves = halves[: row.position + 1] * size, halves[row.position + 1 :]
        assert part == pytest.approx(scores[r, : row.position + 1], rel=2**-11)
    assert not len(halves)


@needs_playwright
def test_1500_tokens_are_one_element_each_in_a_small_file(opened):
    one, n, start = text(1500), 1500, 1000
    reads = tuple(range(start - 1, n - 1))
    scores = torch.rand(len(reads), 1, n, generator=torch.Generator().manual_seed(0)) ** 8
    scores *= torch.arange(n) <= torch.tensor(reads)[:, None, None]
    made = sequence_like(one, reads, scores, answer_start=start, predictions=((),) * len(reads))
    page = made.to_html()
    assert len(page) < 2_500_000
    visitor = opened(page, (1300, 900))
    assert (
        visitor.page.locator(".tls-t").count() == n
        and visitor.page.locator(".tls *").count() < 5000
    )
    visitor.page.locator(".tls-t").nth(1400).click()
    visitor.page.keyboard.press("Shift+End")
    assert status(visitor).endswith(", 100 tokens.")
    total = (scores[400:, 0].double() ** 2).sum(0).sqrt().numpy()
    values = Scale.fit(total[1:1499], "linear")(total)
    seen = visitor.page.locator(".tls-t").evaluate_all(
        "all => all.map(e => getComputedStyle(e).backgroundColor)"
    )
    assert all(same_colour(css, v) for css, v in list(zip(seen, values))[1:1499])
