"""A scope's scalar as a metric of logits, in TransformerLens's own patching."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.hook_edits import final_states
from support.reference import TOKENS, Reference, fisher_matrix
from tl_scopes.circuits import scope_metric

A, B = 7, 11
CORRUPT = [TOKENS[0], *reversed(TOKENS[1:])]
V = torch.randn(16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def entropy(z: torch.Tensor) -> torch.Tensor:
    return -(z.softmax(-1) * z.log_softmax(-1)).sum(-1)


SCALARS = {
    "semantic": (ts.SemanticScope(A), lambda m, y, z: y @ m.W_U[:, A] + m.b_U[A]),
    "difference": (
        ts.LogitDifferenceScope(A, B),
        lambda m, y, z: y @ (m.W_U[:, A] - m.W_U[:, B]) + m.b_U[A] - m.b_U[B],
    ),
    "temperature": (ts.TemperatureScope(), lambda m, y, z: y.norm()),
    "function": (ts.FunctionScope(entropy), lambda m, y, z: entropy(z)),
    "direction": (ts.DirectionScope(V), lambda m, y, z: y @ V),
}


def run(name: str, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [1, pos, d_vocab], final state at the last token) of the model's own forward pass."""
    ref = Reference(name, ids, len(ids) - 1)
    with torch.no_grad():
        seen = ref.forward({})
    return seen["logits"], seen["final"][0, -1]


@pytest.mark.parametrize(("name", "kind"), chosen.each(zoo.names(), SCALARS))
def test_it_is_the_scalar_on_the_clean_prompt_and_on_others(name, kind):
    scope, scalar = SCALARS[kind]
    model = zoo.shared(name)
    with zoo.exact_float64(), torch.no_grad():
        metric = scope_metric(model, TOKENS, scope)
        for ids in (TOKENS, CORRUPT):
            logits, y = run(name, ids)
            wanted = float(scalar(model, y, logits[0, -1]))
            assert float(metric(logits)) == pytest.approx(wanted, rel=1e-7, abs=1e-7)
            assert float(metric(logits[0])) == pytest.approx(wanted, rel=1e-7, abs=1e-7)
            if ids is TOKENS:
                assert metric.clean == pytest.approx(wanted, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", zoo.names("", "rms")[:2] + zoo.names("bridge", "softcap"))
def test_fisher_is_the_quadratic_form_of_the_change(name):
    F = fisher_matrix(Reference(name, TOKENS, len(TOKENS) - 1))
    (clean, y), (logits, other) = run(name, TOKENS), run(name, CORRUPT)
    for scope, tolerance in ((ts.FisherScope(rank=16), 1e-7), (ts.FisherScope(rank=1), None)):
        with zoo.exact_float64():
            metric = scope_metric(zoo.shared(name), TOKENS, scope)
            value = float(metric(logits))
            assert abs(float(metric(clean))) < 1e-9 and metric.clean == 0
        wanted = float((other - y) @ F @ (other - y))
        if tolerance is None:
            assert 0 < value < wanted
        else:
            assert value == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("name", zoo.names("", "softcap"))
def test_its_gradient_is_right(name, kind):
    scope, _ = SCALARS[kind]
    with zoo.exact_float64():
        metric = scope_metric(zoo.shared(name), TOKENS, scope)
        logits, _ = run(name, CORRUPT)
        step = torch.zeros_like(logits)
        step[0, -1] = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(0))
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(metric(leaf), leaf)
        eps = 1e-5
        moved = [float(metric(logits + s * eps * step)) for s in (1, -1)]
    assert float((gradient * step).sum()) == pytest.approx(
        (moved[0] - moved[1]) / (2 * eps), rel=1e-5, abs=1e-8
    )


def test_a_batch_is_averaged():
    name = zoo.names()[0]
    metric = scope_metric(zoo.shared(name), TOKENS, ts.SemanticScope(A))
    one, other = (run(name, ids)[0] for ids in (TOKENS, CORRUPT))
    both = metric(torch.cat([one, other]))
    assert float(both) == pytest.approx((float(metric(one)) + float(metric(other))) / 2)


@pytest.mark.parametrize("kind", ["semantic", "temperature"])
@pytest.mark.parametrize("name", [n for n in ("hooked/llama", "bridge/gpt2") if n in zoo.names()])
def test_in_transformer_lens_own_activation_patching(name, kind):
    from transformer_lens import patching

    scope, scalar = SCALARS[kind]
    model = zoo.shared(name)
    metric = scope_metric(model, TOKENS, scope)
    _, cache = model.run_with_cache(torch.tensor([TOKENS]))
    corrupt = torch.tensor([CORRUPT])
    try:
        grid = patching.get_act_patch_attn_head_out_all_pos(model, corrupt, cache, metric)
    except (AttributeError, KeyError, TypeError) as error:
        pytest.skip(f"patching of this version does not run on this class: {error}")
    assert grid.shape == (3, model.cfg.n_heads)
    layer, head = 1, 0
    hook = f"blocks.{layer}.attn.hook_z"

    def patch(z, hook):
        out = z.clone()
        out[:, :, head] = cache[hook.name if hook.name in cache else f"blocks.{layer}.attn.hook_z"][
            :, :, head
        ]
        return out

    with torch.no_grad(), final_states(model) as final, model.hooks(fwd_hooks=[(hook, patch)]):
        logits = model(corrupt)
    wanted = float(scalar(model, final[0][0, -1], logits[0, -1]))
    assert float(grid[layer, head]) == pytest.approx(wanted, rel=1e-5)
