"""Figures of a series of numbers in a prompt: its values, the influence of each, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.infos import info
from support.pictures import SERIES, attribution, labels, numbers, said, stand_apart
from tl_scopes import render


def test_a_bar_a_number_without_its_delimiters():
    figure = render.series(numbers(), [12, 34, 56])
    top, bottom = figure.axes
    assert top.lines[0].get_ydata().tolist() == [12, 34, 56]
    assert [p.get_height() for p in bottom.patches] == pytest.approx([5, 2, 1])  # root of 9 + 16
    assert "4 tokens that are no numbers are not drawn (the largest, at 0: 9)" in said(figure)
    assert bottom.get_ylabel().split() == "logit per unit of residual".split()
    largest = render.series(numbers(), [12, 34, 56], how="max").axes[1]
    assert [p.get_height() for p in largest.patches] == pytest.approx([4, 2, 1])
    own = render.series(numbers(), [12, 56], spans=[(1, 3), (6, 8)]).axes[1]
    assert [p.get_height() for p in own.patches] == pytest.approx([5, 1])
    assert render.series(numbers(), [12, 34, 56], scale="log").axes[1].get_yscale() == "log"


def test_numbers_after_the_read_position_have_no_bar():
    scores = [[9, 3, 4, 7, 2, 0, 0, 0, 0]]
    figure = render.series(attribution(SERIES, scores, position=4), [12, 34, 56])
    heights = [p for p in figure.axes[1].patches if p.get_hatch() is None]
    assert [p.get_height() for p in heights] == pytest.approx([5, 2])
    words = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert words == ["series", "after the read position"]


def test_arrays_and_tensors_are_rows_of_numbers():
    plain = render.series(numbers(), [12, 34, 56], marks=[1], forecast=[0, 0.5, 0.25])
    for row in (np.array, torch.tensor):
        forecast = row([0, 0.5, 0.25])
        other = render.series(numbers(), row([12, 34, 56]), marks=row([1]), forecast=forecast)
        for ax, same in zip(plain.axes, other.axes):
            assert ax.get_ylim() == same.get_ylim() and len(ax.patches) == len(same.patches)


def test_marks_and_forecast():
    forecast = {50: 0.5, 60: 0.25}
    figure = render.series(numbers(), [12, 34, 56], marks=[0, 2], forecast=forecast, actual=52)
    top, side, bottom = figure.axes
    assert top.lines[1].get_xydata().tolist() == [[0, 12], [2, 56]]
    assert top.lines[2].get_xydata().tolist() == [[3, 52]]
    middles = {round(p.get_y() + p.get_height() / 2): p.get_width() for p in side.patches}
    assert middles == forecast
    assert top.get_ylim() == side.get_ylim() and top.get_ylim()[1] > 60
    assert top.get_xlim() == bottom.get_xlim()
    assert "these hold 75.0%" in side.get_title()
    bands = [p.get_x() for p in bottom.patches if p.get_alpha()]
    assert bands == [-0.5, 1.5]


def test_negative_numbers_and_groups_are_found_too():
    a = attribution(("<bos>", " -", "7", ",", " 8"), [[9, 3, 4, 7, 2]])
    heights = [p.get_height() for p in render.series(a, [-7, 8]).axes[1].patches]
    assert heights == pytest.approx([5, 2])
    grouped = render.series(numbers().group(), [12, 34, 56]).axes[1]
    assert [p.get_height() for p in grouped.patches] == pytest.approx([5, 2, 1])


def test_bytes_of_characters_are_no_numbers():
    tokens = ("<bos>", "1", "2", "<0xE5><0xB9>", "<0xB4>", "3", "<0xE5>")
    result = attribution(tokens, [[9, 3, 4, 7, 5, 2, 1]])
    heights = [p.get_height() for p in render.series(result, [12, 3]).axes[1].patches]
    assert heights == pytest.approx([5, 2])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("12-34-56", [12, 34, 56]),
        ("12,-34,56", [12, -34, 56]),
        ("-12 -34", [-12, -34]),
        ("12--34", [12, -34]),
        ("x-12.-34", [-12, -34]),
    ],
)
def test_a_minus_after_a_digit_stands_between_two_numbers(text, values):
    tokens = ["<bos>", *text]
    scores = [[9, *range(1, len(text) + 1)]]
    top = render.series(attribution(tokens, scores), values).axes[0]
    assert top.lines[0].get_ydata().tolist() == values


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("signed", [False, True])
def test_error_bars_stay_inside_the_axis(scale, signed):
    scores = [[9, 3, 4, 7, -2 if signed else 2, 0.5, 0, 1, 0.25]]
    result = attribution(SERIES, scores, standard_error=torch.full((1, 9), 3.0))
    ax = render.series(result, [12, 34, 56], scale=scale, how="sum").axes[1]
    (bars,) = ax.collections
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends.max() > 12 and ends.max() <= ax.get_ylim()[1]
    assert not signed or ends.min() >= ax.get_ylim()[0]


def test_labels_of_a_signed_logarithmic_axis_stand_apart():
    scores = [[9, 3, 0, 7, -0.002, 0.5, 0, 0.1, 0.25]]
    result = attribution(SERIES, scores, scope=info("input_x_gradient", {"reduce": "sum"}))
    figure = render.series(result, [12, 34, 56], scale="log")
    _, count = stand_apart(figure, [figure.axes[1]], slack=0.0)
    assert "0" in labels(figure.axes[1].yaxis) and count >= 3


def test_what_blue_and_red_mean_is_said_where_there_are_both():
    scope = info("input_x_gradient", {"reduce": "sum", "of": "logit"})
    meaning = "blue above 0: adds to the logit of the next token “·Paris”, red below 0: takes away"
    minus = [[9, 3, 4, 7, -2, 0.5, 0, 1, 0.25]]
    assert meaning in said(render.series(attribution(SERIES, minus, scope=scope), [12, 34, 56]))
    # Only what is drawn counts: commas are not, and squares have no sign.
    comma = [[9, 3, 4, -7, 2, 0.5, 0, 1, 0.25]]
    for scores, how in ((comma, "sum"), (minus, "norm")):
        own = attribution(SERIES, scores, scope=scope)
        assert "blue" not in said(render.series(own, [12, 34, 56], how=how))
