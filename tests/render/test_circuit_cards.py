"""Reports of circuits: what page, terminal and figures say, whatever results are called."""

from __future__ import annotations

import dataclasses
import io
import warnings

import pytest
from rich.console import Console

from support.browser import check_quiet, needs_browser, visit
from support.circuit_cards import card, falling, nodes, sampled
from support.faithfulness_cards import HOSTILE
from support.pictures import Shape, headings, said, saved
from tl_scopes import render
from tl_scopes.circuits.stability import bootstrap
from tl_scopes.errors import RenderError
from tl_scopes.render.report.words import name
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


# --- the card -----------------------------------------------------------------------------------

KINDS = ("faithfulness", "nodes", "edges", "stability")


@pytest.fixture(scope="module")
def whole():
    return card(HOSTILE[:2], HOSTILE[2:3], apart=False)


@pytest.fixture(scope="module")
def page(whole):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a character without a glyph, a layout that does not fit
        return whole.to_html()


def test_the_page_of_a_card_holds_everything(whole, page):
    shape = Shape(page)
    for of in ("nodes", "edges"):
        for label in whole.names:
            assert name(label) in shape.text
            assert whole.stability(of, label).verdict().text in shape.text
            for member in whole.members(of, label)["label"]:
                assert member in shape.text
    assert shape.tags.count("img") == len(KINDS)
    assert "judged on the pairs that they were found on" in shape.text
    assert not any(address.startswith("http") for address in shape.addresses)


def test_the_same_is_said_without_a_page(whole):
    apart = card(HOSTILE[:2])
    text = whole.to_markdown()
    assert "flatters" in text and "flatters" not in apart.to_markdown()
    for heading in ("What the model does", "What circuits keep", "Largest edges", "Is it stable?"):
        assert f"## {heading}" in text
    assert "What the model does" not in printed(whole) and "told apart" in printed(whole)
    assert "not stable" in printed(whole)


def test_a_metric_that_tells_little_apart_is_warned_of(whole):
    own = dataclasses.replace(whole.nodes[0], corrupted=whole.nodes[0].clean + 1)
    poor = dataclasses.replace(whole, nodes=(own, whole.nodes[1]))
    assert "tells clean from corrupted in only" in Shape(poor.to_html()).text
    assert "tells clean from corrupted in only" not in Shape(whole.to_html()).text


def test_every_figure_of_a_card(whole):
    figures = {kind: saved(whole.plot(kind)) for kind in KINDS}
    for ax, curves in zip(figures["faithfulness"].axes, (whole.node_curves, whole.edge_curves)):
        drawn = [line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 7]
        assert [curve.f.tolist() for curve in curves] == drawn[1:]
        assert drawn[0] == curves[0].random_f.mean(0).tolist()
    for kind in ("nodes", "edges"):
        for ax, label in zip(figures[kind].axes, whole.names):
            places = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
            assert places == whole.members(kind, label)["effect"].tolist()
    assert headings(figures["stability"]) == ["nodes", "edges"]
    saved(whole.plot("nodes", dark=True))
    with pytest.raises(RenderError, match="kind is 'aopc'; allowed: 'faithfulness'"):
        whole.plot("aopc")


@needs_browser
def test_a_browser_shows_the_card_quietly(page, tmp_path):
    for width in (1300, 500):  # no window of this browser is narrower
        probe = visit(page, tmp_path, f"--window-size={width},900", probe=PROBE)
        check_quiet(probe)
        assert probe["images"] == [True] * len(KINDS) and not probe["wide"]
