"""Models whose parts lie on two devices: each tensor follows the device of what it meets, in every call.

The devices are pretended ones (`two_devices`): what would crash on real ones crashes here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.calls import FISHER, VARIANTS, S, T, of
from support.two_devices import Devices
from tl_scopes import baselines, circuits
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import UnsupportedModelError

try:
    from transformer_lens.utilities.multi_gpu import get_device_for_block_index
except ImportError:  # transformer-lens < 3
    from transformer_lens.utilities.devices import get_device_for_block_index

accelerate = pytest.importorskip("accelerate")
FIRST, SECOND = "mtia:0", "mtia:1"
# Every neighbour elsewhere.
SCATTERED = {"embed": FIRST, "blocks": (SECOND, FIRST, SECOND), "norm": FIRST, "head": SECOND}
# As a device map puts them where the embedding is the unembedding too.
TIED = {"embed": FIRST, "blocks": (FIRST, SECOND, SECOND), "norm": SECOND, "head": FIRST}
PLACES = {
    "bridge/llama": SCATTERED,
    "bridge/gemma2": TIED,
    "hooked/llama": SCATTERED,
}
# transformer-lens 2.x computes on one device alone where a mask is given: its forward pass fails by itself.
MODELS = [name for name in PLACES if name in zoo.names() and zoo.TransformerBridge is not None]


@functools.cache
def placed(name: str, dtype: torch.dtype = torch.float64) -> tuple[Devices, Any]:
    """A model of the zoo with its parts on two devices, which are there while what comes with it is entered."""
    with Devices() as devices:
        make = _dispatched if name.startswith("bridge") else _sharded
        return devices, make(name, PLACES[name], dtype)


def _dispatched(name: str, places: dict[str, Any], dtype: torch.dtype) -> Any:
    """A bridge over a model that accelerate has dispatched."""
    kind = name.partition("/")[2]
    source = zoo.hf_model(kind, dtype)
    lists = [n for n, m in source.named_modules() if isinstance(m, torch.nn.ModuleList)]
    (blocks,) = (n for n in lists if len(source.get_submodule(n)) == zoo.N_LAYERS)
    inner, _, own = blocks.rpartition(".")
    beside = [n for n, _ in source.get_submodule(inner).named_children() if n != own]
    where = {f"{blocks}.{i}": device for i, device in enumerate(places["blocks"])}
    where |= {
        f"{inner}.{n}": places["norm" if "norm" in n or n == "ln_f" else "embed"] for n in beside
    }
    accelerate.dispatch_model(source, where | {"lm_head": places["head"]})
    with zoo.building():
        return zoo.TransformerBridge.boot_transformers(
            f"tiny/{kind}", hf_model=source, tokenizer=zoo.tokenizer(), dtype=dtype
        )


def _sharded(name: str, places: dict[str, Any], dtype: torch.dtype) -> Any:
    """A HookedTransformer with blocks where its own forward pass sends the stream (n_devices=2).

    What follows the blocks it sends nowhere: hooks of accelerate's do.
    """
    model = zoo.build(name, dtype)
    model.cfg.device, model.cfg.n_devices = FIRST, 2
    model.embed.to(places["embed"])
    for layer, block in enumerate(model.blocks):
        block.to(get_device_for_block_index(layer, model.cfg))
    for module, device in ((model.ln_final, places["norm"]), (model.unembed, places["head"])):
        accelerate.hooks.add_hook_to_module(module, accelerate.hooks.AlignDevicesHook(device))
    return model


# Results of the others are of the machine, or in files.
ELSEWHERE = ("metric", "stability", "run", "faithfulness_card")
CALLS: dict[str, Callable[[Any], Any]] = {
    **{
        name: call
        for name, call in VARIANTS.items()
        if name not in ELSEWHERE and (name.startswith("fisher") or not name.endswith(("batch", "sequence")))
    },
    "difference": of(ts.attribute, scope=ts.LogitDifferenceScope(5, 7)),
    "tail": of(ts.attribute, scope=ts.FisherScope(rank=2, tail=0.05)),
    "direction": of(
        ts.attribute, scope=ts.DirectionScope(torch.linspace(-1, 1, zoo.D_MODEL), "blocks.1.hook_mlp_out")
    ),
    "heads": of(ts.attribute, scope=FISHER, sites=["blocks.1.attn.hook_z", "blocks.0.hook_mlp_out"]),
    "components mlp": of(circuits.components, by="mlp", baseline="mean"),
    "head_paths split": of(circuits.head_paths, scope=FISHER, split=True, least_effect=0.1),
    "head_paths read": of(circuits.head_paths, read_only=True),
    "verify mean": of(circuits.verify, intervention="mean", random=0),
    "scope_metric": lambda m: circuits.scope_metric(m, T, ts.TemperatureScope())(view_of(m).forward(m.to_tokens(T))),
    "baselines component": of(baselines.LeaveOneOut(5).attribute, sites="blocks.1.attn.hook_z[1]"),
    "captum paths": of(baselines.IntegratedGradients(5, steps=4).attribute, sites=["embed", 2]),
}  # fmt: skip


def numbers(found: Any) -> list[Any]:
    """All that is in a result, tensors as lists."""
    if isinstance(found, pd.DataFrame):
        return [found.to_dict("list")]
    if isinstance(found, torch.Tensor):
        return [found.detach().cpu().double().tolist()]
    if isinstance(found, dict):
        return [found]
    if isinstance(found, (list, tuple)):
        return [number for each in found for number in numbers(each)]
    if not dataclasses.is_dataclass(found):
        return [found]
    values = [
        getattr(found, field.name)
        for field in dataclasses.fields(found)
        if field.name != "provenance"
    ]
    return [v.double().tolist() if isinstance(v, torch.Tensor) else v for v in values]


@functools.cache
def expected(name: str, call: str) -> Any:
    return numbers(CALLS[call](zoo.shared(name)))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", MODELS)
def test_every_call_gives_what_one_device_gives(name, call):
    wanted = expected(name, call)
    devices, model = placed(name)
    devices.meetings.clear()
    with devices:
        found = numbers(CALLS[call](model))
    assert not devices.meetings
    same(found, wanted)


@pytest.mark.parametrize("name", MODELS)
def test_a_wider_precision_is_taken_where_each_weight_is(name):
    devices, model = placed(name, torch.float32)
    with devices:
        found = ts.attribute(model, T, FISHER, sites="all", stability=True)
    assert not devices.meetings
    alone = ts.attribute(zoo.build(name, torch.float32), T, FISHER, sites="all", stability=True)
    assert found.stability.precision == "float64"
    torch.testing.assert_close(found.scores, alone.scores)
    assert max(found.stability.largest_error) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_check_passes(name, dtype):
    devices, model = placed(name, dtype)
    with devices:
        found = ts.check(model, progress=False)
    assert not devices.meetings
    assert found.passed and not found.of("refused"), found.of("failed")
    assert len(found.costs) == 5


def same(found: Any, wanted: Any) -> None:
    """Equal, numbers to rounding."""
    if isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9, nan_ok=True)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted):
            same(a, b)
    elif isinstance(wanted, dict):
        same(list(found.values()), list(wanted.values()))
    elif dataclasses.is_dataclass(wanted):
        same(list(vars(found).values()), list(vars(wanted).values()))
    else:
        assert found == wanted


@pytest.mark.skipif(zoo.TransformerBridge is None, reason="transformer-lens < 3")
def test_a_device_map_with_cpu_beside_a_device_is_refused():
    """accelerate offloads what it puts on the CPU there."""
    places = TIED | {"blocks": (FIRST, "cpu", FIRST), "norm": FIRST}
    with Devices():
        model = _dispatched("bridge/llama", places, torch.float64)
        with pytest.raises(UnsupportedModelError, match=r"offloaded.*device_map"):
            ts.attribute(model, T, S)


def test_the_pretended_devices_are_told_apart():
    with Devices() as devices:
        a = torch.randn(3, 4, device=FIRST, requires_grad=True)
        b = torch.randn(4, device=SECOND)
        layer = torch.nn.Linear(4, 4).to(SECOND)
        assert (a * 2)[0].device == torch.device(FIRST) and layer.weight.device == b.device
        for meet in (
            lambda: a @ b,
            lambda: layer(a),
            lambda: a[torch.tensor([0], device=SECOND)],
            lambda: a + torch.ones(4),
            lambda: torch.autograd.grad(a.to(b) * b, a, torch.ones(3, 4, device=FIRST)),
            lambda: torch.stack([a[0], b]),
        ):
            with pytest.raises(RuntimeError, match="at least two devices"):
                meet()
        assert len(devices.meetings) == 6
        with pytest.raises(TypeError, match="numpy"):
            b.numpy()
        v = torch.ones(5, 3, device=SECOND)
        (g,) = torch.autograd.grad(a.to(b) @ b, a, v, is_grads_batched=True)
        assert (
            g.device == a.device and (a + torch.tensor(1.0))[torch.tensor([0])].device == a.device
        )
        torch.testing.assert_close(g[2].cpu(), b.detach().cpu().expand(3, 4))
        assert len(devices.meetings) == 6
    assert b.device.type == "cpu"
