"""Stability under noise on the embeddings: what is added, what is compared, and that the noise goes away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

import tl_scopes as ts
from support import zoo
from support.ci import in_ci
from support.traces import (
    PLAIN,
    each_class,
    each_model,
    lived_in,
    model_state,
    process_state,
    strike_every_line,
)
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines import InputXGradient, LeaveOneOut, Random
from tl_scopes.baselines.method import Method, Scored
from tl_scopes.errors import EmptyPromptError, PromptError, ScopeParameterError
from tl_scopes.evaluation import sensitivity
from tl_scopes.evaluation.sensitivity import input_stability

METHODS = [ts.SemanticScope(), ts.FisherScope(), InputXGradient(), Random(), LeaveOneOut()]
TEXT = "The cat sat on a mat and Mary"  # no token comes twice


@dataclass(frozen=True)
class Embedding(Method):
    """The norm of what it sees at the embedding; keeps all of it."""

    seen: list
    name, units = "embedding", "none"

    def parameters(self):
        return {}

    def scores(self, prompt_run, site) -> Scored:
        self.seen.append(prompt_run.activation(site)[0].detach().clone())
        return Scored(self.seen[-1].norm(dim=-1))


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
    model = zoo.build(name)
    method, target = (
        Embedding([]),
        ts.attribute(model, TEXT, ts.SemanticScope(), position=position).target,
    )
    frame = input_stability(
        model, [TEXT], [*METHODS, method], draws=1, scale=0.3, position=position
    )
    ids = model.to_tokens(TEXT)[0]
    assert len(set(ids.tolist())) == len(ids) and target is not None
    pinned = [
        ts.SemanticScope(target.id),
        ts.FisherScope(),
        InputXGradient(target.id),
        Random(),
        LeaveOneOut(),
    ]

    def maps():
        return [
            m.attribute(model, TEXT, position=position).scores[0]
            if isinstance(m, Method)
            else ts.attribute(model, TEXT, m, position=position).scores[0]
            for m in pinned
        ]

    still = maps()
    embedding = next(p for k, p in model.embed.named_parameters() if p.ndim == 2)
    assert embedding.data_ptr() != model.W_U.data_ptr()
    with torch.no_grad():
        clean, noisy = method.seen
        embedding[ids[: len(clean)]] += noisy[: len(clean)] - clean
    end = len(ids) + position + 1
    for m, a, b in zip(pinned, still, maps()):
        row = frame[frame["method"] == m.name].iloc[0]
        a, b = a[1:end].double(), b[1:end].double()
        assert row["spearman"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)
        assert row["change"] == pytest.approx(float((a - b).abs().max() / a.abs().max()), rel=1e-4)
    blind = frame[frame["method"] == "random"].iloc[0]
    assert (blind["spearman"], blind["change"]) == (1, 0)


@each_class
def test_the_largest_change_is_captums_max_sensitivity(name):
    try:
        from captum.metrics import sensitivity_max
    except ImportError:
        if in_ci():
            raise
        pytest.skip("captum is not installed")
    model, seen = zoo.shared(name), Embedding([])
    scope = ts.TemperatureScope()
    frame = input_stability(model, [TEXT], [scope, seen], draws=4, scale=0.1)
    clean, *noisy = seen.seen
    draws = iter(noisy)

    def explain(inputs):
        """The map of a model whose embeddings are replaced by `inputs`."""
        (x,) = inputs if isinstance(inputs, tuple) else (inputs,)
        (hook,) = [h for h in ("embed.hook_out", "hook_embed") if h in model.hook_dict][:1]
        with model.hooks([(hook, lambda a, hook: x.to(a))]):
            return (ts.attribute(model, TEXT, scope).scores[:, 1:],)

    wanted = sensitivity_max(
        explain,
        clean[None],
        perturb_func=lambda inputs, radius: next(draws)[None],
        n_perturb_samples=4,
        max_examples_per_batch=1,
        norm_ord=math.inf,
    )
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


@dataclass(frozen=True)
class Failing(Embedding):
    name = "failing"

    def scores(self, prompt_run, site) -> Scored:
        if len(self.seen) == 2:
            raise KeyboardInterrupt
        return super().scores(prompt_run, site)


@each_model
@pytest.mark.wrong_types
def test_noise_is_gone_afterwards(name):
    model = lived_in(name)
    before = model_state(model) | process_state()
    plain = ts.attribute(model, zoo.TEXT, ts.TemperatureScope()).scores
    input_stability(model, [zoo.TEXT], METHODS, draws=1)
    with pytest.raises(KeyboardInterrupt):
        input_stability(model, [zoo.TEXT], [*METHODS, Failing([])])
    after = model_state(model) | process_state()
    assert {k for k in before if before[k] != after[k]} == set()
    assert torch.equal(ts.attribute(model, zoo.TEXT, ts.TemperatureScope()).scores, plain)


@pytest.mark.wrong_types
def test_interrupt_at_any_line_leaves_no_trace():
    file = str(Path(sensitivity.__file__))

    def built():
        model = lived_in(PLAIN[-1])
        input_stability(model, [zoo.TEXT], [Random()], draws=1)
        return model

    struck, bad, done = strike_every_line(
        [lambda model: input_stability(model, [zoo.TEXT], [Random()], draws=2)],
        built,
        lambda model: model_state(model) | process_state(),
        lambda frame: frame.f_code.co_filename != file,
    )
    assert done and len(struck) > 40
    assert not bad


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


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"scale": 0}, ScopeParameterError, "scale is 0; allowed: a positive number"),
        ({"scale": -0.1}, ScopeParameterError, "scale is -0.1"),
        ({"scale": math.nan}, ScopeParameterError, "scale is nan"),
        ({"scale": math.inf}, ScopeParameterError, "scale is inf"),
        ({"scale": True}, ScopeParameterError, "scale is True"),
        ({"scale": "5%"}, ScopeParameterError, "scale is '5%'"),
        ({"draws": 0}, ScopeParameterError, "draws is 0; allowed: a whole number from 1"),
        ({"draws": 2.0}, ScopeParameterError, "draws is 2.0"),
        ({"seed": -1}, ScopeParameterError, "seed is -1"),
        ({"methods": []}, ScopeParameterError, "methods is empty"),
        ({"prompts": zoo.TEXT}, PromptError, "prompts is a str"),
        ({"prompts": []}, EmptyPromptError, "list of prompts is empty"),
    ],
)
def test_bad_arguments(arguments, error, message):
    asked = {"prompts": [zoo.TEXT], "methods": [ts.SemanticScope()]} | arguments
    with pytest.raises(error, match=message):
        input_stability(zoo.shared(zoo.names()[0]), **asked)
