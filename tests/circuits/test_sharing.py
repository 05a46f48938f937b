"""Circuit analysis under global modes, from threads, and what its results hold on to."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import threading
import weakref

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.circuit_calls import CALLS, FISHER, IDS, S, around, values
from support.traces import each_class, letting_go_of_activations, model_state
from tl_scopes.circuits import flow, flow_path, scope_metric
from tl_scopes.errors import ScopesError

# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types


@functools.cache
def in_no_mode(name: str) -> dict[str, list[torch.Tensor]]:
    model = zoo.build(name)
    return {label: values(call(model, name)) for label, call in CALLS.items()}


@each_class
@pytest.mark.parametrize("mode", ["no_grad", "inference", "autocast", "float64", "meta"])
def test_global_modes_neither_matter_nor_change(name, mode):
    model = zoo.build(name)
    wanted = in_no_mode(name)
    CALLS["components"](model, name)  # a bridge wires its modules in its first pass
    context = {
        "no_grad": torch.no_grad, "inference": torch.inference_mode,
        "autocast": functools.partial(torch.autocast, "cpu", torch.bfloat16),
    }.get(mode, contextlib.nullcontext)  # fmt: skip
    before = model_state(model)
    try:
        # "meta" stands for the "cuda" that people set: what is made there by mistake has no values.
        torch.set_default_device("meta" if mode == "meta" else None)
        torch.set_default_dtype(torch.float64 if mode == "float64" else torch.float32)
        with context():
            for label, call in CALLS.items():
                if (label, mode) == ("metric", "meta"):
                    continue  # its own forward pass is the model's
                for got, expected in zip(values(call(model, name)), wanted[label]):
                    assert got.dtype == expected.dtype and got.device.type == "cpu"
                    if (label, mode) != ("metric", "autocast"):
                        torch.testing.assert_close(got, expected)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert model_state(model) == before


@each_class
def test_a_metric_first_used_without_gradients_has_them_later(name):
    model = zoo.shared(name)
    logits = model(torch.tensor([IDS])).detach()
    for mode in (torch.inference_mode, torch.no_grad):
        used, fresh = (scope_metric(model, IDS, ts.TemperatureScope()) for _ in range(2))
        with mode():
            used(logits.clone())
        slopes = []
        for each in (used, fresh):
            leaf = logits.clone().requires_grad_()
            each(leaf).backward()
            slopes.append(leaf.grad)
        assert slopes[0].any() and torch.equal(*slopes)


@each_class
def test_threads_share_a_model(name):
    model = zoo.build(name)
    labels = ["components", "flow_path", "head_paths", "verify tokens"]
    wanted = {label: values(CALLS[label](model, name)) for label in labels}
    found: dict[int, list[torch.Tensor]] = {}

    def work(first: int) -> None:
        for i in range(first, 8, 2):
            found[i] = values(CALLS[labels[i % 4]](model, name))

    before = model_state(model) | around()
    run(functools.partial(work, 0), functools.partial(work, 1))
    assert (model_state(model) | around()) == before
    assert sorted(found) == list(range(8))
    for i, each in found.items():
        for got, expected in zip(each, wanted[labels[i % 4]]):
            torch.testing.assert_close(got, expected)


@each_class
def test_threads_with_a_model_each(name):
    """Torch has one level of forward-mode differentiation for the whole process."""
    found: list[torch.Tensor] = []

    def work() -> None:
        model = zoo.build(name)
        found.extend(flow_path(model, IDS, S, [1, 2]).edges for _ in range(5))

    run(work, work)
    assert len(found) == 10 and all(torch.equal(each, found[0]) for each in found)


def run(*targets) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


# ------------------------------------------------------------------------------------------------------ results
RESULTS = [label for label in CALLS if label != "metric"]


@each_class
@pytest.mark.parametrize("call", RESULTS)
def test_results_are_plain_frozen_and_saved_whole(name, call, tmp_path):
    found = CALLS[call](zoo.shared(name), name)
    for tensor in values(found):
        assert not tensor.requires_grad and tensor.device.type == "cpu"
        assert tensor.dtype in (torch.float32, torch.int64)
    for field in dataclasses.fields(found):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(found, field.name, None)
    again = type(found).load(found.save(tmp_path / "result.safetensors"))
    for field in dataclasses.fields(found):
        one, other = getattr(found, field.name), getattr(again, field.name)
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, field.name
    assert repr(again) == repr(found)


@each_class
def test_results_keep_neither_graph_nor_model_alive(name):
    model = zoo.build(name)
    with letting_go_of_activations(model):
        kept = [call(model, name) for label, call in CALLS.items() if label != "metric"]
        kept.append(scope_metric(model, IDS, FISHER))
        with contextlib.suppress(ScopesError):
            flow(model, IDS, ts.SemanticScope(zoo.SPLIT_WORD), 1)
    ref = weakref.ref(model)
    del model
    gc.collect()
    assert ref() is None and kept
