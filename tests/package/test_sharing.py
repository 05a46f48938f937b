"""Global modes, precision, memory and threads: no call depends on them, leaves anything in them, or shares its own."""

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
from support import chosen, zoo
from support.calls import CALLS, FISHER, IDS, SCOPES, VARIANTS, S, T, attribution, values
from support.traces import PLAIN, each_class, letting_go_of_activations, traceless, untouched
from tl_scopes.circuits import flow, flow_path, scope_metric
from tl_scopes.errors import SiteError, TargetError
from tl_scopes.scopes.base import Explained

# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types
# Of scopes the one with most to work out.
MODAL = [v for v in VARIANTS if not v.endswith(("site", "batch", "sequence")) or v.startswith("fisher")]  # fmt: skip
ROWS = ("measure", "answers, measure", "run", "faithfulness_card")
DATA = [v for v in MODAL if v not in ("check", "metric", *ROWS)]


# --------------------------------------------------------------------------------------------------------- modes
@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


MODES = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "off": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    # It stands for the "cuda" that people set: what is made there by mistake has no values.
    "meta": lambda: torch.device("meta"),
}
# The model's own pass makes the metric's logits; captum draws SmoothGrad's noise where, and in what, torch would.
OWN = {
    "autocast": ["metric"], "meta": ["metric", "SmoothGrad"], "float64": ["SmoothGrad"],
}  # fmt: skip


@functools.cache
def in_no_mode(name: str) -> dict[str, list[torch.Tensor]]:
    model = zoo.build(name, torch.float32)
    return {variant: values(VARIANTS[variant](model)) for variant in MODAL}


@pytest.mark.parametrize(("name", "mode"), chosen.each(PLAIN, MODES))
def test_global_modes_neither_matter_nor_change(name, mode):
    model, wanted = zoo.build(name, torch.float32), in_no_mode(name)
    CALLS["attribute"](model)  # a bridge wires its modules in its first pass
    with MODES[mode](), untouched(model):
        found = {v: values(VARIANTS[v](model)) for v in MODAL if v not in OWN.get(mode, ())}
    for variant, each in found.items():
        for got, expected in zip(each, wanted[variant], strict=True):
            assert got.dtype == expected.dtype and got.device.type == "cpu", variant
            torch.testing.assert_close(got, expected, equal_nan=True, msg=variant)


@each_class
def test_what_is_done_with_results_minds_no_default_device(name, tmp_path):
    model = zoo.build(name, torch.float32)
    plain = ts.attribute(model, IDS, S)
    with torch.device("meta"):
        found = ts.attribute(model, IDS, S)
        assert torch.equal(found.group([(1, 3)]).scores, plain.group([(1, 3)]).scores)
        assert len(found.to_html()) == len(plain.to_html())
        loaded = ts.Attribution.load(found.save(tmp_path / "file"))
        assert torch.equal(loaded.scores, plain.scores) and loaded.scores.device.type == "cpu"
        assert loaded.tokens.tolist() == IDS


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
@pytest.mark.parametrize("variant", ["sampled", "SmoothGrad", "Random"])
def test_sampling_is_repeatable_and_takes_nothing_from_the_global_generators(name, variant):
    model = zoo.build(name)
    call = VARIANTS.get(
        variant, functools.partial(ts.attribute, prompt=T, scope=ts.FisherScope(samples=3, seed=5))
    )
    first = call(model).scores
    torch.manual_seed(99)
    with traceless(model):
        assert torch.equal(call(model).scores, first)


# ------------------------------------------------------------------------------------------------------- threads
def together(*targets) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


@each_class
def test_threads_share_a_model(name):
    model = zoo.build(name)
    work = [
        VARIANTS[v]
        for v in ("components, frozen", "flow_path, frozen", "head_paths, split", "verify, tokens", "InputXGradient",
                  "LeaveOneOut", "IntegratedGradients", "hide")
    ]  # fmt: skip
    for prompt in (T, zoo.LONG_TEXT, "The dog sat", "Because John is happy"):
        more = dict(prompt=prompt, scope=FISHER, sites="all")
        work += [functools.partial(CALLS["attribute"], **more)] * 2
    expected = [values(call(model)) for call in work]
    found: dict[int, list[torch.Tensor]] = {}

    def some(first: int) -> None:
        for i in range(first, len(work), 2):
            found[i] = values(work[i](model))

    with traceless(model):
        together(functools.partial(some, 0), functools.partial(some, 1))
    assert sorted(found) == list(range(len(work)))
    for i, each in found.items():
        for got, wanted in zip(each, expected[i]):
            torch.testing.assert_close(got, wanted)


@each_class
def test_threads_with_a_model_each(name):
    """Torch has one level of forward-mode differentiation for the whole process."""
    found: list[torch.Tensor] = []

    def work() -> None:
        model = zoo.build(name)
        found.extend(flow_path(model, IDS, S, [1, 2]).edges for _ in range(5))

    together(work, work)
    assert len(found) == 10 and all(torch.equal(each, found[0]) for each in found)


@each_class
def test_a_plain_forward_in_another_thread_is_left_alone(name):
    model = zoo.build(name)
    tokens = model.to_tokens(T)
    with torch.no_grad():
        logits = model(tokens)
    found: list[torch.Tensor] = []

    def plain() -> None:
        with torch.no_grad():
            found.append(model(tokens))

    def meanwhile(activation, hook):
        if threading.current_thread() is threading.main_thread():
            together(plain)
        return activation

    expected = ts.attribute(model, T, ts.SemanticScope(), sites="all").scores
    with model.hooks([("blocks.1.hook_resid_pre", meanwhile)]):
        scores = ts.attribute(model, T, ts.SemanticScope(), sites="all").scores
    assert found, "the other thread's forward pass raised"
    assert all(torch.equal(f, logits) for f in found)
    torch.testing.assert_close(scores, expected)


# ------------------------------------------------------------------------------------------------------- results
SAVED = [v for v in DATA if v not in ("fisher_spectrum", "input_stability", "randomisation", "attribute_batch",
                                      "circuit_tracer_targets", "circuit_card", "answers, stability",
                                      "fisher, batch")]  # fmt: skip


@pytest.mark.parametrize(("name", "variant"), chosen.each(PLAIN, SAVED))
def test_results_are_plain_frozen_and_saved_whole(name, variant, tmp_path):
    model = zoo.shared(name, torch.float32)
    found = VARIANTS[variant](model)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    for tensor in values(found):
        assert not tensor.requires_grad and tensor.device.type == "cpu"
        assert tensor.dtype in (torch.float32, torch.int64)
        assert tensor.untyped_storage().data_ptr() not in own, "the model's own memory"
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
def test_what_was_given_may_change_afterwards(name):
    model = zoo.shared(name)
    ids, v = torch.tensor(IDS), torch.ones(16)
    scope = ts.DirectionScope(v)
    found = [
        CALLS[call](model, prompt=ids, scope=scope)
        for call in ("attribute", "components", "head_paths")
    ]
    kept = [[value.clone() for value in values(result)] for result in found]
    ids += 1
    v *= 2
    assert all(
        torch.equal(*pair)
        for result, copy in zip(found, kept)
        for pair in zip(values(result), copy)
    )
    assert torch.equal(ts.attribute(model, IDS, scope).scores, kept[0][0])


@each_class
def test_results_keep_neither_graph_nor_model_alive(name):
    model = zoo.build(name)
    attribution()
    with letting_go_of_activations(model):
        kept = [
            VARIANTS[v](model)
            for v in (*DATA, *(f"{s}, every site" for s in SCOPES))
            if v != "stability"
        ]
        kept.append(scope_metric(model, IDS, FISHER))
        for call in (ts.attribute, functools.partial(flow, layer=1)):
            with contextlib.suppress(TargetError):
                call(model, T, ts.SemanticScope(zoo.SPLIT_WORD))
    with pytest.raises(SiteError):
        ts.attribute(model, T, ts.FisherScope(), sites="nowhere")
    ref = weakref.ref(model)
    del model
    gc.collect()
    assert ref() is None
    assert all(v.isfinite().all() for result in kept for v in values(result))


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
    found = ts.attribute(model, T, Probe()).scores
    assert not found.requires_grad
    assert probe.grad is None
    direction = ts.DirectionScope(probe * 2)
    torch.testing.assert_close(found, ts.attribute(model, T, direction).scores)


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
