"""Drawings of substitutions, alone and beside the tokens of an attribution's page."""

from __future__ import annotations

import functools
import html
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

import tl_scopes as ts
from support import zoo
from support.refusals import refused
from tl_scopes.errors import RenderError
from tl_scopes.render.colours import number
from tl_scopes.results.escapes import without_isolates
from tl_scopes.results.records import Substitution

MODEL = zoo.shared(zoo.known("hooked/gpt2", "bridge/gpt2")[0])
SCOPE = ts.SemanticScope(5)


@functools.cache
def found(**given) -> ts.Substitutions:
    return ts.substitutions(
        MODEL, zoo.TEXT, SCOPE, **{"at": (1, 4), "k": 3, "verified": True} | given
    )


def test_the_figure_has_a_bar_for_each_and_a_circle_where_it_was_measured():
    figure = found().plot(top=5)
    (ax,) = figure.axes
    every = [each for place in (1, 4) for each in found().at(place)]
    strongest = sorted(every, key=lambda each: -abs(each.effect))[:5]
    widths = sorted(bar.get_width() for bar in ax.patches)
    np.testing.assert_allclose(widths, sorted(each.effect for each in strongest))
    circles = ax.collections[0].get_offsets()[:, 0]
    np.testing.assert_allclose(sorted(circles), sorted(each.measured for each in strongest))
    assert not found(verified=False).plot().axes[0].collections
    assert "<svg" not in found().to_html() and "data:image/svg" in found().to_html()
    refused(lambda: found().plot(top=0), RenderError, "top is 0")
    nothing = replace(found(), up=((), ()), down=((), ()))
    refused(nothing.plot, RenderError, "nothing to draw")


def test_the_terminal_prints_the_strongest_first():
    with (console := Console(width=160, color_system=None)).capture() as held:
        found().print(console=console)
    lines = held.get().splitlines()
    strongest = max((each for p in (1, 4) for each in found().at(p)), key=lambda e: abs(e.effect))
    assert number(strongest.effect) in lines[2] and number(strongest.measured) in lines[2]


def titles(page: str) -> list[str]:
    return [html.unescape(told) for told in re.findall(r'<span title="([^"]*)"', page)]


@pytest.mark.parametrize("signed", [True, False])
def test_a_token_of_a_page_says_its_three_strongest(signed):
    scope = SCOPE if signed else ts.FisherScope(rank=2)
    others = ts.substitutions(MODEL, zoo.TEXT, scope, at=[1, 4], k=3)
    result = ts.attribute(MODEL, zoo.TEXT, scope)
    told = titles(result.to_html(substitutions=others))
    for place in (1, 4):
        text = without_isolates(told[place])
        for each in others.at(place)[:3]:
            plus = "+" if signed and each.effect > 0 else ""
            assert f"” {plus}{number(each.effect)}" in text
        assert text.count("“") == 3 and text.endswith(others.units)
    assert "in its place" not in told[2]
    assert "in its place" not in result.to_html()
    assert (
        result.show(substitutions=others).data.count("in its place") == 4
    )  # twice: title and script


def test_a_page_of_an_answer_says_them_too():
    scope = ts.ContinuationScope([7, 8])
    others = ts.substitutions(MODEL, zoo.TEXT, scope, at=4, k=3)
    page = ts.attribute(MODEL, zoo.TEXT, scope).to_html(substitutions=others)
    assert page.count("in its place") == 2


def test_what_a_page_refuses():
    result = ts.attribute(MODEL, zoo.TEXT, SCOPE)
    other = ts.substitutions(MODEL, zoo.LONG_TEXT, SCOPE, at=1)
    refused(lambda: result.to_html(substitutions=other), RenderError, "the same prompt")
    refused(lambda: result.to_html(substitutions=result), RenderError, "of type Attribution")
    refused(lambda: result.group().to_html(substitutions=found()), RenderError, "groups")
    refused(lambda: result.plot(substitutions=found()), RenderError, "no option")


def test_strange_tokens_are_shown_as_text(tmp_path):
    strange = Substitution(3, "<img src=x onerror=alert(1)>", 2.0, 0.5, 1.5)
    result = replace(found(), up=((strange,), ()), down=((), ()))
    page = ts.attribute(MODEL, zoo.TEXT, SCOPE).to_html(substitutions=result)
    assert "<img src=x" not in page
    result.plot().savefig(tmp_path / "strange.svg")
    assert torch.equal(result.tokens, found().tokens)
