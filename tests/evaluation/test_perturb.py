"""Stability under noise on the embeddings: what is added, what is compared, and that the noise goes away."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr

import tl_scopes as ts
from support import zoo
from support.ci import required
from support.hook_edits import embed_hook
from support.rankings import Embedding, FailsLater
from support.traces import (
    PLAIN,
    each_class,
    each_model,
    lived_in,
    model_state,
    process_state,
    strike_every_line_of,
    untouched,
)
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines import InputXGradient, LeaveOneOut, Random
from tl_scopes.baselines.method import Method
from tl_scopes.evaluation import sensitivity
from tl_scopes.evaluation.sensitivity import input_stability

METHODS = [ts.SemanticScope(), ts.FisherScope(), InputXGradient(), Random(), LeaveOneOut()]
TEXT = "The cat sat on a mat and Mary"  # no token comes twice


@each_model
def test_noise_has_the_asked_size_at_every_token_but_bos(name):
    method = Embedding([])
    asked = {"scale": 0.2, "draws": 3, "prepend_bos": True}
    found = input_stability(zoo.shared(name), [zoo.LONG_TEXT], {"e": method}, **asked)
    clean, *noisy = method.seen
    assert len(noisy) == 3 and not torch.equal(noisy[0], noisy[1])
    for draw, each in enumerate(noisy):
        noise = each - clean
        assert not noise[0].any()
        size = noise[1:].norm(dim=-1) / clean[1:].norm(dim=-1)
        torch.testing.assert_close(size, torch.full_like(size, 0.2), rtol=1e-6, atol=0)
        a, b = clean[1:].norm(dim=-1), each[1:].norm(dim=-1)
        row = found.iloc[draw]
        assert row["spearman"] == pytest.approx(spearmanr(a.float(), b.float()).statistic)
        assert row["change"] == pytest.approx(float((a - b).abs().max() / a.max()), rel=1e-5)
        assert (row["index"], row["method"], row["draw"], row["scale"]) == (0, "e", draw, 0.2)
    # A direction of the normal distribution: nothing about it is special to a coordinate.
    many = torch.cat([each[1:] - clean[1:] for each in noisy])
    assert many.mean().abs() < 4 * many.std() / many.numel() ** 0.5


@each_class
@pytest.mark.parametrize("position", [-1, -3])
def test_scores_under_noise_are_those_of_a_model_with_other_embeddings(name, position):
    model, method = zoo.build(name), Embedding([])
    where = {"position": position}
    target = ts.attribute(model, TEXT, ts.SemanticScope(), **where).target
    frame = input_stability(model, [TEXT], [*METHODS, method], draws=1, scale=0.3, **where)
    ids = model.to_tokens(TEXT)[0]
    assert len(set(ids.tolist())) == len(ids) and target is not None
    pinned = [ts.SemanticScope(target.id), METHODS[1], InputXGradient(target.id), *METHODS[3:]]

    def scores(method):
        if isinstance(method, Method):
            return method.attribute(model, TEXT, **where).scores[0]
        return ts.attribute(model, TEXT, method, **where).scores[0]

    still = [scores(method) for method in pinned]
    embedding = next(p for k, p in model.embed.named_parameters() if p.ndim == 2)
    assert embedding.data_ptr() != model.W_U.data_ptr()
    with torch.no_grad():
        clean, noisy = method.seen
        embedding[ids[: len(clean)]] += noisy[: len(clean)] - clean
    end = len(ids) + position + 1
    for m, a, b in zip(pinned, still, [scores(method) for method in pinned]):
        row = frame[frame["method"] == m.name].iloc[0]
        a, b = a[1:end].double(), b[1:end].double()
        assert row["spearman"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)
        assert row["change"] == pytest.approx(float((a - b).abs().max() / a.abs().max()), rel=1e-4)
    blind = frame[frame["method"] == "random"].iloc[0]
    assert (blind["spearman"], blind["change"]) == (1, 0)


@each_class
def test_the_largest_change_is_captums_max_sensitivity(name):
    sensitivity_max = required("captum.metrics").sensitivity_max
    model, seen = zoo.shared(name), Embedding([])
    scope = ts.TemperatureScope()
    frame = input_stability(model, [TEXT], [scope, seen], draws=4, scale=0.1)
    clean, *noisy = seen.seen
    draws = iter(noisy)

    def explain(inputs):
        """The map of a model whose embeddings are replaced by `inputs`."""
        (x,) = inputs if isinstance(inputs, tuple) else (inputs,)
        with model.hooks([(embed_hook(model), lambda a, hook: x.to(a))]):
            return (ts.attribute(model, TEXT, scope).scores[:, 1:],)

    wanted = sensitivity_max(
        explain, clean[None], perturb_func=lambda inputs, radius: next(draws)[None],
        n_perturb_samples=4, max_examples_per_batch=1, norm_ord=math.inf,
    )  # fmt: skip
    largest = frame[frame["method"] == "temperature"]["change"].max()
    assert largest == pytest.approx(float(wanted), rel=1e-4)


@each_class
def test_noise_depends_on_seed_draw_and_prompt_alone(name):
    model = zoo.shared(name)
    texts = [zoo.TEXT, zoo.LONG_TEXT]
    found = input_stability(model, texts, METHODS[:2], draws=2)
    other = input_stability(model, texts[::-1], METHODS[:2], draws=3)
    for index in (0, 1):
        a = found[found["index"] == index]
        b = other[(other["index"] == 1 - index) & (other["draw"] < 2)]
        assert a["change"].tolist() == b["change"].tolist()
    again = input_stability(model, texts, METHODS[:2], draws=2)
    assert found.equals(again)
    seeded = input_stability(model, texts, METHODS[:2], draws=2, seed=1)
    assert not (found["change"] == seeded["change"]).any()
    assert found["method"].unique().tolist() == ["semantic", "fisher"]
    assert found["draw"].tolist() == [0, 1] * 4


@each_class
def test_less_noise_changes_less(name):
    sizes = [
        input_stability(zoo.shared(name), [TEXT], METHODS[:3], scale=scale)["change"].mean()
        for scale in (1e-4, 1e-2, 0.5)
    ]
    assert 0 < sizes[0] < 0.01 and 20 * sizes[0] < sizes[1] < sizes[2]


@each_model
@pytest.mark.wrong_types
def test_noise_is_gone_afterwards(name):
    model = lived_in(name)
    with untouched(model):
        plain = ts.attribute(model, zoo.TEXT, ts.TemperatureScope()).scores
        input_stability(model, [zoo.TEXT], METHODS, draws=1)
        with pytest.raises(KeyboardInterrupt):
            input_stability(model, [zoo.TEXT], [*METHODS, FailsLater([], KeyboardInterrupt())])
    assert torch.equal(ts.attribute(model, zoo.TEXT, ts.TemperatureScope()).scores, plain)


@pytest.mark.wrong_types
def test_interrupt_at_any_line_leaves_no_trace():
    def call(model, draws=2):
        input_stability(model, [zoo.TEXT], [Random()], draws=draws)

    def built():
        model = lived_in(PLAIN[-1])
        call(model, draws=1)
        return model

    def state(model):
        return model_state(model) | process_state()

    strike_every_line_of(sensitivity, call, built, state, 40)


@each_class
def test_half_precision(name):
    model = zoo.build(name).to(torch.bfloat16)
    model.cfg.dtype = torch.bfloat16
    found = input_stability(model, [zoo.TEXT], [ts.SemanticScope()], draws=1)
    assert 0 < found["change"].item() < 1


def test_change_of_nothing():
    zero, one = torch.zeros(3), torch.ones(3)
    assert sensitivity._change(zero, zero) == 0 and sensitivity._change(zero, one) == math.inf


def test_a_model_in_use_keeps_its_lock_free():
    model = zoo.shared(zoo.names()[0])
    input_stability(model, [zoo.TEXT], [Random()], draws=1)
    assert view_of(model).lock.acquire(blocking=False)
    view_of(model).lock.release()
