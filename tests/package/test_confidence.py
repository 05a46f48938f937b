"""Neurons of confidence: what the benchmark works out by hand is what the package and real runs say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tl_scopes as ts
from benchmarks import confidence
from support import zoo
from tl_scopes import circuits

NAMES = zoo.known("bridge/gemma3", "bridge/llama")
PASSAGES = [[0, 5, 9, 11, 20, 7, 4, 3, 12, 8], [0, 6, 9, 14, 21, 8, 2, 17, 5, 30]]


@pytest.fixture(scope="module", params=NAMES)
def neurons(request):
    model = zoo.shared(request.param)
    return confidence.Neurons(model, [torch.tensor(ids) for ids in PASSAGES])


@pytest.mark.parametrize("frozen", [None, "norms"])
def test_first_order_is_that_of_components(neurons, frozen):
    scope = ts.FunctionScope(confidence._entropy)
    norms = [neurons.model.ln_final, neurons.post] if frozen else []
    n = 3
    ids = neurons.pieces[n].tolist()
    parts = circuits.components(neurons.model, ids, scope, by="neuron", frozen=frozen)
    rows = [i for i, kind in enumerate(parts.kinds) if kind == "neuron"][-len(neurons.W) :]
    wanted = parts.total[rows, -1] * (1 - neurons.mean[-1] / neurons.last[n])
    got = neurons.first_order(norms)[n].to(wanted)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


def test_ablated_is_what_a_hook_does(neurons):
    i, n, model = 3, 7, neurons.model
    hook = f"blocks.{model.cfg.n_layers - 1}.mlp.hook_post"

    def at_mean(acts, hook):
        acts = acts.clone()
        acts[..., i] = neurons.mean[-1, i]
        return acts

    ids = neurons.pieces[n][None]
    with torch.no_grad():
        after = model.run_with_hooks(ids, fwd_hooks=[(hook, at_mean)])[0, -1]
        wanted = confidence._entropy(after) - confidence._entropy(model(ids)[0, -1])
    assert float(neurons.ablated(i)[n]) == pytest.approx(float(wanted), rel=1e-6, abs=1e-9)


def test_the_page_has_what_was_measured():
    page = Path(__file__).parents[2] / "docs" / "pages" / "circuits.md"
    paths = sorted(confidence.RESULTS.glob("confidence-*.json"), reverse=True)
    assert paths
    assert "\n".join(confidence.table(paths)) in page.read_text("utf-8")
