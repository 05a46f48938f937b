"""A refusal of `components` names only what works on that model: every hint is followed."""

from __future__ import annotations

import re

import pytest
import torch
import transformers

import tl_scopes as ts
from support import zoo
from support.reference import TOKENS
from support.zoo_tables import _GEMMA, _LAYER_TYPES, _SLIDING, Architecture
from support.zoo_unfit import gpt1
from tl_scopes.circuits import components, flow, head_paths
from tl_scopes.errors import NonAdditiveError, UnsupportedModelError

S = ts.SemanticScope(5)
# A list of its own: Gemma 4's configuration changes the one that it is given.
_GEMMA4 = _GEMMA | _SLIDING | dict(layer_types=[*_LAYER_TYPES])
_GEMMA4 |= dict(vocab_size_per_layer_input=zoo.D_VOCAB, hidden_size_per_layer_input=4)
MODELS = {
    name: lambda name=name: zoo.shared(name)
    for name in [
        *zoo.names("", "attn_only"),
        *zoo.names("", "moe"),
        *zoo.names("bridge", "logit_scale"),
    ]
}
if zoo.TransformerBridge is not None:
    MODELS |= {
        name: lambda name=name: zoo.boot(zoo.hf_model(name))
        for name in ("recurrent-gemma", "opt-post-norm", "gemma4", "deepseek2")
    }
    MODELS["gpt1"] = lambda: zoo.boot(gpt1())


@pytest.mark.parametrize("name", MODELS)
def test_what_a_refusal_names_works(name, monkeypatch):
    if name == "gemma4" and not hasattr(transformers, "Gemma4TextConfig"):
        pytest.skip("not in this transformers")
    monkeypatch.setitem(zoo.UNUSUAL, "gemma4", Architecture("Gemma4TextConfig", _GEMMA4, ""))
    model = MODELS[name]()
    for by in ("head", "mlp", "neuron", "layer"):
        try:
            components(model, TOKENS, S, by=by)
        except (UnsupportedModelError, NonAdditiveError) as error:
            hint = str(error).rpartition("use by=")
            ways = re.findall(r'by="(\w+)"', "".join(hint[1:]))
            assert ways, error
            for way in ways:
                assert torch.isfinite(components(model, TOKENS, S, by=way).total).all()
            if "head_paths" in hint[2]:
                head_paths(model, TOKENS, S, progress=False)
            if "flow" in hint[2]:
                flow(model, TOKENS, S, 1)
