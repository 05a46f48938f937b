"""Models that accelerate offloads: refused by name in every call, before any number, and left as they were.

Between passes their weights are on the meta device. The unembedding could not be read, a bridge computes from weights
that no hook has fetched, and each pass makes new parameters, whose flags no call could put back.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.calls import CALLS, S, T, attribution, calls
from support.marks import needs_bridge
from support.traces import model_state, process_state
from tl_scopes.errors import UnsupportedModelError

accelerate = pytest.importorskip("accelerate")
CPU, SCOPE = torch.device("cpu"), S
MODELS = [n for n in ("hooked/llama", "bridge/llama", "hooked/gpt2", "bridge/gemma2") if n in zoo.names()]  # fmt: skip


def parts(model) -> dict[str, torch.nn.Module]:
    """What may be offloaded: whole, the wrapped model whole, or some of it."""
    wrapped = getattr(model, "original_model", None)
    found = {
        "all": model,
        "a block": model.blocks[1],
        "head": model.unembed,
        "embedding": model.embed,
    }
    return found if wrapped is None else {"wrapped": wrapped, **found}


def offload(way: str, part: torch.nn.Module, folder) -> None:
    if way == "disk":
        accelerate.disk_offload(part, str(folder), execution_device=CPU)
    else:
        accelerate.cpu_offload(part, execution_device=CPU, offload_buffers=way == "buffers too")


def state(model) -> dict[str, object]:
    # What checks annotations in tests draws from Python's random numbers, to pick an entry of a list.
    known = model_state(model) | process_state()
    return {name: value for name, value in known.items() if name != "python random"}


def refuse_all(model) -> None:
    attribution()
    before = state(model)
    for name in calls(but=["check", "run"]):
        with pytest.raises(UnsupportedModelError, match=r"meta device.*offloaded.*device_map"):
            pytest.fail(f"{name} gave {CALLS[name](model)}")
    found = ts.check(model, progress=False)
    assert not found.passed and "offloaded" in found["model"].measured
    after = state(model)
    assert {k for k in before if before[k] != after[k]} == set()


@pytest.mark.parametrize(
    ("name", "used", "way"), chosen.pairs(MODELS, [False, True], ["cpu", "disk", "buffers too"])
)
def test_every_call_refuses(name, used, way, tmp_path):
    for part in parts(zoo.shared(name)):
        model = zoo.build(name)
        if used:
            ts.attribute(model, T, SCOPE)
        # Of a bridge, which holds modules under two names, accelerate gives up half done.
        half_done = part == "all" and name.startswith("bridge")
        with pytest.raises(ValueError, match="meta") if half_done else nullcontext():
            offload(way, parts(model)[part], tmp_path / part)
        refuse_all(model)


@needs_bridge
@pytest.mark.parametrize("way", ["cpu", "disk", "buffers too"])
def test_what_was_offloaded_before_it_was_wrapped_is_refused(way, tmp_path):
    source = zoo.hf_model("llama")
    offload(way, source, tmp_path)
    refuse_all(zoo.boot(source))


@pytest.mark.parametrize("name", [n for n in MODELS if n != "bridge/gemma2"])
def test_fetched_back_it_gives_what_it_gave(name):
    model = zoo.build(name)
    # accelerate cannot put back what a bridge's own modules wrap.
    part = getattr(model.unembed, "original_component", model.blocks[1])
    offload("cpu", part, None)
    refuse_all(model)
    accelerate.hooks.remove_hook_from_submodules(part)
    found = ts.attribute(model, T, SCOPE).scores
    torch.testing.assert_close(found, ts.attribute(zoo.shared(name), T, SCOPE).scores)
