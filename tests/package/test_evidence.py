"""Evidence: ranks are those that a hand counts, items are checked, chance is where it is said to be, runs go on."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tl_scopes as ts
from benchmarks.evidence import command, items, measured, ranks, report, tables, verdicts
from benchmarks.evidence.items import Item
from support import real_models
from tl_scopes import baselines
from tl_scopes.errors import DataError
from tl_scopes.results.joining import joined

OWN, _ = items.read(items.OWN)


@functools.cache
def tests_of_the_results() -> verdicts.Tests:
    return verdicts.Tests.of(report.by_model(report.load(report.RESULTS)))


PREFIX = Item("p", 0, "Nina photographs these beautiful", 2, "birds", contrast="x")


# ------------------------------------------------------------------------------------------------ counted by hand
@pytest.mark.parametrize(
    "scores, right, expected",
    [
        ([3.0, 1.0, 2.0], 0, 0),
        ([3.0, 1.0, 2.0], 1, 2),
        ([3.0, 1.0, 2.0], 2, 1),
        ([1.0, 1.0, 0.0], 0, 0.5),  # shares the first two places
        ([0.0, 0.0, 0.0, 0.0, 0.0], 3, 2),  # nothing is said: the middle
        ([-1.0, -3.0, 2.0], 1, 2),  # what speaks against is behind
    ],
)
def test_places(scores, right, expected):
    assert measured.place(scores, right) == expected


def test_ranks_of_joined_words():
    """Words of one, three and one tokens after BOS: 4 | 2, 2, 1 | 2.5. The second is first by its sum, 5, last by its
    largest, 2, and between the others by its norm, 3."""
    scores = torch.tensor([[9.0, 4.0, 2.0, 2.0, 1.0, 2.5]])
    spans = ((1, 2), (2, 5), (5, 6))
    found, at_all = measured._places(scores, spans, "norm", replace(PREFIX, evidence=1))
    assert found == {"norm": 1, "sum": 0, "max": 2} and list(found) == ["norm", "sum", "max"]
    assert at_all == [1]
    assert joined(scores, None, spans, "norm")[0].tolist() == [[4.0, 3.0, 2.5]]


def test_what_does_not_look_at_the_model():
    """Of several tokens, then of a later one: the third word is rarest, then the first."""
    found = measured._by_word([[900], [12], [5, 7], [30]], PREFIX)
    assert found == {measured.LAST: 1, measured.RAREST: 0}
    first = Item("p", 0, "Only my sister ran", 0, "ever", contrast="x")
    found = measured._by_word([[900], [12], [5, 7], [30]], first)
    assert found == {measured.LAST: 3, measured.RAREST: 1}


def _row(place: float, words: int = 5, effect: float = 1.0, **more: float) -> dict:
    places = {measured.SEMANTIC: place} | more
    made = {name: {"norm": each, "sum": 0, "max": 0} for name, each in places.items()}
    return {
        "item": 0,
        "words": words,
        "tokens": 1,
        "effect": effect,
        "margin": None,
        "ranks": made,
        "layers": {measured.SEMANTIC: [place, 0, place]},
    }


def _ranks(rows: list[dict], paradigm: str = "p") -> ranks.Ranks:
    return ranks.Ranks.of("m", [{"paradigm": paradigm, "rows": rows}])


def test_means_over_items():
    own = _ranks([_row(0), _row(4), _row(1, 3), _row(0.5, 2)])
    assert own.normal(measured.SEMANTIC).tolist() == [0, 1, 0.5, 0.5]
    assert own.normal(measured.SEMANTIC, "sum").tolist() == [0] * 4
    assert own.first(measured.SEMANTIC).tolist() == [1, 0, 0, 0]
    assert own.reciprocal(measured.SEMANTIC).tolist() == [1, 1 / 5, 1 / 2, 1 / 1.5]
    first, reciprocal = own.chances()
    assert first == pytest.approx((2 / 5 + 1 / 3 + 1 / 2) / 4)
    assert reciprocal == pytest.approx((2 * 137 / 60 / 5 + 11 / 18 + 3 / 4) / 4)
    assert np.isnan(own.normal("Temperature")).all()


def test_a_random_score_lies_at_chance_and_a_good_one_before_it():
    draw = np.random.default_rng(0)
    rows = [
        _row(int(draw.integers(2)), **{measured.RANDOM: int(draw.integers(5))}) for _ in range(60)
    ]
    found = ranks.against_chance([_ranks(rows)])
    random, good = found["m", measured.RANDOM, ""], found["m", measured.SEMANTIC, ""]
    assert random.outcome == ranks.OPEN and random.value.low < 0 < random.value.high
    assert good.outcome == ranks.BETTER and good.value.mean == pytest.approx(-0.375, abs=0.05)
    behind = ranks.against([_ranks(rows)], measured.SEMANTIC)["m", measured.RANDOM]
    assert behind.outcome == ranks.WORSE


def test_effects_are_compared_within_paradigms():
    """What differs between paradigms alone is no correlation; within them the word comes sooner at greater effects."""
    cells = [
        {"paradigm": name, "rows": [_row(4 - i, effect=far + i) for i in range(5)]}
        for name, far in (("a", 0.0), ("b", 100.0))
    ]
    own = ranks.Ranks.of("m", cells)
    value, *_ = ranks.by_effect([own])["m", measured.SEMANTIC]
    assert value == pytest.approx(-1)
    flat = [
        {"paradigm": name, "rows": [_row(rank, effect=far + i % 3) for i in range(6)]}
        for name, far, rank in (("a", 0.0, 0), ("b", 100.0, 4))
    ]
    value, *_ = ranks.by_effect([ranks.Ranks.of("m", flat)])["m", measured.SEMANTIC]
    assert np.isnan(value)


def test_the_deeper_site_is_judged_on_items_that_did_not_choose_it():
    rows = [_row(4, **{measured.ELSEWHERE: 0}) for _ in range(20)]
    for row in rows[::2]:
        row["layers"] = {measured.SEMANTIC: [4, 3, 0, 4, 0], measured.ELSEWHERE: [0] * 5}
    for row in rows[1::2]:
        row["layers"] = {measured.SEMANTIC: [4, 0, 2, 4, 0], measured.ELSEWHERE: [0] * 5}
    found = ranks.at_layers([_ranks(rows)])["m", measured.SEMANTIC]
    assert found.site == 2 and found.lead.value.mean == pytest.approx(-0.5)
    assert found.beyond.value.mean == pytest.approx(0.5)
    assert found.means.tolist() == [1, 0.375, 0.25, 1], (
        "the last site, which only the last token has, is left out"
    )


# ---------------------------------------------------------------------------------------------------- the items
def test_forty_of_our_own():
    assert {name: len(listed) for name, listed in OWN.items()} == dict.fromkeys(tables.SHORT, 5)
    prefixes = [item.prefix for listed in OWN.values() for item in listed]
    assert len(set(prefixes)) == 40
    for item in (item for listed in OWN.values() for item in listed):
        assert item.good not in (item.bad, item.other)
        if item.contrast is not None:
            exchanged = [a != b for a, b in zip(item.words, item.contrast.split(" "))]
            assert exchanged == [i == item.evidence for i in range(len(item.words))]
            assert len(item.contrast.split(" ")) == len(item.words)
    # Places of the deciding word differ within most paradigms, so that place alone does not tell.
    assert len({item.evidence for listed in OWN.values() for item in listed}) >= 4


@pytest.mark.parametrize(
    "one, many",
    [
        *(("book", "books"), ("lady", "ladies"), ("play", "plays"), ("glass", "glasses")),
        *(("dish", "dishes"), ("campus", "campuses"), ("child", "children"), ("thesis", "theses")),
        *(("house", "houses"), ("movie theater", "movie theaters"), ("horse", "horses")),
        *(("couch", "couches"), ("college", "colleges"), ("box", "boxes"), ("scarf", "scarves")),
    ],
)
def test_the_other_number(one, many):
    assert items._of_last(one, items.plural) == many
    assert items._of_last(many, items.singular) == one


def test_the_other_form():
    others = {item.good: item.other for listed in OWN.values() for item in listed}
    assert (others["door"], others["teeth"], others["mouse"]) == ("doors", "tooth", "mice")
    assert (others["ever"], others["least"], others["most"]) == ("never", "all", "all")
    assert others["clear"] is None and others["doesn't"] == "don't"


@pytest.mark.parametrize(
    "broken",
    [
        "[]",
        "{",
        '{"p": [{"prefix": "one two", "evidence": 2, "good": "x", "bad": "y"}]}',
        '{"p": [{"prefix": "one", "evidence": 0, "good": "x", "bad": "y"}]}',
        '{"p": [{"prefix": "one  two", "evidence": 0, "good": "x", "bad": "y"}]}',
        '{"p": [{"prefix": "one two", "evidence": 0, "good": "x"}]}',
        '{"p": [{"prefix": "one two", "evidence": 0, "good": "x", "bad": "y", "contrast": "z two"}]}',
        '{"p": ["one two"]}',
    ],
)
def test_other_files_are_refused(broken, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(broken)
    with pytest.raises(DataError, match="allowed: a JSON object"):
        items.read(path)


def test_more_items_begin_with_the_same():
    few, more = (items.drawn(OWN, n, 3) for n in (2, 4))
    assert all(more[name][:2] == few[name] for name in OWN)
    item = OWN["only_npi_licensor_present"][0]
    other = items.elsewhere(OWN, item, 0)
    assert other == items.elsewhere(OWN, item, 0) and other not in ("ever", "never")


# --------------------------------------------------------------------------------------------- from model to report
@pytest.mark.real
def test_runs_agree_with_attribute_and_go_on():
    """On one model: ranks are those of `attribute(...).group("word")`, and what is there is not measured again. Items
    of other lengths in the same passes change nothing, nor does a word of several tokens."""
    name = "smollm2-135m-instruct"
    model = real_models.shared(name)
    listed = OWN["determiner_noun_agreement_with_adj_2"]
    item = next(i for i in listed if i.good == "birds")
    beside = replace(OWN["superlative_quantifiers_2"][0], good="least of all", bad="most of all")
    products = [*measured.PRODUCTS]
    wanted = [*measured.SCOPES, *products]
    tasks = [measured.Task(each, "least", wanted) for each in (item, beside)]
    fast, other_row = measured.rows(model, tasks, 0)
    spread = np.sqrt(5 / 3 / 12 / measured.DRAWS)  # of the mean rank among four words
    assert abs(fast["ranks"][measured.RANDOM]["word"] / 3 - 0.5) < 4 * spread
    assert fast["draws"][measured.RANDOM]["reciprocal"] == pytest.approx(25 / 48, abs=0.12)
    assert {*fast["ranks"]} == {*wanted, *measured.ALWAYS} == {*other_row["ranks"]}
    word, other = (
        model.to_tokens(f" {w}", prepend_bos=False)[0].tolist() for w in ("birds", "bird")
    )
    semantic, fisher = ts.SemanticScope(word[0]), ts.FisherScope()
    asked = {
        measured.SEMANTIC: (semantic, {}),
        measured.CONTRAST: (ts.LogitDifferenceScope(word[0], other[0]), {}),
        measured.RULED["attention split"]: (
            semantic, {"rules": ts.rules.Rules(split_products="attention")}
        ),
        measured.OF_GIM.format(measured.FISHER): (fisher, {"rules": ts.rules.GIM()}),
        measured.TOKENS.format(measured.FISHER): (fisher, {"measure": "tokens"}),
    }  # fmt: skip
    for label, (scope, how) in asked.items():
        sites = "embed" if "measure" in how else "all"
        found = ts.attribute(model, item.prefix, scope, sites=sites, **how).group("word")
        texts = [text.strip() for text in found.str_tokens]
        columns = [texts.index(each) for each in item.words]
        rows = found.scores[:, columns].tolist()
        assert len(rows) == len(fast["layers"][label])
        for row, rank in zip(rows, fast["layers"][label]):
            assert rank == sorted(row, reverse=True).index(row[2]) + (row.count(row[2]) - 1) / 2
    whole = model.to_tokens(" least of all", prepend_bos=False)[0].tolist()
    instead = model.to_tokens(f" {beside.other}", prepend_bos=False)[0].tolist()
    for each, row, ids in ((item, fast, (word, other)), (beside, other_row, (whole, instead))):
        for label, contrast, reduce in zip(
            products, (None, ids[1], ids[1]), ("norm", "norm", "sum")
        ):
            scope = ts.ContinuationScope(ids[0], contrast)
            own = baselines.InputXGradient(scope, reduce=reduce).attribute(model, each.prefix)
            found = own.group("word").scores[0][own.has_bos :][: len(each.words)]
            assert row["ranks"][label][reduce] == measured.place(found, each.evidence)
    with torch.no_grad():
        both = [
            model(model.to_tokens(p))[0, -1].log_softmax(-1) for p in (item.prefix, item.contrast)
        ]
    assert fast["effect"] == pytest.approx(float(both[0][word[0]] - both[1][word[0]]), abs=2e-3)
    assert fast["margin"] == pytest.approx(float(both[0][word[0]] - both[0][other[0]]), abs=2e-3)

    task = measured.Task(item, "least", [*wanted, "Leave-one-out"], fast)
    (whole,) = measured.rows(model, [task], 0)
    assert {**whole, "ranks": 0} == {**fast, "ranks": 0}
    assert {*whole["ranks"]} - {*fast["ranks"]} == {"Leave-one-out"}
    own = baselines.LeaveOneOut(word[0], measure="log_prob").attribute(model, item.prefix)
    assert whole["ranks"]["Leave-one-out"]["max"] == measured.place(
        own.group("word", "max").scores[0][-4:], 2
    )
    assert measured.lacking(item, [*asked, "Leave-one-out"], whole) == []


def test_another_folder_is_asked_for_where_results_are_of_other_data(tmp_path):
    head = {"model": "m", "paradigm": "p", "sha256": "1", "seed": 0}
    path = tmp_path / "evidence-m-p.json"
    command.write(path, head, [_row(1)])
    assert command._before(path, head) == [_row(1)]
    with pytest.raises(DataError, match="of other sha256, seed than"):
        command._before(path, head | {"sha256": "2", "seed": 1})


@pytest.mark.parametrize("option", ["--paradigm", "--model", "--method"])
def test_unknown_names_are_refused(option, tmp_path):
    from benchmarks.__main__ import app

    answer = CliRunner().invoke(app, ["evidence", option, "nothing", "--out", str(tmp_path)])
    assert answer.exit_code == 1 and "'nothing' is not there; allowed" in answer.output


def test_report_and_page_are_of_the_results():
    assert report.REPORT.read_text(encoding="utf-8") == report.written(report.RESULTS)
    assert report.PAGE.read_text(encoding="utf-8") == report.page(report.RESULTS)


def test_random_scores_are_at_chance_in_every_table():
    """Within what their known error allows over all cells, and by the tests that all methods have."""
    tests = tests_of_the_results()
    far, allowed = verdicts.random_offset(tests)
    assert 0 < far < allowed
    cells = [each for (_, name, _), each in tests.chance.items() if name == measured.RANDOM]
    assert len(cells) > len(tables.SHORT)
    assert Counter(each.outcome for each in cells) == {ranks.OPEN: len(cells)}


def test_scores_that_favour_the_word_a_little_are_not_random():
    """A fifth of a place, over 60 prefixes of five words: 1/20 over the error, sqrt(6 / 4 / 12 / 100 / 60)."""
    rows = [_row(0, 5, **{measured.RANDOM: at}) for at in (2.0, 1.8)]
    found = [verdicts.random_offset(Mock(models=[_ranks([row] * 60)])) for row in rows]
    (exact, allowed), (favoured, _) = found
    assert exact == 0 and favoured == pytest.approx(0.05 / np.sqrt(6 / 4 / 12 / 100 / 60))
    assert 2.2 < allowed < 2.3 < favoured  # two cells: a paradigm, and all


def test_what_the_limits_say_is_what_came_out():
    tests = tests_of_the_results()
    for name in measured.METHODS:
        own = [each.outcome for (_, n, p), each in tests.chance.items() if n == name and p]
        assert set(own) != {ranks.BETTER}
    for own in tests.models:
        assert (
            tests.controls[measured.ELSEWHERE][own.model, measured.SEMANTIC].outcome == ranks.OPEN
        )
    assert len(tests.variants) == 2 * len(measured.VARIANTS)
    assert ranks.BETTER not in {each.outcome for each in tests.variants.values()}


def test_no_item_of_the_data_is_in_the_results():
    for path in report.RESULTS.glob("evidence-*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        kinds = {
            type(row[key]) for row in cell["rows"] for key in row if key not in ("ranks", "layers")
        }
        assert str not in kinds
