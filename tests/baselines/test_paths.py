"""Integrated gradients and the path-integrated semantic scope: completeness, and loops over plain hooks."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from support import edited, reference, zoo
from support.reference import HEADS, POSITION, TOKENS, norms
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.baselines import InputXGradient, IntegratedGradients, SemanticPath
from tl_scopes.baselines.paths import RULES
from tl_scopes.jacobian import checkpointing

TARGET = 7
LOG_PROB = edited.log_prob(TARGET)
# Learned positions, an embedding norm, a soft-cap, an embedding scale (granite: on the way to the first block).
NAMES = [
    n
    for n in ("hooked/ln", "hooked/bloom", "bridge/llama", "bridge/gemma2", "bridge/granite")
    if n in zoo.names()
]
CLASSES = [n for n in ("hooked/llama", "bridge/llama") if n in zoo.names()]
each_class = pytest.mark.parametrize("name", CLASSES)


def found(name: str, method, sites="embed"):
    with zoo.exact_float64():
        return method.attribute(zoo.shared(name), TOKENS, sites=sites, position=POSITION)


def close(got: torch.Tensor, expected: torch.Tensor, share: float = 1e-6) -> None:
    expected = expected.clone()
    expected[..., POSITION + 1 :] = 0
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(got, expected, rtol=0, atol=share * float(expected.abs().max()))


def means(
    name: str, key, start: torch.Tensor, shares, weights, fn
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted mean of the gradient at shares of the way from `start`, and the way."""
    x = edited.activation(name, key)
    start = start.to(x).expand_as(x)
    gradients = [
        w * edited.gradient(name, key, start + a * (x - start), fn) for a, w in zip(shares, weights)
    ]
    return torch.stack(gradients).mean(0), x - start


def change(name: str, key, start: torch.Tensor, fn=LOG_PROB) -> float:
    with torch.no_grad():
        shape = edited.activation(name, key).shape
        before = edited.logits(name, {key: lambda a: start.to(a).expand(shape)[None]})[0]
        return float(fn(edited.logits(name, {})[0]) - fn(before))


# ------------------------------------------------------------------------------------------------ loops by hand
@pytest.mark.parametrize("name", NAMES)
def test_published_weights_carry_their_share_of_the_way(name):
    shares = [0.25, 0.5, 0.75, 1.0]
    own = torch.linspace(-0.5, 0.5, 16, dtype=torch.float64)
    for baseline, start in (("zero", torch.zeros(16)), (own, own)):
        mean, way = means(name, "embed", start, shares, shares, LOG_PROB)
        method = IntegratedGradients(TARGET, steps=4, baseline=baseline, rule="published")
        close(found(name, method).scores[0], norms(mean * way))
        signed = dataclasses.replace(method, reduce="sum")
        close(found(name, signed).scores[0], (mean * way).sum(-1))


@pytest.mark.parametrize("name", NAMES)
def test_the_semantic_path_is_a_mean_over_scalings(name):
    """At the embedding, where the paper takes it, and at other sites alike."""
    cap = reference.of(name).model.cfg.output_logits_soft_cap if "gemma2" in name else None
    scale = 4.0 if "granite" in name else 1.0  # raw logits are before the division

    def logit(z):
        return (cap * torch.atanh(z / cap) if cap else z * scale)[TARGET]

    shares = [0.2, 0.4, 0.6, 0.8, 1.0]
    for key in ("embed", 1, HEADS):
        mean, way = means(name, key, torch.zeros(()), shares, [1.0] * 5, logit)
        expected = norms(mean * 0.8 * way)
        got = found(name, SemanticPath(TARGET), key)
        close(got.scores, expected.T if key == HEADS else expected[None])
        assert got.units == "logit"


@each_class
def test_one_step_of_the_published_weights_is_input_x_gradient(name):
    one = IntegratedGradients(TARGET, steps=1, rule="published")
    close(found(name, one).scores, found(name, InputXGradient(TARGET)).scores)


# ------------------------------------------------------------------------------------------------ completeness
@pytest.mark.parametrize("name", NAMES)
def test_signed_scores_add_up_to_the_change_but_for_the_delta(name):
    """Whatever the rule and the baseline; the delta is that of captum's definition."""
    vectors = edited.vocabulary(name)
    starts = {
        "zero": torch.zeros(16),
        "pad": vectors[2],
        "bos": vectors[0],
        "mean": vectors.mean(0),
    }
    for rule, baseline in (
        ("gausslegendre", "zero"),
        ("riemann_left", "mean"),
        ("published", "pad"),
    ):
        got = found(
            name, IntegratedGradients(TARGET, steps=6, baseline=baseline, rule=rule, reduce="sum")
        )
        delta = got.scope.parameters["convergence_delta"]
        expected = change(name, "embed", starts[baseline])
        assert float(got.scores.sum()) - delta == pytest.approx(expected, abs=1e-6), (
            rule,
            baseline,
        )


@pytest.mark.parametrize("name", [n for n in ("hooked/gpt2", "bridge/gpt2") if n in zoo.names()])
def test_the_delta_vanishes_with_the_steps(name):
    for rule, largest in (
        ("gausslegendre", 1e-5),
        ("riemann_trapezoid", 0.1),
        ("riemann_middle", 0.1),
    ):
        deltas = []
        for steps in (4, 16, 64):
            method = IntegratedGradients(TARGET, steps=steps, baseline="pad", rule=rule)
            deltas.append(abs(found(name, method).scope.parameters["convergence_delta"]))
        assert deltas[0] > deltas[1] > deltas[2] and deltas[2] < largest, (rule, deltas)


# ---------------------------------------------------------------------------------------------------- baselines
@each_class
def test_baselines_of_many_forms(name):
    """A tensor for one position or for all; of the whole prompt where less of it is run; at a site with heads."""
    x = edited.activation(name, "embed")
    pad = edited.vocabulary(name)[2]
    wanted = found(name, IntegratedGradients(TARGET, steps=3, baseline="pad")).scores
    whole = pad.expand(len(TOKENS), 16).clone()
    for tensor in (pad, whole, whole[: POSITION + 1], whole.double().requires_grad_()):
        got = found(name, IntegratedGradients(TARGET, steps=3, baseline=tensor))
        close(got.scores, wanted)
    assert got.scope.parameters["baseline"] == "tensor"
    half = found(name, IntegratedGradients(TARGET, steps=3, baseline=x / 2)).scores
    assert not torch.allclose(half, wanted, rtol=1e-3)
    mean = edited.activation(name, HEADS)[1 : POSITION + 1].mean(0)
    by_name, given = (
        found(name, IntegratedGradients(TARGET, steps=3, baseline=b), HEADS) for b in ("mean", mean)
    )
    close(by_name.scores, given.scores)


def test_a_baseline_is_frozen():
    """What the caller does to the tensor later is the caller's."""
    tensor = torch.ones(16, dtype=torch.float64)
    method = IntegratedGradients(TARGET, steps=2, baseline=tensor)
    before = found(CLASSES[0], method).scores
    tensor.zero_()
    assert torch.equal(found(CLASSES[0], method).scores, before)


# ------------------------------------------------------------------------------------------------------- passes
@each_class
def test_steps_in_small_batches_give_the_same(name, monkeypatch):
    methods = [IntegratedGradients(TARGET, steps=3, rule=rule) for rule in RULES[3:]]
    methods.append(SemanticPath(TARGET, steps=3))
    together = [found(name, method).scores for method in methods]
    shapes = []
    forward = ModelView.forward
    monkeypatch.setattr(
        ModelView, "forward", lambda v, t, *a: shapes.append(t) or forward(v, t, *a)
    )
    a_row = checkpointing.kept_bytes(view_of(zoo.shared(name)), 1, POSITION + 1)
    for rows in (1, 2):
        monkeypatch.setattr("tl_scopes.jacobian.prompt_run.GRADIENT_BYTES", rows * a_row)
        shapes.clear()
        for method, expected in zip(methods, together):
            close(found(name, method).scores, expected, 1e-9)
        assert max(map(len, shapes)) == rows


@each_class
@pytest.mark.parametrize(
    "method", [IntegratedGradients(TARGET, steps=3), SemanticPath(TARGET)], ids=lambda m: m.name
)
def test_hooks_of_the_user_s_see_one_row_of_the_whole_prompt(name, method):
    model = zoo.build(name)

    def steer(a, hook):
        assert a.shape[:2] == (1, len(TOKENS))
        return a * torch.linspace(1, 2, len(TOKENS), dtype=a.dtype)[None, :, None]

    plain = method.attribute(model, TOKENS, position=POSITION).scores
    with model.hooks([("blocks.1.hook_resid_pre", steer)]):
        steered = method.attribute(model, TOKENS, position=POSITION).scores
    assert not torch.allclose(plain, steered, rtol=1e-2)
    assert torch.equal(method.attribute(model, TOKENS, position=POSITION).scores, plain)
