"""The parts that pictures are made of: tokens made visible, scores made colours."""

from __future__ import annotations

import html
import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_scopes.render.colours import Scale, colour, number, percent
from tl_scopes.render.tokens import clipped, escaped, visible

# --- tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" The", "·The"), ("\n\n", "↵↵"), ("\t", "⇥"), ("", "∅"), ("\x1b[0m", "\\x1b[0m"),
        ("\ud83d", "\\ud83d"), ("\u202eevil", "\\u202eevil"), ("<bos>", "<bos>"), ("👍", "👍"),
        ("\r\n", "\\r↵"), ("日本", "日本"), ("\u0301", "◌\u0301"), ("a\u200db", "a\u200db"),
        ("\U000f0000", "\\U000f0000"),
    ],
)  # fmt: skip
def test_what_has_no_glyph_becomes_visible(token, shown):
    assert visible(token) == shown


@given(st.text(st.characters(), max_size=12))
def test_any_token_is_one_line_of_printable_text(token):
    shown = visible(token)
    assert shown and not re.search(
        r"[\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown
    )
    shown.encode("utf-8")
    assert html.unescape(re.sub(r"</?i>", "", escaped(token))) == shown
    assert set(re.findall(r"<[^>]*>", escaped(token))) <= {"<i>", "</i>"}
    assert len(clipped(token, 5)) <= 5


# --- colours --------------------------------------------------------------------------------


def test_linear_scale_runs_from_zero_to_the_largest():
    scale = Scale.fit(np.array([0.0, 1.0, 4.0]), "linear")
    assert scale(np.array([0.0, 1.0, 2.0, 4.0, 9.0])).tolist() == [0, 0.25, 0.5, 1, 1]
    assert scale.ticks() == [(0, 0), (0.5, 2), (1, 4)]


def test_log_scale_runs_over_whole_decades():
    scale = Scale.fit(np.array([0.0, 0.02, 1.0]), "log")
    assert scale.decades == 2
    assert scale(np.array([0.0, 0.01, 0.1, 1.0])) == pytest.approx([0, 0, 0.5, 1])
    assert [x for tick in scale.ticks() for x in tick] == pytest.approx([0, 0.01, 0.5, 0.1, 1, 1])
    assert Scale.fit(np.array([1e-30, 1.0]), "log").decades == 4
    assert Scale.fit(np.array([3.0]), "log").decades == 1


@pytest.mark.parametrize("kind", ["linear", "log"])
@given(values=st.lists(st.floats(-1e30, 1e30, allow_subnormal=True), max_size=8))
def test_scales_are_finite_monotone_and_keep_signs(kind, values):
    scores = np.array(values, dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Scale.fit(scores, kind)(scores)
    assert np.isfinite(made).all() and (np.abs(made) <= 1).all()
    assert (made * np.sign(scores) >= 0).all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(made[order]) >= 0).all()


def test_colours_go_from_white_to_the_ends():
    assert colour(0) == (255, 255, 255)
    assert colour(1) == (0, 0, 255)
    assert colour(-1) == (255, 0, 0)
    light = [sum(colour(x)) for x in np.linspace(0, 1, 30)]
    assert light == sorted(light, reverse=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (0.012345, "0.0123"), (1234.5, "1234"), (1.5e-7, "1.5e-7"), (2e9, "2e9"),
     (-0.5, "-0.5"), (100, "100"), (0.9999, "1"), (-0.0, "0"), (math.nan, "nan"), (math.inf, "∞"),
     (-math.inf, "-∞")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_percentages_never_hide_something():
    assert [percent(x) for x in (0.0, 1e-9, 0.5, 1.0)] == ["0.0%", "<0.1%", "50.0%", "100.0%"]
