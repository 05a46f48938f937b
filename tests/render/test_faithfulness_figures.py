"""Figures of an evaluation: what they show, whatever methods are called."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from support.faithfulness_cards import (
    HOSTILE,
    LONG,
    METHODS,
    bare,
    card,
    rows,
)
from support.pictures import labels, said, saved
from tl_scopes import render
from tl_scopes.errors import RenderError
from tl_scopes.render.figures.card import kinds
from tl_scopes.results.attribution import Attribution

EVERY = [
    "aopc", "curves", "kl", "flip", "agreement", "comparisons", "randomisation", "stability", "spectrum",
]  # fmt: skip


@pytest.fixture(scope="module")
def clear():
    """The first of three methods leads everywhere."""
    return card(METHODS[:3], rows=rows(METHODS[:3], quality=[1.2, 0.5, 0.5]), failed=None)


@pytest.mark.parametrize("kind", ["kl", "flip"])
def test_what_the_page_leaves_out_can_be_drawn_too(kind):
    """All other figures, of methods with such names, are in the page of test_render_faithfulness.py."""
    made = card(HOSTILE, rows=rows(HOSTILE, 4), randomisation=None, stability=None)
    figure = saved(made.plot(kind))
    assert "gemma-3-270m" in said(figure)


def test_many_long_names_stay_apart_and_in_sight():
    figure = saved(card(LONG, rows=rows(LONG, 6, replacements=("zero",))).plot("aopc"))
    ax = figure.axes[0]
    boxes = [text.get_window_extent() for text in ax.get_yticklabels()]
    assert all(a.y0 >= b.y1 - 1 for a, b in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    shown = labels(ax.yaxis)
    assert len(set(shown)) == len(LONG)
    assert all("weighting" in x or "ting='" in x for x in shown[8:10])


def test_dots_are_means_with_intervals_and_marks(clear):
    figure = saved(clear.plot())
    means = clear.to_frame()
    own = means[(means["metric"] == "aopc_comprehensiveness") & (means["replacement"] == "zero")]
    ax = figure.axes[0]
    assert labels(ax.yaxis) == list(METHODS[:3])
    points = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert points == pytest.approx(own["mean"].tolist())
    bars = [x.get_xdata() for x in ax.lines if len(x.get_xdata()) == 2 and x.get_linewidth() == 1.6]
    assert np.array(bars) == pytest.approx(own[["low", "high"]].to_numpy())
    assert [t.get_text()[-1] == "★" for t in ax.texts] == [True, False, False]
    assert ax.get_title(loc="left") == "AOPC comprehensiveness ↑, zero"
    assert ax.get_xlabel() == "nats × share"


def test_the_matrix_colours_what_is_significant(clear):
    figure = saved(clear.plot("comparisons"))
    tests = clear.comparisons()
    first = tests[(tests["metric"] == "aopc_sufficiency") & (tests["replacement"] == "zero")]
    ax = next(ax for ax in figure.axes if ax.get_title(loc="left") == "AOPC sufficiency ↓, zero")
    drawn = ax.images[0].get_array()
    for row in first.itertuples():
        a, b = METHODS.index(row.method), METHODS.index(row.reference)
        assert bool(np.ma.getmaskarray(drawn)[a, b]) == (row.p_holm >= 0.05)
        if row.p_holm < 0.05:  # lower is better: a negative difference is blue
            assert (drawn[a, b] > 0) == (row.difference < 0) and drawn[a, b] == -drawn[b, a]
    assert f"Holm over {len(tests)} tests" in said(figure)


def test_curves_and_checks_show_their_means(clear):
    means = clear.to_frame()
    ax = saved(clear.plot("curves")).axes[0]
    own = means[(means["metric"] == "comprehensiveness") & (means["replacement"] == "zero")]
    for method, line in zip(METHODS[:3], [x for x in ax.lines if len(x.get_xdata()) == 3]):
        assert line.get_ydata() == pytest.approx(own.loc[own["method"] == method, "mean"].tolist())
    assert labels(ax.xaxis) == ["5%", "10%", "20%"]
    figure = saved(clear.plot("randomisation"))
    at = clear.randomisation.groupby(["method", "depth"])["similarity"].mean()
    drawn = [x for x in figure.axes[0].lines if len(x.get_xdata()) == 19]
    assert drawn[1].get_ydata() == pytest.approx(at[METHODS[1]].tolist())
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [f"{method} (pass)" for method in METHODS[:3]]


def test_spectra_of_different_lengths(clear):
    short = clear.spectra[(clear.spectra["index"] > 3) | (clear.spectra["k"] <= 30)]
    figure = saved(dataclasses.replace(clear, spectra=short).plot("spectrum"))
    assert figure.axes[1].texts[0].get_text().startswith("50%: k = ")
    one = short[short["k"] == 1]
    saved(dataclasses.replace(clear, spectra=one).plot("spectrum"))


def test_what_a_card_does_not_hold_is_not_drawn(clear):
    made = bare(clear.rows[clear.rows["metric"].str.startswith("loo")], clear.methods)
    assert kinds(made) == ["agreement"] and kinds(clear) == EVERY
    with pytest.raises(RenderError, match="holds nothing of it; pass one of 'agreement'"):
        made.plot()
    with pytest.raises(RenderError, match="kind='pie'"):
        clear.plot("pie")


def test_options_of_attributions_are_refused(clear):
    with pytest.raises(RenderError, match="scale='log' is no option for a FaithfulnessCard"):
        render.html(clear, scale="log")
    with pytest.raises(RenderError, match="sites=0"):
        render.figure(clear, sites=0)
    attribution = Attribution.__new__(Attribution)
    with pytest.raises(
        RenderError, match="kind='aopc' is no option for an Attribution; it takes scale"
    ):
        render.figure(attribution, kind="aopc")
