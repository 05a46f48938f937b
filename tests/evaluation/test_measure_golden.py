"""The published ablation protocol's own numbers, on the one passage of it that the tests hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support.golden import GOLDEN, ONE_CLASS, golden, load
from tl_scopes import baselines
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines.ablation import INTACT, Alteration, effects, final_states
from tl_scopes.evaluation import Settings, measure
from tl_scopes.jacobian.prompt_run import PromptRun

pytestmark = pytest.mark.real

# What is ablated does not depend on whose order it is, and `test_golden` and `test_baselines_golden` have the
# maps of all methods: a pass of a hundred tokens takes a second.
METHODS = {
    "smol": {
        "gradient_x_input": baselines.InputXGradient(ts.NEXT_TOKEN),
        "Fisher_k_1": ts.FisherScope(rank=1),
    },
    "gemma": {"Temperature": ts.TemperatureScope()},
}


@pytest.mark.parametrize("name, backend", ONE_CLASS)
def test_ablation(name, backend):
    """Falls of the log-probability, KL, flips and areas, zero and pad."""
    expected = json.loads((GOLDEN / "ablation.json").read_text())[name]
    ids = golden(name)["ids/lam0"].tolist()
    assert len(ids) == expected["n"] + 1 and ids[-1] == expected["target"]
    model = load(name, backend, "float32")
    assert model.tokenizer.pad_token_id == expected["pad_token_id"]
    methods = METHODS[name]
    settings = Settings(replacements=("zero", "pad"), sufficiency=False, position=-2)
    rows = measure(model, [ids], methods, settings)
    falls: dict[tuple[str, str], list[float]] = {}
    compared = 0
    for row in rows:
        key = f"{row['method']}|{row['replacement']}|{row['fraction']:g}"
        if row["metric"] == "comprehensiveness":
            assert row["value"] == pytest.approx(-expected["d"][key], abs=1e-3)
            falls.setdefault((row["method"], row["replacement"]), []).append(-expected["d"][key])
        elif row["metric"] == "comprehensiveness_kl":
            assert row["value"] == pytest.approx(expected["kl"][key], abs=1e-3)
        elif row["metric"] == "comprehensiveness_flip":
            assert bool(row["value"]) == expected["flip"][key]
        elif row["metric"] == "aopc_comprehensiveness":
            own = np.array(falls[row["method"], row["replacement"]])
            area = own @ [0.025, 0.075, 0.05]
            assert row["value"] == pytest.approx(area, abs=1e-3)
        elif row["metric"] == "correct":
            assert bool(row["value"]) == expected["correct"]
        compared += 1
    assert compared == 2 + len(methods) * 2 * (3 * 3 + 1)


@pytest.mark.parametrize("name, backend", ONE_CLASS[-1:])
def test_leave_one_out(name, backend):
    expected = np.array(json.loads((GOLDEN / "ablation.json").read_text())[name]["loo_kl"])
    ids = golden(name)["ids/lam0"].tolist()
    model = load(name, backend, "float32")
    some = [*range(1, len(ids) - 1, 12), len(ids) - 2]
    prompt_run = PromptRun(view_of(model), ids, len(ids) - 2, False)
    with prompt_run.locked(gradients=False):
        without = [Alteration((t,)) for t in some]
        intact, *altered = final_states(prompt_run, [INTACT, *without])
        found = effects(view_of(model).unembedding(), intact, torch.stack(altered), ids[-1])
    np.testing.assert_allclose(found.kl, expected[[t - 1 for t in some]], atol=1e-3)
