"""The published method's own numbers on both bundled models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import tl_scopes as ts
from support import chosen
from support.golden import ONE_CLASS, backends, golden, load

pytestmark = pytest.mark.real

SHORT = "c0_fact c1_de_en c3_political c4_induction".split()
# They take most of the time: each passage on one model, and one rank of Fisher.
LONG = {"gemma": ["c6_series", "lam0"], "smol": ["c6_series", "lam50", "lam100"]}
DOUBLE = ("c0_fact", "c1_de_en")
SCOPES = {
    "semantic": lambda target: ts.SemanticScope(target),
    "temperature": lambda target: ts.TemperatureScope(),
    "fisher_k1": lambda target: ts.FisherScope(rank=1),
    "fisher_k4": lambda target: ts.FisherScope(rank=4),
    "fisher_k16": lambda target: ts.FisherScope(rank=16),
    "fisher_full": lambda target: ts.FisherScope(rank="full"),
}
RANKED = [what for what in SCOPES if what != "fisher_full"]
# The published code's float32 Fisher matrix is good to 5e-3 (README beside the files).
ALLOWED = {
    "float32": {"semantic": 1e-4, "temperature": 1e-4, "fisher": 1e-2},
    "float64": {"semantic": 5e-5, "temperature": 5e-5, "fisher": 5e-5},
}


# Of each prompt some of the scopes, which go round. The other class, which is held against the first at every site
# below, on two prompts.
CASES = [
    *(
        (*case, prompt, what)
        for case in ONE_CLASS
        for prompt, what in chosen.each(SHORT, RANKED, times=2)
    ),
    *(
        (name, backend, prompt, what)
        for name, backend in ONE_CLASS
        for prompt, what in chosen.each(LONG[name], ("semantic", "temperature", "fisher_k4"))
    ),
    *(
        ("gemma", other, prompt, what)
        for other in backends("gemma")[:-1]
        for prompt, what in chosen.each(DOUBLE, RANKED)
    ),
]


def check(model, name: str, precision: str, prompt: str, what: str) -> ts.Attribution:
    ids = golden(name)[f"ids/{prompt}"].tolist()
    found = ts.attribute(model, ids, SCOPES[what](ids[-1]), position=-2)
    scores = found.scores[0].numpy()
    expected = golden(name)[f"{precision}/{prompt}/{what}"]
    assert scores.shape == (len(expected) + 1,)
    assert scores[-1] == 0
    error = np.abs(scores[1:] - expected).max() / expected.max()
    assert error <= ALLOWED[precision][what.split("_")[0]], f"{prompt} {what}: {error:.1e}"
    assert spearmanr(scores[1:-1], expected[:-1]).statistic >= 0.9999
    return found


@pytest.mark.parametrize("name, backend, prompt, what", CASES)
def test_float32_maps(name, backend, prompt, what):
    check(load(name, backend, "float32"), name, "float32", prompt, what)


@pytest.mark.slow
@pytest.mark.parametrize("name, backend", [case for case in ONE_CLASS if case[0] == "gemma"])
def test_float32_full_fisher(name, backend):
    found = check(load(name, backend, "float32"), name, "float32", "c0_fact", "fisher_full")
    assert found.fisher.share == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("prompt, what", chosen.each(DOUBLE, RANKED))
@pytest.mark.parametrize("name, backend", ONE_CLASS)
def test_float64_maps(name, backend, prompt, what):
    found = check(load(name, backend, "float64"), name, "float64", prompt, what)
    if found.fisher is not None:
        reference = golden(name)[f"float64/{prompt}/fisher_eigvals"]
        kept = np.array(found.fisher.eigenvalues)
        np.testing.assert_allclose(kept, reference[: len(kept)], rtol=1e-4)
        trace = float(golden(name)[f"float64/{prompt}/fisher_trace"])
        assert found.fisher.trace == pytest.approx(trace, rel=1e-5)


# The small one of the two: the other takes 40 s.
@pytest.mark.slow
@pytest.mark.parametrize("name, backend", [case for case in ONE_CLASS if case[0] == "smol"])
def test_float64_full_fisher(name, backend):
    check(load(name, backend, "float64"), name, "float64", "c0_fact", "fisher_full")


@pytest.mark.skipif(len(backends("gemma")) < 2, reason="this transformer-lens has one class only")
def test_both_classes_agree_on_gemma_at_every_site():
    """To 1e-5 of the largest score of each site, in float32."""
    ids = golden("gemma")["ids/c3_political"].tolist()
    scopes = [ts.SemanticScope(), ts.TemperatureScope(), ts.FisherScope(rank=4)]
    maps = {
        backend: [
            ts.attribute(load("gemma", backend, "float32"), ids, s, sites="all", position=-2).scores
            for s in scopes
        ]
        for backend in ("hooked", "bridge")
    }
    for scope, hooked, bridge in zip(scopes, maps["hooked"], maps["bridge"]):
        error = (hooked - bridge).abs().amax(1) / bridge.amax(1)
        assert torch.all(error <= 1e-5), (scope.name, error)
