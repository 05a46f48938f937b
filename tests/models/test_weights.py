"""Weights come into memory once: files are read rather than mapped, and one model hands them to the next."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from support import zoo
from tl_scopes.models.weights import hand_over, read_not_mapped

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


def test_what_fits_is_not_copied_and_memory_is_never_shared():
    def made() -> torch.nn.ModuleDict:
        shapes = {"embed": (3, 5), "tied": (3, 5), "unembed": (5, 3), "piece": (2, 5)}
        return torch.nn.ModuleDict(
            {k: torch.nn.ParameterList([torch.zeros(v)]) for k, v in shapes.items()}
        )

    weight = torch.arange(15.0).reshape(3, 5)
    state = {"embed.0": weight, "tied.0": weight, "unembed.0": weight.T, "piece.0": weight[:2]}
    wanted = {name: value.clone() for name, value in state.items()}
    model = made()
    hand_over(state, made(), model)
    found = model.state_dict()
    for name, value in wanted.items():
        assert torch.equal(found[name], value) and found[name].is_contiguous()
    assert found["embed.0"].data_ptr() == weight.data_ptr()
    assert len({value.untyped_storage().data_ptr() for value in found.values()}) == len(found)
    assert all(p.requires_grad for p in model.parameters())
