"""Prompts of which nothing is left beside BOS: the right words and colours, in every picture."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from support import circuit_drawings as circuits
from support.infos import info
from support.pictures import all_words, attribution, said, sequence
from tl_scopes import render
from tl_scopes.render.pages.page import legend
from tl_scopes.render.picture import build

SIGNED = {"scope": info("input_x_gradient", {"of": "logit"}), "units": "logit"}


def alone(score=34.2, **changes):
    return attribution(("<bos>",), [[score]], **changes)


def test_bos_alone_is_coloured_by_its_own_score():
    row = build(alone()).rows[0]
    assert row.colours.tolist() == [1.0] and row.included.all()
    assert row.scale.limit == pytest.approx(34.2) and row.strongest(8) == [0]
    for text in all_words(alone())[:2]:
        assert "34.2" in text and "zero" not in text and "not coloured" not in text
    dashed = "tls-tokens .colored-tokens>span:nth-of-type(1)>span{border-style:dashed"
    assert dashed not in render.html(alone())
    (bar,) = render.figure(alone()).axes[0].patches
    assert bar.get_height() == pytest.approx(34.2) and not bar.get_hatch()
    assert "not in the colours" not in said(render.compare([alone(), alone(3.0)]))


@pytest.mark.parametrize("score", [-2.5, 2.5])
def test_signed_scores_of_bos_alone_keep_their_sign(score):
    made = alone(score, **SIGNED)
    assert build(made).rows[0].colours.tolist() == [np.sign(score)]
    assert build(made).signed == (score < 0)
    for text in all_words(made)[:2]:
        assert "2.5" in text and "zero" not in text


def test_bos_and_a_read_position_left_out_leave_bos():
    made = attribution(("<bos>", " x"), [[34.2, 5]])
    row = build(made, include_read=False).rows[0]
    assert row.colours.tolist() == [1, 0]
    for text in all_words(made, include_read=False)[:2]:
        assert "the read position not coloured" in text and "BOS “" not in text
    plain = build(made).rows[0]
    assert plain.colours.tolist() == [0, 1]  # one token is left: it sets the scale
    for text in all_words(made)[:2]:
        assert "BOS “<bos>” not coloured" in text


@pytest.mark.parametrize("made", [alone(), attribution(("x",), [[34.2]], has_bos=False)])
def test_nothing_left_is_not_called_zero(made):
    assert build(made, include_read=False).nothing
    for text in all_words(made, include_read=False)[:2]:
        assert "zero" not in text and "no token is left to colour" in text
    render.figure(made, include_read=False)


def test_zeros_beside_bos_are_told_from_it():
    made = attribution(("<bos>", " x", " y"), [[34.2, 0, 0]])
    for text in all_words(made)[:2]:
        assert "every other score is zero" in text and "every score" not in text
    for text in all_words(attribution(("<bos>", " x", " y"), [[0, 0, 0]]))[:2]:
        assert "every score is zero" in text


def test_a_read_at_bos_in_a_sequence_has_no_scale_rather_than_zero():
    """Other reads have tokens to colour, so BOS stays out; its row says that, and holds no number."""
    made = sequence()
    rows = np.zeros((4, 2, 4), dtype=np.float32)
    rows[0, :, 0] = 34.2
    rows[1:] = made.scores.numpy()
    import torch

    whole = dataclasses.replace(
        made, scores=torch.from_numpy(rows), positions=(0, 1, 2, 3), targets=made.targets[:1] * 4,
        predictions=made.predictions[:1] * 4, fishers=(None,) * 4,
    )  # fmt: skip
    for normalise in ("site", "all"):
        picture = build(whole, normalise=normalise)
        assert not picture.rows[0].included.any() and not picture.nothing
        assert max(row.scale.limit for row in picture.rows) < 2
    page = render.html(whole)
    assert '<div class="tls-max"><span>–</span>' in page
    only = build(whole.at(0))
    assert only.rows[0].colours.tolist()[0] == 1.0


def test_heads_of_bos_alone():
    made = circuits.head_paths(tokens=("<bos>",))
    page = render.attention(made)
    assert "not coloured" not in page
    assert "zero" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert ">span:nth-of-type(1)>span{border-style:dashed" not in page
    assert "not coloured" not in said(render.circuit(made, over="tokens"))


def test_the_legend_of_nothing_has_no_numbers():
    assert '<div class="tls-ticks"></div>' in legend(build(alone(), include_read=False))
