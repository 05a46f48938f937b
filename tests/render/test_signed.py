"""Pictures of methods that are no scopes: words, signed scores, and colours that agree everywhere."""

from __future__ import annotations

import colorsys
import dataclasses
import inspect
import io
import itertools
import json
import re

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

import tl_scopes as ts
from support import browser, zoo
from support.infos import info
from support.pictures import Shape, all_words, attribution, labels, printed, saved
from tl_scopes import baselines, render
from tl_scopes.render.colours import Scale, colour, fitting
from tl_scopes.render.console import _css
from tl_scopes.render.picture import build
from tl_scopes.results.records import Token

NAME = next(name for name in zoo.names() if name.endswith("/llama"))
SIGNED = [[9.0, -3.0, 0.002, 4.0]]


def by(name, scores=None, **parameters):
    """A result of the method `name`."""
    return attribution(scores=scores, scope=info(name, parameters), units="nats")


# --- words ----------------------------------------------------------------------------------

OF = "the log-probability of the next token “·Paris”"


@pytest.mark.parametrize(
    ("result", "title"),
    [
        (by("gradient_norm", of="log_prob"), f"What moves {OF}"),
        (by("gradient_norm", of="logit"), "What moves the logit of the next token “·Paris”"),
        (by("logit_difference", a=" Paris", b=" Rome"),
         "What moves the logit of “·Paris” against that of “·Rome”"),
        (by("logit_difference", a=" Paris", b=7),
         "What moves the logit of “·Paris” against that of token 7"),
        (by("input_x_gradient", of="log_prob"), f"Input × gradient of {OF}"),
        (by("integrated_gradients", of="log_prob"), f"Integrated gradients of {OF}"),
        (by("semantic_path", of="logit"),
         "Path-integrated semantic scope of the logit of the next token “·Paris”"),
        (by("smoothgrad", of="log_prob"), f"SmoothGrad of {OF}"),
        (by("leave_one_out", measure="log_prob"), f"How {OF} falls without each token"),
        (by("leave_one_out", measure="kl"),
         "How the next-token distribution changes without each token"),
        (by("attention_rollout"), "Attention rollout from the read position"),
        (by("random", seed=0), "Random scores"),
        (by("occlusion"), "Scores by occlusion for “·Paris”"),
        (dataclasses.replace(by("occlusion"), target=None), "Scores by occlusion"),
    ],
)  # fmt: skip
def test_titles_say_what_each_method_scores(result, title):
    assert title in Shape(render.html(result)).text
    assert title in Shape(render.notebook(result).data).text
    assert printed(result, width=110).splitlines()[0] == title
    assert " ".join(render.figure(result).get_suptitle().split()).startswith(title)


def test_every_baseline_has_words_of_its_own():
    model = zoo.shared(NAME)
    for kind in baselines.__all__:
        made = getattr(baselines, kind)
        if not hasattr(made, "attribute") or inspect.isabstract(made):
            continue
        result = made().attribute(model, zoo.TEXT)
        assert not build(result).title.startswith("Scores by"), kind
        assert "norms reduced" not in printed(result) or kind == "GradientNorm", kind


def test_settings_are_shown_and_measurements_stand_apart():
    own = by(
        "integrated_gradients", SIGNED, target=None, of="log_prob", steps=8, baseline="zero",
        rule="gausslegendre", reduce="sum", convergence_delta=-0.25,
    )  # fmt: skip
    line = build(own).subtitle
    assert line.startswith(
        "integrated_gradients(of='log_prob', steps=8, baseline='zero', rule='gausslegendre', "
        "reduce='sum') · at embed · read at 3"
    )
    measured = "Convergence delta: -0.25 nats between the sum along the path and the change"
    assert all(measured in text for text in all_words(own))


def test_of_several_sites_the_largest_measurement_that_is_drawn_is_told():
    scope = info("integrated_gradients", {
        "convergence_delta at embed": 0.5, "convergence_delta at resid(3)": -7.0,
    })  # fmt: skip
    result = attribution(sites=("embed", "resid(3)"), scope=scope)
    assert "largest at resid(3), -7 logit per unit" in Shape(render.html(result)).text
    text = Shape(render.html(result, site="embed")).text
    assert "Convergence delta: 0.5 logit per unit" in text and "resid(3)" not in text


def test_long_settings_are_wrapped_inside_the_figure():
    scope = info("integrated_gradients", {f"setting_{i}": "x" * 90 for i in range(6)})
    for tokens in (5, 60):
        figure = render.figure(attribution(["a"] * tokens, scope=scope, target=Token(1, "w" * 99)))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        box = figure._suptitle.get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        title = " ".join(figure.get_suptitle().split())
        assert "setting_2='xxx" in title and f"{tokens} tokens" in title


@pytest.mark.parametrize(
    ("result", "meaning"),
    [
        (by("input_x_gradient", SIGNED, of="logit"),
         "blue above 0: adds to the logit of the next token “·Paris”, red below 0: takes away"),
        (by("leave_one_out", SIGNED, measure="log_prob"),
         f"blue above 0: {OF} falls without the token, red below 0: it rises"),
        (by("occlusion", SIGNED), "blue above 0, red below 0"),
    ],
)  # fmt: skip
def test_signs_are_explained_where_there_are_two(result, meaning):
    plain = dataclasses.replace(result, scores=result.scores.abs())
    for scale in ("linear", "log"):
        assert all(meaning in text for text in all_words(result, scale=scale))
    assert not any("below 0" in text for text in all_words(plain))
    assert render.figure(plain)._supxlabel is None


def test_the_precision_is_that_of_the_method():
    model = zoo.shared(NAME, torch.float32)
    own = ts.attribute(model, [1, 2, 3], ts.SemanticScope())
    for result, said in (
        (own, "differentiated in float32, norms reduced in float32"),
        (baselines.InputXGradient().attribute(model, [1, 2, 3]), "differentiated in float32"),
        (baselines.LeaveOneOut().attribute(model, [1, 2, 3]), "forward passes in float32"),
        (baselines.Random().attribute(model, [1, 2, 3]), ""),
    ):
        text = Shape(render.html(result)).text
        assert f"weights raw · {said}{' · ' if said else ''}tl_scopes " in text


# --- scales ---------------------------------------------------------------------------------


def bars(figure):
    return {round(bar.get_x() + 0.4): bar for ax in figure.axes for bar in ax.patches}


def test_a_logarithmic_figure_keeps_both_signs():
    figure = render.figure(by("input_x_gradient", [[0.5, -3.0, 0.002, 4.0]]), scale="log")
    ax = figure.axes[0]
    heights = {t: bar.get_height() for t, bar in bars(figure).items()}
    assert heights == pytest.approx({0: 0.5, 1: -3, 2: 0.002, 3: 4})
    assert ax.get_yscale() == "symlog" and labels(ax.yaxis) == ["-1", "-0.01", "0", "0.01", "1"]
    low, middle, small, high = ax.transData.transform([(0, y) for y in (-3, 0, 0.002, 4)])[:, 1]
    edge = ax.get_window_extent()
    assert edge.y0 < low < middle < small < high < edge.y1
    assert small - middle > 0.05 * (high - middle)
    red, blue = (bars(figure)[t].get_facecolor() for t in (1, 3))
    assert red[0] > red[2] and blue[2] > blue[0]
    assert render.figure(attribution(), scale="log").axes[0].get_yscale() == "log"


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_what_ends_at_the_edge_has_its_number(scale):
    for scores in ([[-50.0, -3, 0.2, 4]], [[-50.0, 3, 0.2, 4]]):
        ax = render.figure(by("input_x_gradient", scores), scale=scale).axes[0]
        assert [text.get_text() for text in ax.texts] == ["↓ -50"]
    ax = render.figure(by("input_x_gradient", [[50.0, -3, 0.2, 4]]), scale=scale).axes[0]
    assert [text.get_text() for text in ax.texts] == ["↑ 50"]


@pytest.mark.parametrize("largest", [1e-38, 3e-9, 0.366, 1.0, 38211.0, 1e30])
def test_signed_extremes_are_drawn(largest):
    scores = largest * np.array([[5, -1, 1e-3, 1e-6]])
    figure = saved(render.figure(by("leave_one_out", scores), scale="log"))
    assert len(labels(figure.axes[0].yaxis)) >= 3


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("decades", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("limit", [0.366, 1.23e-9, 12345.0])
def test_labels_of_a_legend_stand_apart(limit, decades, signed):
    scale = Scale(limit, decades, signed)
    made = [((at + 1) / 2 if signed else at, text) for at, text in scale.labels()]
    kept = fitting(made, 44)
    assert kept[0] == made[0] and kept[-1] == made[-1]
    assert not signed or made[len(made) // 2] in kept
    spans = [
        (44 * at - len(text) * (0 if i == 0 else 1 if i == len(kept) - 1 else 0.5), len(text))
        for i, (at, text) in enumerate(kept)
    ]
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(spans))
    assert fitting(made, 1000) == made


def test_the_middle_of_a_signed_logarithmic_legend_is_no_number_of_one_sign():
    text = render.html(by("leave_one_out", [[0, -1, 0.02, 1]]), scale="log")
    assert '<span style="left:50%">±0.01</span>' in text


# --- colours --------------------------------------------------------------------------------


def hue(rgb):
    return 360 * colorsys.rgb_to_hsv(*(x / 255 for x in rgb))[0]


def is_blue(rgb):
    return 205 <= hue(rgb) <= 275


def is_red(rgb):
    return hue(rgb) <= 25 or hue(rgb) >= 345


def rgb(css):
    return tuple(int(css[i : i + 2], 16) for i in (1, 3, 5))


def test_blue_is_above_zero_and_red_below_on_paper_and_in_a_terminal():
    for size in (0.3, 0.6, 1.0):
        assert is_blue(colour(size)) and is_red(colour(-size))
        assert is_blue(rgb(_css(size))) and is_red(rgb(_css(-size)))
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system="truecolor")
    render.terminal(by("leave_one_out", SIGNED), console=console)
    shades = re.findall(r"48;2;(\d+);(\d+);(\d+)m", out.getvalue())
    grounds = [tuple(map(int, shade)) for shade in shades]
    assert is_red(grounds[0]) and any(map(is_blue, grounds))
    assert all(is_red(x) or is_blue(x) or max(x) - min(x) < 30 for x in grounds)


# Filters are what a page looks like only on the screen: a canvas with the same filter shows them.
SEE = """
await wait(500);
const chip = document.querySelector(".colored-tokens > span").firstElementChild;
const canvas = document.createElement("canvas");
const draw = canvas.getContext("2d", { willReadFrequently: true });
draw.filter = getComputedStyle(chip).filter;
const see = (css) => {
  draw.fillStyle = css;
  draw.fillRect(0, 0, 9, 9);
  return [...draw.getImageData(4, 4, 1, 1).data];
};
probe.shades = SHOWN.map(see);"""


@browser.needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_blue_is_above_zero_and_red_below_on_light_and_dark_pages(tmp_path, dark):
    values = [-1.0, -0.5, 0.0, 0.5, 1.0]
    shown = [f"rgb{colour(x)}" for x in values]
    page = render.html(attribution(browser.TOKENS))
    options = [browser.DARK] if dark else []
    probe = browser.visit(page, tmp_path, *options, probe=SEE.replace("SHOWN", json.dumps(shown)))
    full_red, red, zero, blue, full_blue = (tuple(x[:3]) for x in probe["shades"])
    assert is_red(full_red) and is_red(red) and is_blue(blue) and is_blue(full_blue)
    assert max(full_blue) - min(full_blue) > 70 and max(full_red) - min(full_red) > 70
    assert (sum(zero) < 120) if dark else sum(zero) == 765


def test_the_same_scores_give_the_same_sides_in_the_map():
    result = attribution(sites=("embed", "a"), scores=[[9, -1, 2, 4], [9, 1, -2, -4]])
    for scale in ("linear", "log"):
        image = render.figure(result, scale=scale).axes[0].images[0]
        shades = image.cmap(image.norm(image.get_array()))
        signs = np.sign(result.scores.numpy())[:, 1:]
        assert (np.sign(shades[:, 1:, 2] - shades[:, 1:, 0]) == signs).all()


def test_results_of_a_real_method_are_drawn_by_everything():
    model = zoo.shared(NAME)
    result = baselines.InputXGradient(reduce="sum").attribute(model, zoo.LONG_TEXT)
    assert (result.scores < 0).any() and isinstance(result.scores, torch.Tensor)
    drawn = bars(render.figure(result, scale="log"))
    heights = [drawn[t].get_height() for t in sorted(drawn)]
    inside = build(result).rows[0].included
    assert (np.sign(heights) == np.sign(result.scores[0].numpy()))[inside].all()
