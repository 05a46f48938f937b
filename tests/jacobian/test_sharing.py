"""Global modes, precision, memory and threads: a call neither depends on them nor leaves anything behind in them."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.traces import SCOPES, each_class, letting_go_of_activations, traceless
from tl_scopes.errors import SiteError, TargetError
from tl_scopes.scopes.base import Explained

# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types


@each_class
@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)],
    ids=["no_grad", "inference", "off"],
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
    with letting_go_of_activations(model):
        kept = [ts.attribute(model, zoo.TEXT, scope, sites="all") for scope in SCOPES]
        with contextlib.suppress(TargetError):
            ts.attribute(model, zoo.TEXT, ts.SemanticScope(zoo.SPLIT_WORD))
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


@each_class
def test_default_device_neither_matters_nor_changes(name):
    """ "meta" stands for the "cuda" that people set: what is made there by mistake has no values."""
    model, scope = zoo.build(name), ts.FisherScope(rank=2, samples=2)
    ids = model.to_tokens(zoo.TEXT)[0].tolist()
    expected = ts.attribute(model, ids, scope, sites="all")
    try:
        torch.set_default_device("meta")
        found = ts.attribute(model, ids, scope, sites="all")
    finally:
        torch.set_default_device(None)
    assert torch.equal(found.scores, expected.scores)
    assert found.tokens.tolist() == ids


@each_class
def test_vectors_of_a_custom_scope_may_carry_a_graph(name):
    probe = torch.nn.Parameter(torch.ones(16, dtype=torch.float64))

    class Probe(ts.Scope):
        name = "probe"
        units = "unit of the probe per unit"

        def explain(self, read):
            return Explained.single(probe * 2)

        def parameters(self):
            return {}

    model = zoo.build(name)
    found = ts.attribute(model, zoo.TEXT, Probe()).scores
    assert not found.requires_grad
    assert probe.grad is None
    direction = ts.DirectionScope(probe * 2)
    torch.testing.assert_close(found, ts.attribute(model, zoo.TEXT, direction).scores)


@each_class
def test_padding_uses_no_foreign_token(name):
    """Shorter rows of a batch are filled up; what fills them must not bring trouble of its own."""
    model = zoo.build(name)
    prompts = [[5, 6], [7, 8, 9]]
    expected = [ts.attribute(model, p, ts.SemanticScope(5)).scores for p in prompts]
    with torch.no_grad():
        model.embed.W_E.data[[0, 2]] = float("nan")  # BOS and <pad>, which neither prompt holds
    found = ts.attribute_batch(model, prompts, ts.SemanticScope(5))
    for a, scores in zip(found, expected):
        torch.testing.assert_close(a.scores, scores)
