"""Folders of models that read images too are loaded for text, and nothing is installed on the way."""

from __future__ import annotations

import importlib.util
import subprocess

import pytest
import torch
import transformers

import tl_scopes as ts
from support import zoo
from support.zoo_tables import _LLAMA
from tl_scopes import models
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import ModelUnavailableError

pytestmark = pytest.mark.skipif(zoo.TransformerBridge is None, reason="transformer-lens < 3")

_SPECIAL = dict(vocab_size=zoo.D_VOCAB, bos_token_id=0, eos_token_id=1, pad_token_id=2)
_TEXT = _LLAMA | _SPECIAL
_EYE = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
_EYE |= dict(image_size=8, patch_size=4)
_QWEN_EYE = dict(depth=1, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=16)
_ROPE = dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 0])
_MARKS = dict(image_token_id=60, video_token_id=61, vision_start_token_id=62)
CASES = {
    "LlavaConfig": dict(
        vision_config=_EYE | dict(model_type="clip_vision_model"),
        text_config=_TEXT | dict(model_type="llama"),
        image_token_id=60,
    ),
    "Mistral3Config": dict(
        vision_config=_EYE | dict(model_type="pixtral", head_dim=8),
        text_config=_TEXT | dict(model_type="mistral", head_dim=4),
        image_token_id=60,
    ),
    "Qwen2_5_VLConfig": _MARKS
    | dict(
        vision_config=_QWEN_EYE | dict(fullatt_block_indexes=[0]),
        text_config=_TEXT | dict(model_type="qwen2_5_vl_text", rope_parameters=_ROPE),
    ),
    "Qwen3VLConfig": _MARKS
    | dict(
        vision_config=_QWEN_EYE | dict(deepstack_visual_indexes=[0], num_position_embeddings=16),
        text_config=_TEXT | dict(model_type="qwen3_vl_text", head_dim=4, rope_parameters=_ROPE),
    ),
}


@pytest.mark.parametrize("config", CASES)
def test_it_loads_for_text(config, tmp_path, monkeypatch):
    if not hasattr(transformers, config):
        pytest.skip("not in this transformers")
    with zoo.building():
        source = transformers.AutoModelForImageTextToText.from_config(
            getattr(transformers, config)(**CASES[config]), attn_implementation="eager"
        ).eval()
    zoo.randomise(source, config)
    source.save_pretrained(tmp_path)
    zoo.tokenizer().save_pretrained(tmp_path)
    run = []
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kwargs: run.append(args))
    if config.startswith("Qwen") and importlib.util.find_spec("torchvision") is None:
        # transformer-lens needs it there, for text alone too.
        with pytest.raises(ModelUnavailableError, match="pip install torchvision"):
            models.load(tmp_path)
        assert not run
        return
    model = models.load(tmp_path)
    assert not run, "transformer-lens installs torchvision by itself"
    ids = model.to_tokens(zoo.TEXT)
    with torch.no_grad():
        torch.testing.assert_close(models.load_original(tmp_path)(ids).logits, source(ids).logits)
        torch.testing.assert_close(view_of(model).forward(ids), source(ids).logits)
    result = ts.attribute(model, zoo.TEXT, ts.SemanticScope(5), sites="all")
    assert torch.isfinite(result.scores).all() and result.scores.any()
