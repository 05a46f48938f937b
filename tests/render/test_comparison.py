"""Comparisons say of each result what does not hold for all: site, read position, joining, name, signs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from support.infos import info
from support.pictures import attribution, caption, headings, names, said, sequence
from tl_scopes import render

COMMON = {"of": "log_prob", "steps": 32, "baseline": "zero", "rule": "gausslegendre"}
CORRELATED = "rank correlation with the first"


def path(reduce, **changes):
    return attribution(scope=info("integrated_gradients", {**COMMON, "reduce": reduce}), **changes)


@pytest.mark.parametrize("labels", [None, ["a", "b"]])
def test_sites_that_differ_are_named_for_each(labels):
    a = attribution(sites=("embed", "resid(0)"))
    b = attribution(sites=("resid(3)",))
    same = render.compare([a, a], labels)
    assert "at embed · read at 3 “·is” · 4 tokens" in caption(same)
    assert not labels or not any("at embed" in heading for heading in headings(same))
    for kind, told in (("bars", headings), ("map", names)):
        figure = render.compare([a, b], labels, kind=kind)
        assert "at embed" not in caption(figure) and "read at 3" in caption(figure)
        assert ["at embed" in told(figure)[0], "at resid(3)" in told(figure)[1]] == [True, True]
    assert "at resid(0)" in caption(render.compare([a, a], labels, site=1))


def test_read_positions_that_differ_are_named_for_each():
    reads = [attribution(position=p) for p in (3, 2)]
    figure = render.compare(reads, ["a", "b"])
    assert "read at" not in caption(figure)
    assert headings(figure)[0].startswith("a · read at 3 “·is” · ")
    assert headings(figure)[1].startswith("b · read at 2 “·capital” · ")
    inside = sequence(("<bos>", " un", "bel", " x")).group()  # one group, two tokens of it
    figure = render.compare([inside.at(1), inside.at(2)])
    told = [heading.split(" · ")[0] for heading in headings(figure)]
    assert told == ["read at 1 “·un”", "read at 2 “bel”"]


def test_ways_of_joining_that_differ_are_named_for_each():
    tokens = ("<bos>", " un", "bel", " the", "y")
    norm = attribution(tokens).group()
    squares = info("fisher", {"rank": 3})
    total = attribution(tokens, scope=squares, units="nats per unit^2 of residual").group()
    assert (norm.how, total.how) == ("norm", "sum")
    figure = render.compare([norm, total])
    assert "3 groups of 5 tokens" in caption(figure)
    first, second = headings(figure)
    assert "root of summed squares" in first and "summed" in second
    both = render.compare([norm, norm])
    assert "3 groups (root of summed squares) of 5 tokens" in caption(both)


def test_names_are_made_of_the_settings_that_differ():
    two = [path("norm"), path("sum")]
    own = ["integrated_gradients(reduce='norm')", "integrated_gradients(reduce='sum')"]
    assert names(render.compare(two, kind="map")) == own
    assert [heading.split(" · ")[0] for heading in headings(render.compare(two))] == own
    three = names(render.compare([*two, attribution()], kind="map"))
    assert three == [*own, "semantic(target=' Paris')"]
    more = [attribution(scope=info("fisher", {"rank": 4, **x})) for x in ({}, {"samples": 8})]
    assert names(render.compare(more, kind="map")) == ["fisher(samples=None)", "fisher(samples=8)"]


@pytest.mark.parametrize("kind", ["bars", "map"])
@pytest.mark.parametrize("length", [20, 100, 400])
def test_long_names_end_where_they_differ_and_the_correlation_stays(kind, length):
    a = attribution(tuple("bacdef"))
    b = dataclasses.replace(a, scores=torch.tensor([[9.0, 5, 4, 3, 2, 1]]))
    long = "settings " * (length // 9)
    figure = render.compare([a, b], [f"{long} one", f"{long} two"], kind=kind)
    told = headings(figure) if kind == "bars" else names(figure)
    ends = ("one", "two") if length < 240 else ("#1", "#2")
    for text, end in zip(told, ends):
        assert f" {end}" in text
    assert f"{CORRELATED} -1" in (told[1] if kind == "bars" else said(figure))


def test_no_correlation_is_no_minus_zero():
    a = attribution(tuple("bacde"), [[9, 1, 2, 3, 4]])
    b = attribution(tuple("bacde"), [[9, 3, 1, 4, 2]])
    assert headings(render.compare([a, b]))[1].endswith(f"{CORRELATED} 0")


def test_what_the_two_colours_mean_is_said_once_or_for_each():
    signed = [[9.0, -1, 2, 4]]
    gradients = attribution(scores=signed, scope=info("input_x_gradient", {"of": "logit"}))
    without = attribution(scores=signed, scope=info("leave_one_out", {"measure": "logit"}))
    adds = "blue above 0: adds to the logit of the next token “·Paris”"
    for kind in ("bars", "map"):
        assert said(render.compare([gradients, gradients], kind=kind)).count(adds) == 1
        mixed = said(render.compare([gradients, without, attribution()], list("abc"), kind=kind))
        assert f"a: {adds}" in mixed and "b: blue above 0: the logit" in mixed
        assert "c: blue" not in mixed
    assert "blue" not in said(render.compare([attribution(), attribution()]))
