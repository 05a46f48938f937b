"""Answers whose source is known: questions are balanced, the page says what was measured, a part is run anew."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.answers import measured, page
from benchmarks.answers.questions import FACTS, questions
from support import real_models


def test_no_place_in_the_list_is_right_more_often():
    """With a first word that is shared or not; and no prompt tells otherwise whose place is asked for."""
    listed = questions(200)
    assert set(Counter((q.right, q.shared) for q in listed).values()) == {200 // (2 * FACTS)}
    assert len({q.prompt for q in listed}) == 200
    assert questions(20) == listed[:20]
    for q in listed:
        places = [fact.split(" lives in")[1].rstrip(".") for fact in q.facts]
        people = [fact.split(" lives in")[0] for fact in q.facts]
        assert (places[q.right], places[q.other]) == (q.answer, q.versus) and q.right != q.other
        assert q.prompt.endswith(f"{people[q.right]} lives in")
        for word in (0, 1):  # but for the first words of places
            assert len({name.split()[word] for name in people}) == FACTS
        assert len({place.split()[1] for place in places}) == FACTS
        firsts = Counter(place.split()[0] for place in places)
        assert (firsts[q.answer.split()[0]] > 1) == q.shared


def _row(span: int, first: int, place: int = 0) -> dict:
    ranks = {"span": span, "first": first}
    return {
        "place": place,
        "shared": place == 1,
        "right": place == 0,
        "tokens": 4,
        "ranks": {
            name: {how: [rank, 1] for how in ("norm", "sum")} for name, rank in ranks.items()
        },
    }


def test_the_page_counts_what_is_paired():
    rows = [_row(1, 2)] * 9 + [_row(2, 1)] + [_row(1, 1, 1)] * 10
    cell = page.paired(rows, ("span", "first"), "embed", "norm")
    assert (cell["only_a"], cell["only_b"]) == (9, 1)
    assert cell["p"] == pytest.approx(2 * 11 / 2**10)
    assert cell["difference"] == pytest.approx(0.4) and cell["low"] < 0.4 < cell["high"]
    same = page.paired(rows, ("span", "first"), "middle", "norm")
    assert same["p"] == 1 and same["difference"] == 0 and same["chance"] == pytest.approx(0.2**20)
    versions = {"torch": "2"}
    written = page.text([{"model": "m", "versions": versions, "rows": rows}])
    assert "| 20 | 95% (85 to 100) |" in written and "9 : 1; 0.02" in written
    # Half of the four comparisons: nothing differs at the middle.
    assert "less often in 0; above chance in 4 of 4" in written


def test_the_page_is_of_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.written(page.RESULTS)


@pytest.mark.real
@pytest.mark.slow
def test_the_whole_answer_finds_its_sentence_more_often_than_its_first_token():
    """Ten questions on one model; the page has two hundred on both."""
    model = real_models.shared("smollm2-135m-instruct")
    rows = [measured.row(model, question, every=False) for question in questions(10)]
    for site in measured.SITES:
        cell = page.paired(rows, ("span", "first"), site, "norm")
        assert cell["only_a"] > cell["only_b"] and cell["chance"] < 1e-4
