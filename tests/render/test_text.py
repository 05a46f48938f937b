"""Pictures in a terminal and by matplotlib, and when drawing libraries are imported."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from support.pictures import HOSTILE, attribution, labels, printed, saved, sequence
from tl_scopes import render
from tl_scopes.render.tokens import clipped, visible, words

# --- terminal -------------------------------------------------------------------------------


def test_piped_text_has_no_control_sequences_and_stays_informative():
    text = printed(attribution(HOSTILE, sites=("embed",)))
    assert "\x1b" not in text and "\x9b" not in text and "\r" not in text
    for token in HOSTILE[:-1]:
        assert visible(token) in text, token
    top = re.search(r"Strongest tokens\n +39 x+…", text)
    assert top and "·Paris" in text and "60.0%" in text and "logit per unit of residual" in text


def test_a_terminal_gets_colours_and_nothing_that_tokens_ask_for():
    out = io.StringIO()
    console = Console(
        file=out, width=80, force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    render.terminal(attribution(HOSTILE), console=console)
    text = out.getvalue()
    assert set(re.findall(r"\x1b(?!\[[\d;]*m)", text)) == set()
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "[red][/red]:smile:" in plain and "\\x1b[31mred" in plain
    assert "48;2;" in text


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(
    "result", [attribution(HOSTILE), attribution(HOSTILE, sites=["a", "b" * 40]), sequence(HOSTILE)]
)
def test_lines_keep_to_the_width(result, width):
    from rich.cells import cell_len

    lines = printed(result, width=width).splitlines()
    assert max(cell_len(line) for line in lines) <= width


def test_several_sites_are_a_row_each():
    result = attribution(sites=[f"resid({i})" for i in range(31)])
    text = printed(result)
    assert len(re.findall(r"^resid\(\d+\) +·", text, re.M)) == 31
    assert "each site by its own largest score" in text and "a cell is a token" in text


def test_what_looks_like_a_mark_is_told_from_one():
    assert [visible(text) for text in (" ", "·", " ·", "\n", "↵", "", "∅")] == [
        *("·", "\\xb7", "·\\xb7", "↵", "\\u21b5", "∅", "\\u2205"),
    ]
    assert visible("达·芬奇 ·") == "达·芬奇··" and words("a · b") == "a · b"


def test_characters_newer_than_python_are_shown():
    assert visible(" 🪿") == "·🪿" and visible("\u0378") == "\\u0378"


def test_a_long_text_is_cut_at_once():
    assert clipped("a" * 10**7, 5) == "aaaa…" == clipped("aaaaaa", 5)
    assert clipped("\x1b" * 10**7, 5) == "\\x1b…" and clipped("aaaaa", 5) == "aaaaa"


# --- figure ---------------------------------------------------------------------------------


def test_figures_label_every_token_literally():
    tokens = ("<bos>", "$x^2", "\\frac{", " a_b", "%")
    figure = saved(render.figure(attribution(tokens, standard_error=torch.ones(1, 5))), dpi=100)
    assert labels(figure.axes[0].xaxis) == ["<bos>", "$x^2", "\\frac{", "·a_b", "%"]
    assert figure.get_supylabel() == "logit per unit of residual"


def test_figures_survive_glyphs_that_no_font_has():
    for result in (attribution(HOSTILE), sequence(HOSTILE)):
        saved(render.figure(result), dpi=40)


def test_figures_hold_the_scores():
    result = attribution(sites=("embed", "resid(0)"), scores=[[9, 1, 2, 4], [9, 4, 8, 2]])
    figure = render.figure(result)
    image = figure.axes[0].images[0].get_array()
    assert image.tolist() == [[None, 0.25, 0.5, 1], [None, 0.5, 1, 0.25]]
    assert labels(figure.axes[0].yaxis) == ["embed", "resid(0)"]
    bars = render.figure(result, site=1).axes[0].patches
    assert sorted(bar.get_height() for bar in bars) == pytest.approx([2, 4, 8, 8 * 1.08])
    matrix = render.figure(sequence(), normalise="all").axes[0].images[0].get_array()
    assert matrix.shape == (3, 4) and matrix.max() == 1


def test_many_tokens_take_several_lines():
    assert len(render.figure(attribution(["a"] * 200)).axes) == 5


# --- imports --------------------------------------------------------------------------------


def test_drawing_libraries_are_imported_when_used():
    code = (
        "import sys, tl_scopes.results.attribution, tl_scopes.render; "
        "print([m for m in ('matplotlib', 'circuitsvis', 'rich', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
