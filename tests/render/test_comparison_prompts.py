"""Comparisons of a clean and a corrupted prompt, position by position."""

from __future__ import annotations

import dataclasses

import pytest

import tl_scopes as ts
from support import zoo
from support.pictures import attribution, caption, headings, names, said, sequence
from tl_scopes import render

CLEAN = ("<bos>", " The", " capital", " of", " France", " is")
DIRTY = ("<bos>", " The", " capital", " of", " Italy", " is")
SCORES = [[9, 1, 2, 3, 4, 5]]


def labels(figure):
    """The texts of the tokens, and their weights."""
    ax = next(ax for ax in figure.axes if len(ax.get_xticks()))
    ticks = ax.get_xticklabels()
    return [t.get_text() for t in ticks], [t.get_fontweight() for t in ticks]


def two(kind="bars", **options):
    pair = [attribution(CLEAN, SCORES), attribution(DIRTY, SCORES)]
    return render.compare(pair, kind=kind, **options)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["bars", "map"])
def test_tokens_that_differ_are_both_shown(kind, dark, amiss):
    figure = two(kind, dark=dark)
    texts, weights = labels(figure)
    assert texts == ["<bos>", "·The", "·capital", "·of", "·France / ·Italy", "·is"]
    assert [w == "bold" for w in weights] == [False] * 4 + [True, True]  # and the read
    told = headings(figure) if kind == "bars" else names(figure)
    assert told[0].startswith("with “·France”") and told[1].startswith("with “·Italy”")
    assert caption(figure).startswith("2 attributions of 2 prompts at embed · read at 5 “·is” · 6")
    assert "tokens that differ are bold, in the order of the attributions" in said(figure)
    row = amiss(figure, dpi=60)
    assert not row["cut"] and not row["overlapping"]


def test_one_prompt_is_told_as_before():
    figure = render.compare([attribution(CLEAN, SCORES)] * 2, ["a", "b"])
    assert caption(figure).startswith("2 attributions of one prompt")
    assert "differ" not in said(figure) and headings(figure)[0].startswith("a · logit")


def test_labels_stay_and_prompts_are_added():
    told = headings(two(labels=["clean", "corrupted"]))
    assert told[0].startswith("clean · with “·France”")
    assert told[1].startswith("corrupted · with “·Italy”")


def test_more_than_three_texts_at_a_position_end_in_an_ellipsis():
    many = [attribution((*CLEAN[:4], f" x{i}", " is"), SCORES) for i in range(5)]
    assert labels(render.compare(many))[0][4] == "·x0 / ·x1 / ·x2 / …"
    assert labels(render.compare(many[:3]))[0][4] == "·x0 / ·x1 / ·x2"


def test_words_of_several_tokens_are_compared_as_groups():
    clean = attribution(("<bos>", " The", " Eif", "fel", " Tower"), [[9, 1, 2, 3, 4]]).group()
    dirty = attribution(("<bos>", " The", " Colosseum", " Tower"), [[9, 1, 2, 3]]).group()
    figure = render.compare([clean, dirty])
    assert labels(figure)[0][2] == "·Eiffel / ·Colosseum"
    assert "4 groups (root of summed squares) of 5 tokens and 4 groups" in caption(figure)


def test_a_read_token_that_differs_is_named_for_each():
    a, b = attribution(CLEAN, SCORES, position=4), attribution(DIRTY, SCORES, position=4)
    assert "read at 4 “·France”" in headings(render.compare([a, b]))[0]
    assert "read at" not in caption(render.compare([a, b]))


def test_reads_of_two_sequences():
    a, b = sequence(CLEAN), sequence(DIRTY)
    assert labels(render.compare([a.at(5), b.at(5)]))[0][4] == "·France / ·Italy"


def test_a_clean_and_a_corrupted_prompt_of_a_model():
    model = zoo.shared(zoo.names()[0])
    texts = zoo.TEXT, zoo.TEXT.replace("France", "Italy")
    pair = [ts.attribute(model, text, ts.SemanticScope()) for text in texts]
    if len({len(a.str_tokens) for a in pair}) > 1:
        pair = [a.group() for a in pair]
    (at,) = [i for i, label in enumerate(labels(render.compare(pair))[0]) if "/" in label]
    assert pair[0].str_tokens[at] == " France" and dataclasses.is_dataclass(pair[0])
