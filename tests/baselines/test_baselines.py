"""Baselines against derivatives by finite differences, loops over plain hooks, and their definitions."""

from __future__ import annotations

import math

import pytest
import torch

import tl_scopes as ts
from support import edited, reference, zoo
from support.reference import HEADS, POSITION, TOKENS, norms
from tl_scopes.baselines import (
    AttentionRollout,
    GradientNorm,
    InputXGradient,
    LeaveOneOut,
    Random,
    SmoothGrad,
)

TARGET = 7
# Layer norms, an embedding norm, a soft-cap with an embedding scale, a scale between the embedding and the stream.
NAMES = [
    n for n in ("hooked/ln", "hooked/bloom", "bridge/gemma2", "bridge/granite") if n in zoo.names()
]
CLASSES = [n for n in ("hooked/llama", "bridge/llama") if n in zoo.names()]
each_class = pytest.mark.parametrize("name", CLASSES)
SITES = {"embed": "embed", "resid(2)": 2, HEADS: HEADS}
CAPPED = [n for n in zoo.names() if n.split("/")[1] in ("gemma2", "softcap")]


def found(name: str, method, sites="embed", tokens=TOKENS, position=POSITION) -> ts.Attribution:
    """In float64 throughout, the result too."""
    with zoo.exact_float64():
        return method.attribute(zoo.shared(name), tokens, sites=sites, position=position)


def close(got: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-6) -> None:
    """Up to a share of the largest; with zeros after the read position."""
    assert not got[..., POSITION + 1 :].any()
    expected = expected[..., : POSITION + 1]
    assert expected.abs().max() > 1e-6
    error = (got[..., : POSITION + 1] - expected).abs().max() / expected.abs().max()
    assert error <= rtol, float(error)


def raw(name: str):
    """The raw logit, as a function of the model's logits."""
    if "granite" in name:
        return lambda z: 4 * z[..., TARGET]
    cap = {"bridge/gemma2": 3.0, "hooked/gemma2": 3.0, "hooked/softcap": 2.0}.get(name)
    return lambda z: (z if cap is None else cap * torch.atanh(z / cap))[..., TARGET]


# --------------------------------------------------------------------------------------------------- gradients
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    """At the embedding, a layer and the heads: of the log-probability, and of the logit before a soft-cap."""
    ref = reference.of(name)
    heads = reference.of(name).shape(HEADS)[1]
    labels = ("embed", "resid(2)", *(f"{HEADS}[{h}]" for h in range(heads)))
    for of, fn in (("log_prob", edited.log_prob(TARGET)), ("logit", raw(name))):
        gradient = found(name, GradientNorm(TARGET, of), list(SITES))
        product = found(name, InputXGradient(TARGET, of), list(SITES))
        signed = found(name, InputXGradient(TARGET, of, reduce="sum"), list(SITES))
        assert gradient.sites == product.sites == signed.sites == labels
        for site, key in SITES.items():
            rows = [i for i, label in enumerate(labels) if label.startswith(site)]
            steps = ref.finite_difference(key, fn, "logits")
            x = edited.activation(name, key)
            for result, wanted in (
                (gradient, norms(steps)),
                (product, norms(steps * x)),
                (signed, (steps * x).sum(-1)),
            ):
                expected = wanted.T if site == HEADS else wanted[None]
                close(result.scores[rows], expected, 3e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_norm_of_the_logit_is_the_semantic_scope(name):
    scopes = [found(name, GradientNorm(None, "logit"), "all")]
    with zoo.exact_float64():
        scopes.append(
            ts.attribute(
                zoo.shared(name), TOKENS, ts.SemanticScope(), sites="all", position=POSITION
            )
        )
    assert torch.equal(scopes[0].scores, scopes[1].scores) and scopes[0].target == scopes[1].target


@pytest.mark.parametrize("name", CAPPED)
def test_a_soft_cap_shapes_the_log_probability_and_not_the_logit(name):
    z = reference.of(name).at_read("logits")
    slope = 1 - (z / z.abs().max().ceil()) ** 2  # only to see that the cap bends these logits
    assert slope.min() < 0.9
    of = {
        of: found(name, InputXGradient(TARGET, of, "sum")).scores[0] for of in ("log_prob", "logit")
    }
    x = edited.activation(name, "embed")
    for of_, fn in (("log_prob", edited.log_prob(TARGET)), ("logit", raw(name))):
        close(of[of_], (edited.gradient(name, "embed", x, fn) * x).sum(-1))


@pytest.mark.parametrize("name", NAMES)
def test_smoothgrad_is_the_mean_over_noisy_copies(name):
    for site, key in SITES.items():
        x = edited.activation(name, key)
        deviation = 0.2 * float(x[: POSITION + 1].std())  # the package runs no more
        generator = torch.Generator().manual_seed(5)
        noise = torch.full((3, POSITION + 1, *x.shape[1:]), deviation)
        points = [x.clone() for _ in range(3)]
        for point, own in zip(points, torch.normal(0, noise, generator=generator)):
            point[: POSITION + 1] += own
        gradients = [edited.gradient(name, key, p, edited.log_prob(TARGET)) for p in points]
        products = [g * p for g, p in zip(gradients, points)]
        for times_input, parts in ((False, gradients), (True, products)):
            method = SmoothGrad(TARGET, draws=3, noise=0.2, seed=5, times_input=times_input)
            wanted = norms(torch.stack(parts).mean(0))
            close(found(name, method, site).scores, wanted.T if site == HEADS else wanted[None])


@each_class
def test_smoothgrad_tends_to_the_gradient_and_repeats(name):
    gradient = found(name, GradientNorm(TARGET)).scores
    little = found(name, SmoothGrad(TARGET, draws=4, noise=1e-6)).scores
    torch.testing.assert_close(little, gradient, rtol=1e-4, atol=1e-4)
    maps = [found(name, SmoothGrad(TARGET, seed=seed)).scores for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1]) and not torch.allclose(maps[0], maps[2], rtol=1e-3)


# ---------------------------------------------------------------------------------------------- leave one out
@pytest.mark.parametrize("name", NAMES)
def test_leave_one_out_is_a_loop_over_the_tokens(name):
    def without(t: int, key):
        def edit(a):
            a = a.clone()
            a[:, t] = 0
            return a

        with torch.no_grad():
            return edited.logits(name, {key: edit})[0]

    for site, key in (("embed", "embed"), ("resid(1)", 1)):
        with torch.no_grad():
            intact = edited.logits(name, {})[0]
        altered = torch.stack([without(t, key) for t in range(POSITION + 1)])
        before, after = intact.log_softmax(-1), altered.log_softmax(-1)
        wanted = {
            "kl": (before.exp() * (before - after)).sum(-1),
            "log_prob": before[TARGET] - after[:, TARGET],
            "logit": raw(name)(intact) - raw(name)(altered),
        }
        for measure, expected in wanted.items():
            got = found(name, LeaveOneOut(TARGET, measure), site)
            close(got.scores, expected[None])
            assert (got.target is None) == (measure == "kl")
            assert got.units == ("logit" if measure == "logit" else "nats")


@each_class
def test_leaving_out_heads_is_a_loop_over_heads_and_tokens(name):
    def without(t: int, head: int):
        def edit(a):
            a = a.clone()
            a[:, t, head] = 0
            return a

        with torch.no_grad():
            return edited.logits(name, {HEADS: edit})[0].log_softmax(-1)[TARGET]

    with torch.no_grad():
        intact = edited.logits(name, {})[0].log_softmax(-1)[TARGET]
    expected = torch.stack(
        [torch.stack([intact - without(t, h) for t in range(POSITION + 1)]) for h in range(4)]
    )
    method = LeaveOneOut(TARGET, "log_prob")
    got = found(name, method, HEADS)
    assert got.sites == tuple(f"{HEADS}[{h}]" for h in range(4))
    close(got.scores, expected)
    one = found(name, method, f"{HEADS}[2]")
    assert one.sites == (f"{HEADS}[2]",)
    assert torch.equal(one.scores[0], got.scores[2])
    assert found(name, LeaveOneOut(replacement="mean"), HEADS).scores.shape == (4, len(TOKENS))


# -------------------------------------------------------------------------------------------------- attention
ROLLOUT = [
    n
    for n in ("hooked/gpt2", "hooked/gqa", "bridge/gpt2", "bridge/mistral", "bridge/opt")
    if n in zoo.names()
]


@pytest.mark.parametrize("name", ROLLOUT)
def test_rollout_is_the_product_of_the_patterns(name):
    model, itself = zoo.shared(name), torch.eye(len(TOKENS), dtype=torch.float64)
    seen: list[torch.Tensor] = []
    watched = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    hooks = [(hook, lambda a, hook: seen.append(a[0].mean(0)) or a) for hook in watched]
    with zoo.exact_float64(), torch.no_grad(), model.hooks(hooks):
        model(torch.tensor([TOKENS]))
    for residual in (0.8, 0.0):
        first, second, third = ((1 - residual) * p + residual * itself for p in seen)
        whole = third @ second @ first
        expected = [m[POSITION] for m in (whole, whole, third @ second, third, itself)]
        got = found(name, AttentionRollout(residual), "all")
        assert got.sites == ("embed", "resid(0)", "resid(1)", "resid(2)", "resid(3)")
        close(got.scores, torch.stack(expected), 1e-9)
        torch.testing.assert_close(got.scores.sum(1), torch.ones(5, dtype=torch.float64))
        assert got.target is None and got.units == "share of attention"


# ----------------------------------------------------------------------------------------------------- chance
@each_class
def test_random_scores_belong_to_the_prompt(name):
    prompts = [zoo.TEXT, zoo.LONG_TEXT, "The cat", "Paris is in France"]
    there = [found(name, Random(3), tokens=p, position=-1).scores for p in prompts]
    back = [found(name, Random(3), tokens=p, position=-1).scores for p in prompts[::-1]][::-1]
    assert all(torch.equal(a, b) for a, b in zip(there, back))
    assert not torch.equal(there[0], found(name, Random(4), tokens=zoo.TEXT, position=-1).scores)
    both = found(name, Random(3), [1, 2], zoo.TEXT, -1).scores
    assert not torch.equal(both[0], both[1])
    assert found(name, Random(), HEADS).scores.shape == (4, len(TOKENS))


def test_random_scores_are_uniform():
    """800 of them: mean 1/2, variance 1/12, a tenth in each tenth, and no two prompts alike."""
    name = CLASSES[0]
    prompts = [[0, *(5 + (i * j) % 50 for j in range(1, 21))] for i in range(40)]
    scores = torch.stack(
        [found(name, Random(), tokens=p, position=-1).scores[0, 1:] for p in prompts]
    )
    assert scores.min() >= 0 and scores.max() < 1
    n = scores.numel()
    assert abs(scores.mean() - 0.5) < 4 / math.sqrt(12 * n)
    counts = torch.histc(scores.float(), 10, 0, 1)
    assert (
        (counts - n / 10) ** 2 / (n / 10)
    ).sum() < 28  # chi squared, 9 degrees of freedom: p = 0.001
    ranks = torch.corrcoef(scores)
    assert ranks.fill_diagonal_(0).abs().max() < 0.85
