"""Circuits of a whole continuation: real changes of its log-probability, and sums of parts."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.exact import close, exactly
from support.reference import TOKENS
from tl_scopes.circuits import components, flow, flow_path, head_paths, scope_metric, verify
from tl_scopes.errors import LengthMismatchError, PromptError, ScopeParameterError

AFTER, N = [9, 5, 30], len(TOKENS)
WHOLE = [*TOKENS, *AFTER]
C = ts.ContinuationScope(AFTER)
# Both classes: a soft-cap, grouped heads, learned positions.
NAMES = zoo.known("hooked/gemma2", "hooked/gqa", "bridge/gemma2", "bridge/gpt2")
HOOK = "blocks.1.attn.hook_z"


@functools.cache
def found(function, name: str, *args, **options):
    return exactly(function, name, C, *args, position=-1, **options)


def total(logits: torch.Tensor) -> torch.Tensor:
    """Log-probability of the continuation, by row."""
    return logits[:, N - 1 : N + 2].log_softmax(-1)[:, range(3), AFTER].sum(1)


def log_prob(name: str, deltas: dict) -> float:
    with torch.no_grad():
        return float(total(reference.Reference(name, WHOLE).forward(deltas)["logits"]))


@pytest.mark.parametrize("name", NAMES)
def test_total_effects_are_finite_differences_and_direct_ones_add_up(name):
    result = found(components, name)
    with torch.no_grad():
        z = reference.Reference(name, WHOLE).forward({}, [HOOK])[HOOK].detach()
    wanted, step = [], 1e-4
    for head in range(z.shape[2]):
        delta = torch.zeros_like(z)
        delta[:, :, head] = z[:, :, head]
        far_down, down, up, far_up = (
            log_prob(name, {HOOK: s * delta}) for s in (-2 * step, -step, step, 2 * step)
        )
        wanted.append((8 * (up - down) - (far_up - far_down)) / (12 * step))
    close(result.heads()[1].sum(-1), torch.tensor(wanted, dtype=torch.float64), 1e-6)
    scale = float(result.direct_vectors.abs().max())
    error = (result.direct_vectors.sum((1, 2)) - result.whole).abs().max()
    assert scale > 1e-2 and float(error) < 1e-9 * scale
    assert not result.direct[:, : N - 1].any() and not result.direct[:, N + 2 :].any()
    assert result.direct[:, N - 1 : N + 2].abs().sum(0).min() > 0
    corrupted = found(components, name, corrupted=tuple(reversed(TOKENS)))
    assert len(corrupted.tokens) == len(WHOLE)


@pytest.mark.parametrize("name", NAMES)
def test_parts_add_up_to_the_scores_of_tokens(name):
    scores = found(ts.attribute, name).scores[0]
    through = found(flow, name, 2)
    close(through.scores, scores)
    close(through.signed.sum(0), scores)
    assert not bool(torch.triu(through.norms, 1).any())
    paths = found(head_paths, name)
    close(paths.scores, scores)
    for layer in range(3):
        close(paths.signed[layer].sum(0) + paths.outside_signed[layer], scores)
    path = found(flow_path, name, (1, 3))
    close(path.nodes[0], scores)
    close(path.nodes.sum(1), scores.sum().expand(len(path.nodes)))
    # What is read last in the stream passes the reads alone.
    assert not path.nodes[-1][: N - 1].any() and path.nodes[-1][N - 1 : N + 2].abs().min() > 0


@pytest.mark.parametrize("by", ["token", "head"])
@pytest.mark.parametrize("name", NAMES)
def test_ablations_are_real_and_small_steps_are_first_order(name, by):
    attribution = found(ts.attribute, name)
    with zoo.exact_float64():
        result = verify(zoo.shared(name), TOKENS, attribution, by, steps=(1e-4, 1.0))
    assert result.step_errors[0] < 0.02
    ratios = result.step_measured[0] / (1e-4 * result.predicted)
    assert float((ratios - 1).abs().median()) < 0.02
    site = "embed" if by == "token" else HOOK
    with torch.no_grad():
        x = reference.Reference(name, WHOLE).forward({}, [site])[site].detach()
    before, checked = log_prob(name, {}), 0
    for label, measured in zip(result.labels, result.measured):
        if by == "head" and not label.startswith("L1H"):
            continue
        delta = torch.zeros_like(x)
        place = int(label.split(":")[0]) if by == "token" else int(label[3:])
        own = (slice(None), place) if by == "token" else (slice(None), slice(0, N + 2), place)
        delta[own] = -x[own]
        wanted = log_prob(name, {site: delta}) - before
        assert float(measured) == pytest.approx(wanted, rel=1e-7, abs=1e-9), label
        checked += 1
    assert checked > 1
    with pytest.raises(PromptError, match="not the"):
        verify(zoo.shared(name), TOKENS[:-1], attribution, by)


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_is_the_log_probability_of_logits(name):
    with zoo.exact_float64(), torch.no_grad():
        metric = scope_metric(zoo.shared(name), TOKENS, C)
        for ids in (WHOLE, [*reversed(TOKENS), *AFTER]):
            logits = zoo.shared(name)(torch.tensor([ids]))
            assert float(metric(logits)) == pytest.approx(float(total(logits)), rel=1e-8)
            if ids is WHOLE:
                assert metric.clean == pytest.approx(float(total(logits)), rel=1e-8)
        with pytest.raises(LengthMismatchError):
            metric(logits[:, :N])


def test_effects_of_two_continuations_subtract():
    """As the error for `versus` says: against real changes of the difference."""
    name = NAMES[-1]
    with pytest.raises(ScopeParameterError, match="total effects of components subtract"):
        components(zoo.shared(name), TOKENS, ts.ContinuationScope(AFTER, versus=[12, 7]))
    other = exactly(components, name, ts.ContinuationScope([12, 7]), position=-1)
    difference = found(components, name).total[:, :N] - other.total[:, :N]
    # Of the embedding's write: gradients of both scalars at tokens that both have.
    grads = []
    for after in (AFTER, [12, 7]):
        ref = reference.Reference(name, [*TOKENS, *after])
        x = ref.forward({}, [0])[0].detach()
        delta = torch.zeros_like(x).requires_grad_()
        logits = ref.forward({0: delta})["logits"]
        k = len(after)
        rows = logits[0, N - 1 : N - 1 + k].log_softmax(-1)
        (g,) = torch.autograd.grad(rows[range(k), after].sum(), delta)
        grads.append((g * x).sum(-1)[0, :N])
    close(difference[0], grads[0] - grads[1])
