"""The same on a device as on the CPU: these run where there is one (`make gpu`), and are skipped elsewhere."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo

DEVICES = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
MODELS = [n for n in ("hooked/llama", "bridge/llama", "bridge/gemma2") if n in zoo.names()]
SCOPES = [ts.SemanticScope(5), ts.TemperatureScope(), ts.FisherScope(rank=2)]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.parametrize(
        "device", DEVICES or [pytest.param("", marks=pytest.mark.skip("no GPU is here"))]
    ),
    pytest.mark.parametrize("name", MODELS),
]


def there(name: str, device: str, dtype: torch.dtype = torch.float32):
    model = zoo.build(name, dtype).to(device)
    model.cfg.device = device
    return model


@pytest.mark.parametrize("scope", SCOPES, ids=lambda s: s.name)
def test_scores_are_the_cpus(name, device, scope):
    expected = ts.attribute(zoo.shared(name, torch.float32), zoo.TEXT, scope, sites="all")
    found = ts.attribute(there(name, device), zoo.TEXT, scope, sites="all")
    assert found.provenance.device.startswith(device) and found.scores.device.type == "cpu"
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_check_passes(name, device, dtype):
    found = ts.check(there(name, device, dtype), progress=False)
    assert found.passed, found.of("failed")
    assert found.fits and (device == "mps" or all(c.mib is not None for c in found.costs))


def test_hooks_and_sequences(name, device):
    model = there(name, device)
    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda a, hook: 2 * a)]):
        found = ts.attribute_sequence(model, zoo.TEXT, ts.SemanticScope(5))
    assert torch.isfinite(found.scores).all() and found.provenance.hooks
    parts = ts.circuits.components(model, zoo.TEXT, ts.SemanticScope(5))
    torch.testing.assert_close(parts.direct_vectors.sum((1, 2)), parts.whole, rtol=1e-3, atol=1e-3)
