"""Reports of circuits: what page, terminal and figures say, whatever results are called."""

from __future__ import annotations

import io
import warnings

import pytest
from rich.console import Console

from support.browser import check_quiet, needs_browser, visit
from support.circuit_cards import falling, nodes, sampled
from support.faithfulness_cards import HOSTILE
from support.pictures import Shape, headings, said, saved
from tl_scopes import render
from tl_scopes.circuits.stability import bootstrap
from tl_scopes.results.stability import SAME, STABLE


@pytest.fixture(scope="module")
def one():
    return bootstrap(nodes(sampled(falling(25), 30, 2.0)), k=6, resamples=200)


@pytest.fixture(scope="module")
def several():
    results = [nodes(sampled(falling(25), 30, 1.0, seed)) for seed in range(3)]
    return bootstrap(results, k=6, resamples=200, names=HOSTILE[:3])


PROBE = """
await wait(500);
probe.images = [...document.querySelectorAll("figure img")].map((e) => e.complete && e.naturalWidth > 200);
probe.wide = document.documentElement.scrollWidth > innerWidth;
"""


def printed(result, width=100):
    out = io.StringIO()
    render.terminal(result, console=Console(file=out, width=width))
    return " ".join(out.getvalue().split())


def test_the_figure_of_stability(one, several):
    figure = saved(one.plot())
    assert "Would other pairs put the same first?" in said(figure)
    (ax,) = figure.axes
    curves = [line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 6]
    assert curves == [*one.jaccard.tolist(), one.chance.tolist()]
    thresholds = [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    assert thresholds == [SAME, STABLE]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-1] == "by chance" and len(legend) == 4
    texts = [text.get_text() for text in saved(several.plot()).legends[0].get_texts()]
    assert len(texts) == 7 and all(text.startswith("halves of") for text in texts[:-1])


def test_what_is_said_of_stability(one):
    text = one.verdict().text
    page = Shape(one.to_html())
    assert text in page.text and "Is it stable?" in page.text
    assert text in printed(one)
    for label in one.members()["label"]:
        assert label in page.text
    assert "all pairs and a resample" in page.text


def test_hostile_names_run_nothing(several):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = several.to_html()
    shape = Shape(page)
    assert HOSTILE[0] in shape.text and not any(a.startswith("http") for a in shape.addresses)
    assert headings(several.plot()) == [""]


@needs_browser
def test_a_browser_shows_it_quietly(several, tmp_path):
    probe = visit(several.to_html(), tmp_path, probe=PROBE)
    check_quiet(probe)
    assert probe["images"] == [True] and not probe["wide"]
