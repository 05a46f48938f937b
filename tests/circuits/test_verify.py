"""Verification: real ablations equal those of plain hooks, predictions are first order, agreement is scipy's."""

from __future__ import annotations

import functools

import numpy
import pytest
import scipy.stats
import torch

import tl_scopes as ts
from support import chosen, reference, zoo
from support.reference import POSITION, TOKENS
from tl_scopes.baselines.replacements import likely_tokens
from tl_scopes.circuits import components, flow, head_paths, verify
from tl_scopes.circuits.verify import STEPS
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.statistics import rank_agreement

A = 7
SCOPES = {
    "semantic": ts.SemanticScope(A),
    "temperature": ts.TemperatureScope(),
    "fisher": ts.FisherScope(rank=2),
    "sampled": ts.FisherScope(rank=1, samples=2),
    "function": ts.FunctionScope(lambda z: z.log_softmax(-1)[A]),
    "direction": ts.DirectionScope(torch.ones(16, dtype=torch.float64), site=2),
}
SOME = zoo.known("hooked/gqa", "hooked/gemma2", "bridge/gpt2", "bridge/granite")
OTHER = [TOKENS[0], *reversed(TOKENS[1:])]


@functools.cache
def found(name: str, kind: str = "semantic", by: str = "token", intervention: str = "zero"):
    model, scope = zoo.shared(name), SCOPES[kind]
    with zoo.exact_float64():
        attribution = ts.attribute(model, TOKENS, scope, position=POSITION)
        return verify(
            model, TOKENS, attribution, by, intervention, scope=scope,
            corrupted=OTHER if intervention == "corrupt" else None,
        )  # fmt: skip


def read(name: str, edits: dict, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What is read, and the logits there, with activations replaced by plain hooks."""
    ref = reference.Reference(name)
    of = 2 if kind == "direction" else "final"
    with torch.no_grad():
        seen = ref.forward(edits, [of])
    return seen[of][0, POSITION], seen["logits"][0, POSITION]


def replacement(name: str, site, intervention: str) -> torch.Tensor:
    """[pos, ...]: what each place is replaced by."""
    with torch.no_grad():
        x = reference.Reference(name).forward({}, [site])[site][0, : POSITION + 1]
        if intervention == "zero":
            return torch.zeros_like(x)
        if intervention == "mean":
            return x[1:].mean(0).expand_as(x)
        if intervention == "pad":
            pads = [2] * len(TOKENS)
            return reference.Reference(name, pads).forward({}, [site])[site][0, : POSITION + 1]
        return reference.Reference(name, OTHER).forward({}, [site])[site][0, : POSITION + 1]


def scalar(name: str, kind: str, at, before) -> float:
    (y, z), (y0, z0) = at, before
    model = zoo.shared(name)
    if kind == "semantic":
        return float((y - y0) @ model.W_U[:, A].detach())
    if kind == "temperature":
        return float(y.norm() - y0.norm())
    if kind == "direction":
        return float((y - y0).sum())
    return float(z.log_softmax(-1)[A] - z0.log_softmax(-1)[A])


@pytest.mark.parametrize(
    ("name", "kind", "intervention"),
    chosen.pairs(
        SOME,
        ["semantic", "temperature", "function", "direction"],
        ["zero", "mean", "pad", "corrupt"],
    ),
)
def test_tokens_are_really_replaced(name, kind, intervention):
    result = found(name, kind, "token", intervention)
    # Granite scales its embedding on the way into the stream; the intervention sits at the stream's.
    site = "embed" if zoo.traits(name) & {"learned"} else 0
    base = replacement(name, site, intervention)
    x = reference.Reference(name).forward({}, [site])[site][0].detach()
    before = read(name, {}, kind)
    for label, measured in zip(result.labels, result.measured):
        t = int(label.split(":")[0])
        delta = torch.zeros_like(x)
        delta[t] = base[t] - x[t]
        wanted = scalar(name, kind, read(name, {site: delta}, kind), before)
        assert float(measured) == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("kind", ["semantic", "temperature"])
def test_likely_tokens_are_really_there(kind):
    """Each is the mean change of prompts in which one token is another: of the draws that leave-one-out takes too."""
    name, draws, seed = SOME[0], 3, 5
    model, scope = zoo.shared(name), SCOPES[kind]
    options = {"intervention": "likely", "top": 20, "seed": seed, "draws": draws}
    with zoo.exact_float64():
        attribution = ts.attribute(model, TOKENS, scope, position=POSITION)
        result = verify(model, TOKENS, attribution, steps=(1e-4, 1), **options)
        prompt_run = PromptRun.ask(model, TOKENS, POSITION)
        with prompt_run.locked():
            drawn = likely_tokens(prompt_run, seed)[:draws].tolist()

    def changed(ids: list[int]) -> float:
        with torch.no_grad():
            seen = reference.Reference(name, ids).forward({}, ["final"])
        return scalar(name, kind, (seen["final"][0, POSITION], None), before)

    before = read(name, {}, kind)
    # Nothing predicts the first one: that it changes nothing would be no finding.
    assert sorted(int(label.split(":")[0]) for label in result.labels) == [*range(1, POSITION + 1)]
    for label, predicted, measured, first in zip(
        result.labels, result.predicted, result.measured, result.step_measured[0]
    ):
        t = int(label.split(":")[0])
        texts = [[*TOKENS[:t], row[t], *TOKENS[t + 1 :]] for row in drawn]
        wanted = sum(map(changed, texts)) / draws
        assert float(measured) == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        assert float(first) == pytest.approx(1e-4 * float(predicted), rel=0.02, abs=1e-9)
    assert result.measured.count_nonzero() >= POSITION - 1


@pytest.mark.parametrize(
    ("name", "kind", "intervention"),
    chosen.pairs(SOME, ["semantic", "temperature"], ["zero", "mean", "corrupt"]),
)
def test_heads_are_really_replaced(name, kind, intervention):
    result = found(name, kind, "head", intervention)
    before = read(name, {}, kind)
    for label, measured in list(zip(result.labels, result.measured))[:3]:
        layer, head = (int(n) for n in label[1:].split("H"))
        site = f"blocks.{layer}.attn.hook_z"
        z = reference.Reference(name).forward({}, [site])[site].detach()
        delta = torch.zeros_like(z)
        base = replacement(name, site, intervention)
        delta[0, : POSITION + 1, head] = (base - z[0, : POSITION + 1])[:, head]
        wanted = scalar(name, kind, read(name, {site: delta}, kind), before)
        assert float(measured) == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("name", "kind", "by"), chosen.pairs(SOME, SCOPES, ["token", "head"]))
def test_predictions_are_first_order(name, kind, by):
    result = found(name, kind, by)
    errors = torch.tensor(result.step_errors)
    assert result.steps == STEPS and result.step_measured.shape == (5, len(result.labels))
    # Halving the step halves the error: first order means that it falls with the step.
    assert errors[0] < 0.02 and errors[0] < 0.2 * errors[1] < 0.2 * 0.5 * errors[2]
    torch.testing.assert_close(result.step_measured[-1], result.measured)


@pytest.mark.parametrize("name", SOME)
def test_predictions_are_the_totals_of_components(name):
    if name == "bridge/granite":
        pytest.skip("its parts do not add up")
    with zoo.exact_float64():
        parts = components(zoo.shared(name), TOKENS, SCOPES["semantic"], position=POSITION)
        result = verify(zoo.shared(name), TOKENS, parts, by="head")
    grid = parts.head_grid()
    for label, predicted, score in zip(result.labels, result.predicted, result.scores):
        layer, head = (int(n) for n in label[1:].split("H"))
        assert float(predicted) == pytest.approx(-float(grid[layer, head]))
        assert float(score) == pytest.approx(abs(float(grid[layer, head])))


def test_statistics():
    result = found(SOME[0])
    scores, measured = result.scores.numpy(), result.measured.numpy()
    wanted = scipy.stats.spearmanr(scores, numpy.abs(measured)).statistic
    assert result.rank_agreement.value == pytest.approx(wanted)
    assert result.rank_agreement.low <= wanted <= result.rank_agreement.high
    predicted = result.predicted.numpy()
    slope = numpy.linalg.lstsq(predicted[:, None], measured, rcond=None)[0]
    assert result.slope == pytest.approx(float(slope[0]))
    k = result.k
    shared = {*numpy.argsort(-scores)[:k]} & {*numpy.argsort(-numpy.abs(measured))[:k]}
    assert result.top_overlap == len(shared) / k
    assert result.chosen == ("top",) * 6


@pytest.mark.parametrize("by", ["token", "head"])
def test_what_is_chosen(by):
    model = zoo.shared(SOME[0])
    paths = head_paths(model, TOKENS, SCOPES["semantic"])
    result = verify(model, TOKENS, paths, by, top=2, random=3, seed=4)
    again = verify(model, TOKENS, paths, by, top=2, random=3, seed=4)
    assert result.labels == again.labels and len(set(result.labels)) == 5
    assert result.chosen == ("top",) * 2 + ("random",) * 3
    every = paths.scores if by == "token" else paths.norms.sum(-1).flatten()
    assert result.scores[:2].tolist() == pytest.approx(every.topk(2).values.tolist())
    other = verify(model, TOKENS, paths, by, top=2, random=3, seed=5)
    assert other.labels[:2] == result.labels[:2]


def test_a_flow_names_tokens_too():
    model = zoo.shared(SOME[0])
    through = flow(model, TOKENS, SCOPES["semantic"], 2, site=1)
    result = verify(model, TOKENS, through)
    whole = ts.attribute(model, TOKENS, SCOPES["semantic"], sites=1)
    got, wanted = (sorted(scores.tolist()) for scores in (result.scores, whole.scores[0]))
    assert got == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("n", [6, 40])
def test_the_interval_covers_what_it_should(n):
    """A bootstrap interval of correlated pairs holds the population's correlation about as often as it says."""
    generator = numpy.random.default_rng(0)
    # Spearman's of a bivariate normal of correlation 0.8.
    true = 6 / numpy.pi * numpy.arcsin(0.8 / 2)
    held = 0
    for trial in range(40):
        x = generator.standard_normal(n)
        y = 0.8 * x + 0.6 * generator.standard_normal(n)
        value, low, high = rank_agreement(x.tolist(), y.tolist(), seed=trial)
        assert low <= value <= high or n < 10
        assert value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        held += low <= true <= high
    assert held >= (34 if n > 10 else 28)


def test_constant_values_have_no_ranks():
    assert all(numpy.isnan(rank_agreement([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0])))
