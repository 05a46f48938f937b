"""Figures of predictions, spectra, comparisons and groups: numbers, files, refusals, dark ground."""

from __future__ import annotations

import dataclasses
import io
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from support.pictures import (
    FISHER,
    HOSTILE,
    attribution,
    fisher,
    headings,
    numbers,
    said,
    saved,
    sequence,
)
from tl_scopes import render
from tl_scopes.errors import PositionError, RenderError
from tl_scopes.render.colours import colour, turned
from tl_scopes.render.figures.ground import grounded
from tl_scopes.render.picture import build
from tl_scopes.results.records import Candidate, FisherInfo, Token


def bars(ax):
    return [p for p in ax.patches if isinstance(p, Rectangle) and p.get_height() and p.get_width()]


FIGURES = {
    "prediction": lambda **options: render.prediction(attribution(), **options),
    "spectrum": lambda **options: render.spectrum([fisher(), fisher(position=2)], **options),
    "compare": lambda **options: render.compare([attribution(), fisher()], **options),
    "compare map": lambda **options: render.compare([attribution(), fisher()], kind="map", **options),
    "series": lambda **options: render.series(
        numbers(), [12, 34, 56], marks=[1], forecast=[0, 0.5, 0.25], actual=2, **options
    ),
    "bars": lambda **options: render.figure(attribution(), **options),
    "map": lambda **options: render.figure(attribution(sites=("embed", "resid(0)")), **options),
    "groups": lambda **options: render.figure(sequence().group(), **options),
}  # fmt: skip


# --- every figure ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_vectors_for_papers(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FIGURES[name]().savefig(tmp_path / "figure.svg")
    svg = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert svg.count("<path") > 30
    maps = ("compare map", "map", "groups")
    assert ("<image" in svg) == (name in maps)  # cells, and nothing else


def test_letters_stay_letters_in_pdf(tmp_path):
    render.prediction(attribution()).savefig(tmp_path / "figure.pdf")
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Type0" in pdf and b"/Type3" not in pdf


@pytest.mark.parametrize("name", ["prediction", "map"])
def test_the_users_style_changes_nothing(name):
    def made():
        out = io.BytesIO()
        FIGURES[name]().savefig(out, format="png", dpi=40)
        return out.getvalue()

    plain = made()
    with matplotlib.style.context("dark_background"):
        assert made() == plain


def test_the_ground_of_a_text_turns_dark_with_it():
    def draw() -> Figure:
        figure = Figure()
        figure.text(
            0.5, 0.5, "on paper", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        )
        return figure

    (text,) = grounded(draw, dark=True).texts
    box = text.get_bbox_patch()
    assert max(to_rgb(box.get_facecolor())) < 0.1 < 0.8 < min(to_rgb(text.get_color()))
    assert box.get_edgecolor()[3] == 0


@pytest.mark.parametrize("name", FIGURES)
def test_dark_figures_are_light_ink_on_a_dark_ground(name):
    figure = FIGURES[name](dark=True)
    assert sum(to_rgb(figure.get_facecolor())) < 0.3
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    assert len(texts) > 5
    for text in texts:
        assert max(to_rgb(text.get_color())) > 0.35, text.get_text()
    for ax in figure.axes:
        for line in (line for line in ax.lines if line.get_marker() in ("o", "D")):
            for shade in (line.get_color(), line.get_markerfacecolor()):
                assert shade == "none" or max(to_rgb(shade)) > 0.2, line.get_label()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=40)  # ticks that this adds are light too
    for ax in figure.axes:
        for label in (*ax.get_xticklabels(), *ax.get_yticklabels()):
            assert max(to_rgb(label.get_color())) > 0.35
    pixels = matplotlib.image.imread(io.BytesIO(out.getvalue()))[..., :3]
    assert np.median(pixels) < 0.2 and pixels.max() > 0.6
    plain = FIGURES[name]()
    plain.savefig(io.BytesIO(), format="png", dpi=40)
    assert [a.get_text() for a in plain.findobj(matplotlib.text.Text) if a.get_text()] == [
        a.get_text() for a in figure.findobj(matplotlib.text.Text) if a.get_text()
    ]


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", FIGURES)
def test_dark_is_yes_or_no(name):
    with pytest.raises(RenderError, match="dark is 'yes'; allowed"):
        FIGURES[name](dark="yes")


def test_turning_over_keeps_hues_and_the_order_of_lightness():
    ramp = [turned(colour(x)) for x in np.linspace(0, 1, 9)]
    assert max(ramp[0]) - min(ramp[0]) <= 4 and max(ramp[0]) < 30  # white: near black, no hue
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in ramp]
    assert light == sorted(light)
    r, g, b = turned((255, 0, 0))
    assert r > 2 * max(g, b)
    assert min(turned((0, 0, 0))) > 220


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_tokens_are_text_in_every_figure(dark):
    n = len(HOSTILE)
    a = attribution(
        HOSTILE, prediction=tuple(Candidate(i, t, 0.4 / n) for i, t in enumerate(HOSTILE)),
        fisher=FISHER, target=Token(3, "$x^2$\n</script>"),
    )  # fmt: skip
    for figure in (
        render.prediction(a, top=99, dark=dark),
        render.spectrum([a, a], labels=["$\\frac{", "<script>"], dark=dark),
        render.compare([a, a], ["$x$", "\x1b[0m"], dark=dark),
        render.compare([a, a], kind="map", dark=dark),
        render.figure(a.group([(1, 4)]), dark=dark),
    ):
        saved(figure, dpi=60)


# --- prediction -----------------------------------------------------------------------------


def test_bars_are_the_probabilities():
    figure = render.prediction(attribution())
    ax = figure.axes[0]
    assert [p.get_width() for p in ax.patches] == pytest.approx([0.6, 0.25, 1e-5])
    assert [t.get_text() for t in ax.texts] == ["60.0%", "25.0%", "<0.1%", "15.0%"]
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == ["◆ ·Paris", "↵", "·Rome", "all others"]
    start = "Predicted next token after 3 “·is” · tiny ◆ explained: “·Paris”"
    assert said(figure).startswith(start)
    two = render.prediction(attribution(target=Token(1, " no")), top=2)
    assert [t.get_text() for t in two.axes[0].texts] == ["60.0%", "25.0%", "15.0%"]
    assert "explained: “·no”, not among these" in said(two)


def test_a_sequence_predicts_at_each_of_its_positions():
    assert "after 3 “·is”" in said(render.prediction(sequence()))
    assert "after 1 “The”" in said(render.prediction(sequence(), position=1))
    with pytest.raises(PositionError):
        render.prediction(sequence(), position=0)


# --- spectrum -------------------------------------------------------------------------------


def test_spectra_are_eigenvalues_and_running_shares():
    left, right = render.spectrum(fisher()).axes
    assert left.lines[0].get_ydata().tolist() == [3, 1, 0.5] and left.get_yscale() == "log"
    assert right.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert right.lines[0].get_ydata() == pytest.approx([0.5, 4 / 6, 0.75])
    assert [t.get_text() for t in right.texts] == ["75.0%"]
    assert "hold <0.1% of tr F at most" in said(render.spectrum(fisher()))
    many = dataclasses.replace(FISHER, eigenvalues=tuple(np.geomspace(1, 0.01, 64)))
    assert render.spectrum(attribution(fisher=many)).axes[1].get_xscale() == "log"


def test_several_spectra_are_named_by_what_tells_them_apart():
    def names(figure):
        return [" ".join(t.get_text().split()) for t in figure.legends[0].get_texts()]

    less = dataclasses.replace(fisher(), fisher=FisherInfo((3.0,), 6.0, 0.5))
    assert names(render.spectrum([fisher(), fisher(position=2)])) == [
        "read at 3 “·is”: 75.0% at k = 3", "read at 2 “·capital”: 75.0% at k = 3",
    ]  # fmt: skip
    assert names(render.spectrum([fisher(), less], labels=["a", "b"])) == [
        "a: 75.0% at k = 3", "b: 50.0% at k = 1",
    ]  # fmt: skip
    own = sequence()
    own = dataclasses.replace(own, fishers=(FISHER,) * 3)
    assert len(names(render.spectrum(own))) == 3


# --- compare --------------------------------------------------------------------------------


def test_a_panel_each_with_its_own_scores_units_and_agreement():
    a = attribution(tuple("bacdef"), [[9, 1, 2, 3, 4, 5]])
    b = attribution(tuple("bacdef"), [[0, 10, 20, 40, 30, 50]], units="nats")
    figure = render.compare([a, b], ["one", "two"])
    assert len(figure.axes) == 2
    for ax, result in zip(figure.axes, (a, b)):
        drawn = {round(p.get_x() + 0.4): p.get_height() for p in ax.patches}
        limit = build(result).rows[0].scale.limit
        for t in range(1, 6):
            assert drawn[t] == pytest.approx(float(result.scores[0, t]))
        assert drawn[0] == pytest.approx(min(float(result.scores[0, 0]), 1.08 * limit))
    # Ranks 1 2 3 4 5 against 1 2 4 3 5: 1 - 6 * 2 / (5 * 24).
    told = ["one · logit per unit of residual", "two · nats · rank correlation with the first 0.9"]
    assert headings(figure) == told
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == list("bacdef")
    assert not figure.axes[0].get_xticks().size


def test_long_prompts_become_lines_of_colour():
    n = 130
    scores = torch.rand(1, n, generator=torch.Generator().manual_seed(0)) + 0.1
    a = attribution(["w"] * n, scores.tolist())
    figure = render.compare([a, a, a], list("abc"))
    panels = figure.axes[:-1]  # the last is the colour bar
    assert len(panels) == 3
    shown = np.ma.concatenate([ax.images[0].get_array() for ax in panels], axis=1)
    assert shown.shape == (3, n) and shown.mask[:, 0].all() and not shown.mask[:, 1:].any()
    assert np.ma.allclose(shown[0], build(a).rows[0].colours)
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["a", "b", "c"]
    assert len(render.compare([a, a], kind="bars").axes) == 2 * 3
    assert f"a: largest {float(scores[0, 1:].max()):.3g}" in said(figure)
