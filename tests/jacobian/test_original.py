"""A bridge is what it wraps, and causal, or it is refused: the check itself is checked on right ones and wrong ones."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.llama import modeling_llama

import tl_scopes as ts
from support import chosen, zoo
from support.zoo_tables import _GPT, _LLAMA
from tl_scopes import models
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import ModelUnavailableError, UnsupportedModelError
from tl_scopes.jacobian import causality, original

needs_bridge = pytest.mark.skipif(zoo.TransformerBridge is None, reason="transformer-lens < 3")
IDS = torch.tensor([zoo.tokenizer()(zoo.LONG_TEXT).input_ids])
SCOPE = ts.SemanticScope(5)
_COHERE = {k: v for k, v in _LLAMA.items() if k != "rms_norm_eps"} | dict(logit_scale=0.25)
# Not right on every version of transformer-lens, or only without a mask.
DOUBTFUL = {
    "cohere": ("CohereConfig", _COHERE),
    "cohere2": ("Cohere2Config", _COHERE | dict(sliding_window=4)),
    "hunyuan": ("HunYuanDenseV1Config", _LLAMA | dict(head_dim=4)),
    "gpt1": ("OpenAIGPTConfig", _GPT),
    "falcon": ("FalconConfig", dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)),
    "xglm": ("XGLMConfig", dict(d_model=16, num_layers=2, attention_heads=2, ffn_dim=32)),
}


def hugging_face(name: str):
    config, fields = DOUBTFUL[name]
    special = dict(vocab_size=zoo.D_VOCAB, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    with zoo.building():
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, config)(**special | fields), attn_implementation="eager"
        )
    model.config.architectures = [type(model).__name__]
    zoo.randomise(model, name)
    return model.eval()


def apart(model) -> float | None:
    with view_of(model).locked():
        return original.apart(view_of(model), IDS)


@needs_bridge
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", DOUBTFUL)
def test_equal_or_refused(name, dtype, tmp_path):
    """Held against a model that no bridge has touched."""
    with torch.no_grad():
        source = hugging_face(name)
        source.to(dtype).save_pretrained(tmp_path)
        zoo.tokenizer().save_pretrained(tmp_path)
        expected = source(IDS).logits.float()
        bridge = zoo.boot(source, dtype)
        logits = view_of(bridge).forward(IDS).float()
    off = float((logits - expected).abs().max() / expected.std())
    if off < {torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]:
        ts.attribute(bridge, IDS[0], SCOPE)
        assert models.load(tmp_path, "bridge", dtype=dtype).cfg.model_name == tmp_path.name
    else:
        assert off > 0.3
        with pytest.raises(UnsupportedModelError, match=r"not the model that it wraps.*version"):
            ts.attribute(bridge, IDS[0], SCOPE)
        with pytest.raises(ModelUnavailableError, match=r"TransformerBridge.*off by"):
            models.load(tmp_path, "bridge", dtype=dtype)


@pytest.mark.parametrize("name", zoo.kinds("bridge"))
def test_what_runs_beside_a_bridge_is_not_the_bridge(name, monkeypatch):
    """An error in the bridge's attention alone is seen, whatever hooks there are: they are off, and stay."""
    model = zoo.build(name, torch.float32)
    copy = original.untouched(model.original_model)
    assert not any("bridge" in type(m).__name__.lower() for m in copy.modules())
    assert {id(p) for p in copy.parameters()} <= {id(p) for p in model.original_model.parameters()}
    seen = []
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: seen.append(a) or a * 2)]):
        assert apart(model) < 1e-5 and not seen
        model(IDS)
        assert len(seen) == 1
    attention = type(model.blocks[0].attn)
    forward = attention.forward

    def other(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        first, *rest = out if isinstance(out, tuple) else (out,)
        first = first + 0.1 * first.flip(-1)
        return (first, *rest) if isinstance(out, tuple) else first

    monkeypatch.setattr(attention, "forward", other)
    assert apart(model) > 2e-3
    with pytest.raises(UnsupportedModelError, match="not the model that it wraps"):
        ts.attribute(model, IDS[0], SCOPE)


# ------------------------------------------------------------------------------------------------- looking ahead
@pytest.mark.parametrize(
    ("name", "dtype"),
    chosen.each([n for n in zoo.names() if "olmo2" not in n], [torch.float32, torch.bfloat16]),
    ids=str,
)
def test_no_model_here_looks_ahead(name, dtype):
    model = zoo.build(name, dtype)
    with view_of(model).locked():
        assert causality.lookahead(view_of(model), IDS)[0] < 1e-6


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.endswith("/llama")])
def test_a_mask_that_lets_look_ahead_is_refused(name, monkeypatch):
    model = zoo.build(name, torch.float32)
    if "hooked" in name:
        model.blocks[1].attn.apply_causal_mask = lambda scores, *args: scores
    else:

        def everything(*args, **given):
            (x,) = (v for k, v in given.items() if k.endswith("embeds"))
            return torch.zeros(len(x), 1, x.shape[1], x.shape[1])

        monkeypatch.setattr(modeling_llama, "create_causal_mask", everything)
    assert (model(IDS)[0, :3] - model(IDS[:, :3])[0]).abs().max() > 0.01
    for prompt in (IDS[0], IDS[0, :2]):
        with pytest.raises(UnsupportedModelError, match="not causal: tokens after position"):
            ts.attribute(model, prompt, SCOPE)
