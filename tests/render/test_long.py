"""Figures and pages of groups of tokens, and of prompts of 200 tokens."""

from __future__ import annotations

import json
import re

import numpy as np
import torch

from support.pictures import attribution, printed, sequence, stand_apart
from tl_scopes import render
from tl_scopes.render.picture import build


def test_groups_are_drawn_by_every_picture():
    result = attribution(("<bos>", " un", "bel", " the", "y"), sites=("embed", "resid(0)")).group()
    page = render.html(result)
    assert "3 groups (root of summed squares) of 5 tokens" in page
    assert '"places":["group 0, token 0","group 1, tokens 1 to 2","group 2, tokens 3 to 4"]' in page
    assert "3 groups" in " ".join(printed(result).split())
    assert '"places":["position 0, id 0"' in render.html(attribution())
    reads = build(sequence(("<bos>", " un", "bel", " the", "y")).group())
    assert [row.label for row in reads.rows] == ["1 ·un", "2 bel", "3 ·the", "4 y"]
    assert [row.position for row in reads.rows] == [1, 1, 2, 2]
    assert reads.size == "3 groups (root of summed squares) of 5 tokens"


def test_groups_read_inside_a_word_name_the_token_that_was_read():
    reads = sequence(("<bos>", " un", "bel", " the", "y")).group()
    said = re.findall(r'"read":(\[\d+,".*?"\])', render.html(reads))
    assert [json.loads(pair) for pair in said] == [[1, "·un"], [2, "bel"], [3, "·the"], [4, "y"]]
    one = attribution(("<bos>", " a", "b", "c", " d"), [[9, 1, 2, 0, 0]], position=2).group()
    assert " after 2 “b” " in " ".join(render.prediction(one).get_suptitle().split())
    assert "read at 2 “b” 3 groups" in " ".join(render.figure(one).get_suptitle().split())
    text = " ".join(printed(one, width=100).split())
    assert "Predicted next, after 2 “b”" in text
    assert "read position: 2 “b”, its group underlined" in text
    assert "read position: 3 “·is”, underlined" in " ".join(printed(attribution(), 100).split())
    # What is marked is the group, as it is what is drawn.
    assert build(one).rows[0].position == 1 and "·abc" in text


def test_maps_of_long_prompts_go_on_below():
    n = 200
    scores = torch.rand(3, n, generator=torch.Generator().manual_seed(1)) + 0.1
    result = attribution(["w"] * n, scores.tolist(), sites=("embed", "resid(0)", "resid(1)"))
    figure = render.figure(result)
    assert figure.get_figwidth() < 16
    panels = figure.axes[:-1]
    shown = np.ma.concatenate([ax.images[0].get_array() for ax in panels], axis=1)
    assert len(panels) == 4 and shown.shape == (3, n)
    for row, drawn in zip(build(result).rows, shown):
        assert np.ma.allclose(drawn, row.colours)
    assert [len(ax.get_xticks()) for ax in panels] == [50] * 4


def test_labels_of_2000_tokens_at_20_sites_stay_apart():
    """Of what the explorer's page takes."""
    sites = tuple(f"resid({layer})" for layer in range(20))
    scores = torch.rand(20, 2000, generator=torch.Generator().manual_seed(1)) + 0.1
    figure = render.figure(attribution(["w"] * 2000, scores.tolist(), sites=sites))
    assert figure.get_figwidth() < 42 and len(figure.axes) == 12 + 1
    assert min(stand_apart(figure, figure.axes[:-1])) >= 20


def test_a_matrix_of_200_reads_stays_one_and_its_labels_apart():
    assert len(render.figure(sequence(["w"] * 400)).axes) == 1 + 1
    figure = render.figure(sequence(["w"] * 200))
    assert max(figure.get_size_inches()) < 18
    ax = figure.axes[0]
    assert ax.images[0].get_array().shape == (199, 200)
    assert min(stand_apart(figure, [ax])) > 30


def test_error_bars_stay_inside_the_axis():
    a = attribution(standard_error=torch.tensor([[0.0, 0, 0, 0.2]]))
    assert render.figure(a).axes[0].get_ylim()[1] >= float(a.scores[0, 3]) + 0.2


def test_pages_of_200_tokens_show_the_whole_map_with_labels_apart():
    page = render.html(sequence(["w"] * 200))
    width, height = map(int, re.search(r'style="--w:(\d+)px;--h:(\d+)px"', page).groups())
    assert width * 200 <= 640 and height * 199 <= 640
    assert page.count('<span class="tls-skip">') >= 199 * 2 + 200 - 3 * 60
    assert 'class="tls-skip"' not in render.html(sequence())
