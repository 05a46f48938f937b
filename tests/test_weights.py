"""Weights come into memory once: files are read rather than mapped, and one model hands them to the next."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import zoo
from safetensors import safe_open

from tl_scopes._weights import hand_over, read_not_mapped

_MAPS = Path("/proc/self/maps")


@pytest.mark.skipif(
    not _MAPS.exists() or "backend" not in inspect.signature(safe_open).parameters,
    reason="mappings are listed on Linux; safetensors before 0.8 only maps",
)
def test_files_are_read(tmp_path):
    from transformers import AutoModelForCausalLM, modeling_utils

    zoo.hf_model("llama", torch.float32).save_pretrained(tmp_path)
    before = modeling_utils.safe_open
    with read_not_mapped():
        model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
        assert str(tmp_path) not in _MAPS.read_text(encoding="utf-8")
    assert modeling_utils.safe_open is before
    wanted = zoo.hf_model("llama", torch.float32).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=0)


def test_the_source_is_left_without_weights():
    source, model = (zoo.hf_model("llama", torch.float32) for _ in range(2))
    wanted = {name: value.clone() for name, value in source.state_dict().items()}
    state = dict(source.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    hand_over(state, source, model)
    assert not state and all(p.is_meta for p in source.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name])
