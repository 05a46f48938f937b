"""What baselines return: the result of `attribute`, with its labels, files and pictures; also of signed scores."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.reference import HEADS
from tl_scopes import baselines
from tl_scopes.baselines import InputXGradient, IntegratedGradients, LeaveOneOut, Random

CLASSES = [n for n in ("hooked/llama", "bridge/llama") if n in zoo.names()]
each_class = pytest.mark.parametrize("name", CLASSES)
METHODS = [
    baselines.GradientNorm(), InputXGradient(), baselines.SmoothGrad(draws=2), LeaveOneOut(), Random(),
    baselines.AttentionRollout(), IntegratedGradients(steps=3), baselines.SemanticPath(),
]  # fmt: skip
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


@each_class
@each_method
def test_results_have_the_form_of_attribute(name, method):
    model, sites = zoo.shared(name), [2, "embed", 0]
    like = ts.attribute(model, zoo.TEXT, ts.SemanticScope(), sites=sites, position=2)
    got = method.attribute(model, zoo.TEXT, sites=sites, position=2)
    for field in ("sites", "str_tokens", "position", "has_bos"):
        assert getattr(got, field) == getattr(like, field), field
    same, precision = like.provenance, got.provenance.precision
    assert got.provenance == dataclasses.replace(same, precision=precision)
    assert same.precision.startswith(precision.replace("forward passes", "differentiated"))
    assert torch.equal(got.tokens, like.tokens)
    for mine, theirs in zip(got.prediction, like.prediction, strict=True):
        assert (mine.id, mine.text) == (theirs.id, theirs.text)
        assert mine.probability == pytest.approx(theirs.probability)
    assert got.scores.dtype == torch.float32 and got.scores.device.type == "cpu"
    assert not got.scores.requires_grad and got.scores.shape == like.scores.shape
    assert got.scores[:, :3].any(1).all() and not got.scores[:, 3:].any()
    assert got.scope.name == method.name and got.units


@each_method
def test_any_position_may_be_read(method):
    """And what comes after it does not matter."""
    model = zoo.shared(CLASSES[-1])
    ids = model.to_tokens(zoo.TEXT)[0]
    for position in (0, 3):
        whole = method.attribute(model, ids, position=position)
        assert whole.position == position and not whole.scores[0, position + 1 :].any()
        prefix = method.attribute(model, ids[None, : position + 1].tolist()[0])
        if not isinstance(method, Random):  # drawn anew for each prompt
            torch.testing.assert_close(whole.scores[0, : position + 1], prefix.scores[0])


@each_method
def test_results_are_saved_read_and_drawn(method, tmp_path):
    got = method.attribute(zoo.shared(CLASSES[0]), zoo.TEXT, sites=["embed", 1])
    loaded = ts.Attribution.load(got.save(tmp_path / "one.safetensors"))
    assert torch.equal(loaded.scores, got.scores) and repr(loaded) == repr(got)
    assert loaded.scope == got.scope and loaded.target == got.target
    assert list(got.to_frame()["score"]) == got.scores.flatten().tolist()
    assert method.name in got.to_html()
    got.plot()


@each_class
def test_text_is_read_with_and_without_bos(name):
    model = zoo.shared(name)
    for method in (InputXGradient(), LeaveOneOut()):
        plain = method.attribute(model, zoo.TEXT)
        without = method.attribute(model, zoo.TEXT, prepend_bos=False)
        assert plain.has_bos and not without.has_bos
        assert plain.tokens[1:].tolist() == without.tokens.tolist()


@each_class
def test_targets_are_those_of_the_semantic_scope(name):
    model = zoo.shared(name)
    for target in (None, " Paris", 7, ts.NEXT_TOKEN):
        scope = ts.attribute(model, zoo.TEXT, ts.SemanticScope(target), position=3)
        for method in (InputXGradient(target), LeaveOneOut(target, "logit")):
            assert method.attribute(model, zoo.TEXT, position=3).target == scope.target


def test_parameters_are_recorded():
    model = zoo.shared(CLASSES[0])
    path = IntegratedGradients(" Paris", "logit", steps=4, rule="riemann_left", reduce="sum")
    got = path.attribute(model, zoo.TEXT, sites=["embed", HEADS])
    assert got.units == "logit"
    told = dict(got.scope.parameters)
    deltas = [told.pop(f"convergence_delta at {site}") for site in ("embed", HEADS)]
    assert all(isinstance(delta, float) for delta in deltas) and deltas[0] != deltas[1]
    assert told == {
        "target": " Paris", "of": "logit", "steps": 4, "baseline": "zero", "rule": "riemann_left", "reduce": "sum",
    }  # fmt: skip
    assert "convergence_delta" in path.attribute(model, zoo.TEXT).scope.parameters


@pytest.mark.parametrize(
    "method", [InputXGradient(reduce="sum"), LeaveOneOut(measure="log_prob")], ids=lambda m: m.name
)
def test_signed_scores_are_drawn_with_their_sign(method, capsys):
    got = method.attribute(zoo.shared(CLASSES[0]), zoo.LONG_TEXT)
    own = got.scores[0, 1:]  # BOS is not coloured
    assert own.min() < -0.01 and own.max() > 0.01
    assert got.top(1)[0][2] == pytest.approx(float(got.scores.max()))
    got.print()
    assert "-0." in capsys.readouterr().out
    ticks = got.to_html().split('class="tls-ticks"')[1].split("</div>")[0]
    assert ">-0." in ticks and ">0." in ticks
    bars = got.plot().axes[0].patches
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars}
    for t, score in enumerate(own.tolist(), 1):
        assert heights[t] * score > 0 or score == 0
