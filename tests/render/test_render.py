"""Pictures: numbers, options, errors, and tokens that try to get out. No browser, no model."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import stat
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.pictures import HOSTILE, PROVENANCE, Shape, attribution, printed, saved, sequence
from tl_scopes import render
from tl_scopes.errors import RenderError, SiteError
from tl_scopes.render.pages.circuitsvis import widget
from tl_scopes.render.picture import build
from tl_scopes.render.tokens import visible
from tl_scopes.results.attribution import SequenceAttribution
from tl_scopes.results.records import Candidate, FisherInfo, ScopeInfo, Token

# --- options --------------------------------------------------------------------------------


def test_bos_and_later_tokens_take_no_part_in_the_colours():
    row = build(attribution(position=2)).rows[0]
    assert row.included.tolist() == [False, True, True, False]
    assert row.colours == pytest.approx([0, 0.5, 1, 0])
    assert row.scale.limit == pytest.approx(0.2)
    assert build(attribution(position=2), include_bos=True).rows[0].scale.limit == 9
    unread = build(attribution(), include_read=False).rows[0]
    assert unread.included.tolist() == [False, True, True, False]
    assert build(attribution(has_bos=False)).rows[0].included.all()


def test_each_site_has_its_own_scale_unless_told():
    result = attribution(sites=("embed", "resid(0)"), scores=[[9, 1, 2, 1], [9, 3, 4, 8]])
    own = build(result)
    assert [row.scale.limit for row in own.rows] == [2, 8]
    assert [row.colours.max() for row in own.rows] == [1, 1]
    common = build(result, normalise="all")
    assert [row.scale.limit for row in common.rows] == [8, 8]
    assert common.rows[0].colours.max() == 0.25


def test_sites_are_chosen_by_label_or_index_in_order():
    result = attribution(sites=("embed", "resid(0)", "resid(1)"))
    assert [r.label for r in build(result, sites=["resid(1)", 0]).rows] == ["resid(1)", "embed"]
    assert [r.label for r in build(result, site="resid(0)").rows] == ["resid(0)"]
    assert [r.label for r in build(result, sites=-1).rows] == ["resid(1)"]
    with pytest.raises(SiteError, match="no site 'nowhere'"):
        build(result, sites=["nowhere"])


def test_a_sequence_has_a_row_for_each_read_position():
    picture = build(sequence(), site="resid(1)")
    assert [row.label for row in picture.rows] == ["1 The", "2 ·capital", "3 ·is"]
    assert [int(row.included.sum()) for row in picture.rows] == [1, 2, 3]
    assert picture.site == "resid(1)" and picture.first == 2
    assert build(sequence()).site == "embed"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    result = attribution(scores=[[0, 1, bad, 2]])
    with pytest.raises(RenderError, match="site 'embed', position 2"):
        render.html(result)
    with pytest.raises(RenderError, match="NaN or infinite"):
        render.figure(attribution(standard_error=torch.full((1, 4), bad)))


# --- page -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [1, 3])
def test_hostile_tokens_stay_text_in_the_page(sites):
    result = attribution(
        HOSTILE, sites=[f"site<b>{i}" for i in range(sites)], target=Token(1, "</script><b>"),
        prediction=tuple(Candidate(i, t, 0.01) for i, t in enumerate(HOSTILE)),
        units="<u>nat</u>", scope=ScopeInfo("<em>", {"x": "</title>"}),
        provenance=dataclasses.replace(PROVENANCE, model="<a href=x>"),
    )  # fmt: skip
    page = render.html(result)
    page.encode("utf-8")
    shape = Shape(page)
    assert not {"s", "u", "a", "bos"} & set(shape.tags)
    assert shape.tags.count("script") == 1 and shape.tags.count("img") == (sites > 1)
    assert not [name for name, _ in shape.attributes if name.startswith("on")]
    for token in HOSTILE:
        assert visible(token) in shape.text
    call = page[page.index('CircuitsVis.render("tls-tokens"') :]
    assert "<" not in call[: call.index("\n")]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=6), min_size=1, max_size=5))
def test_any_tokens_survive_the_way_through_circuitsvis(tokens):
    made = widget(build(attribution(tokens)), "x")
    props = json.loads(made.call.partition("ColoredTokens, ")[2].removesuffix(");"))
    shown = [html.unescape(re.sub(r"<!--\s*-->|</?i>", "", token)) for token in props["tokens"]]
    assert shown == [visible(token) for token in tokens]
    assert Shape(made.fallback).text == "".join(shown)


@pytest.mark.parametrize("result", [attribution(), attribution(sites=("embed", "a")), sequence()])
def test_the_page_refers_to_nothing_outside(result):
    page = render.html(result)
    drawn_there = not isinstance(result, SequenceAttribution)
    assert page.count('"use strict";var CircuitsVis=') == drawn_there
    assert "default-src 'none'" in page and "sourceMappingURL" not in page
    assert "unpkg" not in page and "import {" not in page and "//cdn" not in page
    assert all(x.startswith("data:image/png;base64,") for x in Shape(page).addresses)
    own = page
    if drawn_there:
        own = page[page.rindex("CircuitsVis.render") :] + page[: page.index('"use strict"')]
    assert "http" not in own.replace('http-equiv="Content-Security-Policy"', "")
    assert "url(" not in own


def test_the_page_says_what_it_shows():
    result = attribution(
        scores=[[9, 0.2, 0.4, 0.1]], standard_error=torch.full((1, 4), 0.02),
        fisher=FisherInfo((2.0, 1.0), 4.0, 0.75, 8),
    )  # fmt: skip
    text = Shape(render.html(result)).text
    for part in (
        "What moves the logit of the next token “·Paris”", "semantic(target=' Paris')",
        "read at 3 “·is”", "logit per unit of residual", "linear colours",
        "BOS “<bos>” not coloured", "60.0%", "<0.1%",
        "the top 2 hold 75.0% of the trace 4; 8 random directions estimate the rest",
        "0.4 ± 0.02 (one standard error, 5.0%)",
        "tiny", "HookedTransformer", "float32 on cpu", "torch 2",
    ):  # fmt: skip
        assert part in text, part
    ticks = re.findall(r'<span style="left:([\d.]+)%">([^<]+)</span>', render.html(result))
    assert ticks == [("0", "0"), ("50", "0.2"), ("100", "0.4")]
    log = render.html(result, scale="log", include_bos=True)
    assert re.findall(r'<span style="left:[\d.]+%">([^<]+)</span>', log) == ["≤ 0.09", "0.9", "9"]
    assert "logarithmic colours" in log and "not coloured" not in log


def test_the_target_in_the_prompt_and_missing_from_the_prediction_is_marked():
    page = render.html(attribution(position=2, target=Token(3, " is")))
    assert ':nth-of-type(4){--note:"target"}' in page
    assert ':nth-of-type(3){--note:"read"}' in page
    assert "not among those above" in page
    assert "class=tls-target" in render.html(attribution())


def test_edges_are_drawn_by_every_picture():
    for result in (
        attribution(("<bos>",), [[0.0]]),
        attribution(scores=[[0, 0, 0, 0]]),
        attribution(scores=[[1e-38, 1e-42, 3e-45, 0]]),
        attribution(scores=[[1e38, 3e38, 1e-30, 0]]),
        attribution(scores=[[0, -1, 2, -0.5]]),
        attribution(sites=[f"s{i}" for i in range(31)], scores=np.zeros((31, 4)).tolist()),
        attribution(prediction=(), target=None),
        sequence(("<bos>", "a")),
    ):
        for scale in ("linear", "log"):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert "nan" not in Shape(render.html(result, scale=scale)).text
                assert printed(result, scale=scale)
                saved(render.figure(result, scale=scale))


def test_the_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    page = render.html(attribution(), path)
    assert path.read_text(encoding="utf-8") == page
    assert stat.S_IMODE(path.stat().st_mode) & 0o444
    assert render.html(attribution(), str(path)) == page  # the same result, the same page

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        render.html(attribution(sites=("a", "b")), path)
    assert path.read_text(encoding="utf-8") == page
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_notebook_outputs_do_not_collide():
    first, second = render.notebook(attribution()), render.notebook(attribution())
    section = r'<section class="tls" id="([^"]+)"'
    ids = [re.search(section, output.data).group(1) for output in (first, second)]
    assert ids[0] != ids[1] and first._repr_html_() == first.data
    assert ids[0] not in second.data and "<html" not in first.data
    assert attribution()._repr_html_().startswith("<style>")
