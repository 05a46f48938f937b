"""Calls of every function of `tl_scopes.circuits`, and what they touch of the process."""

from __future__ import annotations

import functools

import torch
from torch.autograd import forward_ad

import tl_scopes as ts
from support import zoo
from support.traces import process_state
from tl_scopes.circuits import components, flow, flow_path, head_paths, scope_metric, verify

IDS = [0, 5, 6, 7, 8, 9]
DEEP = ts.DirectionScope(torch.ones(16), site=2)
S, FISHER = ts.SemanticScope(5), ts.FisherScope(rank=2, samples=2)


@functools.cache
def attribution(name: str) -> ts.Attribution:
    return ts.attribute(zoo.shared(name), IDS, S)


def metric(model, name):
    with torch.no_grad():
        return scope_metric(model, IDS, ts.TemperatureScope())(model(torch.tensor([IDS])))


# Hooks of `lived_in` only look, so that sums of what is written hold.
CALLS = {
    "components": lambda m, n: components(m, IDS, S, frozen="both", corrupted=IDS[::-1]),
    "neurons": lambda m, n: components(m, IDS, FISHER, "neuron", reference=[IDS, [7, 8]]),
    "layers": lambda m, n: components(m, IDS, DEEP, "layer"),
    "flow": lambda m, n: flow(m, IDS, FISHER, 1, chunk_size=5),
    "flow_path": lambda m, n: flow_path(m, IDS, FISHER, [1, 3], frozen="both"),
    "head_paths": lambda m, n: head_paths(m, IDS, FISHER, split=True, frozen="norms"),
    "metric": metric,
    "verify tokens": lambda m, n: verify(
        m, IDS, attribution(n), intervention="pad", steps=[0.1, 1]
    ),
    "verify heads": lambda m, n: verify(
        m, IDS, attribution(n), "head", "corrupt", corrupted=IDS[::-1], top=2, random=1, steps=[1]
    ),
}


def around() -> dict[str, object]:
    """What circuits touch of the process beyond what other calls do."""
    kernels = torch.backends.cuda
    return process_state() | {
        "forward mode": forward_ad._current_level,
        "kernels": (
            kernels.flash_sdp_enabled(), kernels.mem_efficient_sdp_enabled(), kernels.math_sdp_enabled(),
            kernels.cudnn_sdp_enabled(),
        ),
    }  # fmt: skip


def values(result) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    return [v for v in vars(result).values() if isinstance(v, torch.Tensor)]
