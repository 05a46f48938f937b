"""Global modes, precision, memory and threads: a call neither depends on them nor leaves anything behind in them."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref

import pytest
import tl_scopes as ts
import torch
import zoo
from tl_scopes.errors import SiteError, TargetError
from traces import SCOPES, each_class, traceless

# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types


@each_class
@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)], ids=["no_grad", "inference", "off"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_global_modes_neither_matter_nor_change(name, mode, dtype):
    model = zoo.build(name)
    scope = ts.FisherScope(rank=2, samples=3)
    expected = ts.attribute(zoo.build(name), zoo.TEXT, scope, sites="all")
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with mode(), traceless(model):
            for prompt in (zoo.TEXT, model.to_tokens(zoo.TEXT)):
                found = ts.attribute(model, prompt, scope, sites="all")
                torch.testing.assert_close(found.scores, expected.scores)
                assert found.scores.dtype == torch.float32
                assert found.tokens.dtype == torch.int64
    finally:
        torch.set_default_dtype(default)


@each_class
def test_autocast_does_not_lower_precision(name):
    model = zoo.build(name, torch.float32)
    expected = ts.attribute(model, zoo.TEXT, ts.SemanticScope(5), sites="all").scores
    with torch.autocast("cpu", torch.bfloat16):
        found = ts.attribute(model, zoo.TEXT, ts.SemanticScope(5), sites="all").scores
        assert torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(found, expected)


@each_class
def test_sampling_is_repeatable_and_takes_nothing_from_the_global_generators(name):
    model, scope = zoo.build(name), ts.FisherScope(samples=3, seed=5)
    first = ts.attribute(model, zoo.TEXT, scope).scores
    torch.manual_seed(99)
    with traceless(model):
        assert torch.equal(ts.attribute(model, zoo.TEXT, scope).scores, first)


@each_class
def test_results_do_not_keep_the_graph_alive(name):
    model = zoo.build(name)
    activations = []

    def watch(activation, hook):
        activations.append(weakref.ref(activation))
        return activation

    gc.collect()
    gc.disable()  # a cycle would hold a GPU's memory until a collection that may come too late
    try:
        with model.hooks([("blocks.1.hook_resid_pre", watch), ("blocks.2.hook_resid_pre", watch)]):
            kept = [ts.attribute(model, zoo.TEXT, scope, sites="all") for scope in SCOPES]
            with contextlib.suppress(TargetError):
                ts.attribute(model, zoo.TEXT, ts.SemanticScope(zoo.SPLIT_WORD))
        assert activations and not any(ref() is not None for ref in activations)
    finally:
        gc.enable()
    assert not any(a.scores.requires_grad for a in kept)


@each_class
def test_models_are_collected_after_use(name):
    model = zoo.build(name)
    kept = ts.attribute(model, zoo.TEXT, ts.FisherScope(), sites="all")
    with pytest.raises(SiteError):
        ts.attribute(model, zoo.TEXT, ts.FisherScope(), sites="nowhere")
    ref = weakref.ref(model)
    del model
    gc.collect()
    assert ref() is None
    assert kept.scores.isfinite().all()


@each_class
def test_two_threads_share_a_model(name):
    model = zoo.build(name)
    prompts = [zoo.TEXT, zoo.LONG_TEXT, "The dog sat", "Because John is happy"]
    scope = ts.FisherScope(rank=2)
    expected = [ts.attribute(model, p, scope, sites="all").scores for p in prompts]
    found: dict[int, torch.Tensor] = {}

    def work(first: int) -> None:
        for i in range(first, 16, 2):
            found[i] = ts.attribute(model, prompts[i % 4], scope, sites="all").scores

    with traceless(model):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert sorted(found) == list(range(16))
    for i, scores in found.items():
        torch.testing.assert_close(scores, expected[i % 4])


@each_class
def test_a_plain_forward_in_another_thread_is_left_alone(name):
    model = zoo.build(name)
    tokens = model.to_tokens(zoo.TEXT)
    with torch.no_grad():
        logits = model(tokens)
    found: list[torch.Tensor] = []

    def plain() -> None:
        with torch.no_grad():
            found.append(model(tokens))

    def meanwhile(activation, hook):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=plain)
            thread.start()
            thread.join(timeout=30)
        return activation

    expected = ts.attribute(model, zoo.TEXT, ts.SemanticScope(), sites="all").scores
    with model.hooks([("blocks.1.hook_resid_pre", meanwhile)]):
        scores = ts.attribute(model, zoo.TEXT, ts.SemanticScope(), sites="all").scores
    assert found, "the other thread's forward pass raised"
    assert all(torch.equal(f, logits) for f in found)
    torch.testing.assert_close(scores, expected)
