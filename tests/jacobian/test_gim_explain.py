"""Gradient rules against gim-explain, the published authors' package, on the HookedTransformer itself.

On models of transformers 5 its release (0.1.4) cannot take softmax, which it replaces without a dtype. `make peers`
installs it apart, without dependencies, and runs these.
"""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from tl_scopes.rules import Rules

gim = pytest.importorskip("gim", reason="make peers installs it")

NAMES = [n for n in ("hooked/gpt2", "hooked/llama", "hooked/gqa") if n in zoo.names()]
TARGET, OTHER = 7, 11


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        # It does not split a gated MLP.
        ({}, {"softmax_temperature": 2, "split_products": "attention", "frozen": "norms"}),
        ({"q_scale": None, "k_scale": None, "v_scale": None, "freeze_norm": False}, {"softmax_temperature": 2}),
        ({"softmax_temperature": None, "freeze_norm": False}, {"split_products": "attention"}),
        ({"softmax_temperature": None, "q_scale": None, "k_scale": None, "v_scale": None}, {"frozen": "norms"}),
    ],
)  # fmt: skip
def test_what_another_token_would_change(name, theirs, ours):
    """Its score of a token is the gradient times the step from a fixed other token, which `substitutions` has too."""
    ids = zoo.tokenizer()(zoo.TEXT)["input_ids"]
    with zoo.exact_float64():
        model = zoo.shared(name)
        wanted = gim.explain(
            model, torch.tensor([ids]), target_token_id=TARGET, baseline_token_id=OTHER, **theirs
        )
        scope = Rules(**ours).on(ts.SemanticScope(TARGET))
        found = ts.substitutions(model, ids, scope, range(len(ids)), k=1, among=[OTHER])
    effects = [sum(each.effect for each in found.at(t)) for t in range(len(ids))]
    assert wanted.abs().max() > 1e-3 and len(wanted) == len(ids)
    torch.testing.assert_close(
        -torch.tensor(effects).double(), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max())
    )
