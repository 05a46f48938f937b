"""A model, and the process around it, are after a call what they were before: on success, error and interrupt."""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import sys
import threading
import weakref
from pathlib import Path

import numpy
import pytest
import tl_scopes as ts
import torch
import zoo
from tl_scopes.errors import SiteError, TargetError

# The embedding is tapped in another way where a norm follows it (bloom).
MODELS = [n for n in ("hooked/llama", "bridge/llama", "hooked/bloom", "bridge/bloom") if n in zoo.names()]
PLAIN = [n for n in MODELS if n.endswith("llama")]
# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types
each_model = pytest.mark.parametrize("name", MODELS)
each_class = pytest.mark.parametrize("name", PLAIN)

MLP = "blocks.1.hook_mlp_out"
HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def modules(model) -> list[torch.nn.Module]:
    """Every module once, those that only the wrapped Hugging Face model lists included."""
    found = {id(m): m for m in model.modules()}
    found.update({id(m): m for m in getattr(model, "original_model", torch.nn.Module()).modules()})
    return list(found.values())


def parameters(model) -> list[torch.nn.Parameter]:
    return list({id(p): p for m in modules(model) for p in m.parameters(recurse=False)}.values())


def model_state(model) -> dict[str, object]:
    return {
        "requires_grad": [p.requires_grad for p in parameters(model)],
        "grad": [None if p.grad is None else (id(p.grad), p.grad._version) for p in parameters(model)],
        "written to": [p._version for p in parameters(model)],
        "torch hooks": [
            (type(m).__name__, h, [(k, id(f)) for k, f in getattr(m, h).items()]) for m in modules(model) for h in HOOKS
        ],
        "TransformerLens hooks": [
            [id(h) for h in (*m.fwd_hooks, *m.bwd_hooks)] for m in modules(model) if hasattr(m, "fwd_hooks")
        ],
        "training": [m.training for m in modules(model)],
        "context_level": getattr(model, "context_level", None),
        "cfg": repr(vars(model.cfg)),
    }


def process_state() -> dict[str, object]:
    return {
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": repr(numpy.random.get_state()),
        "python random": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "trace": sys.gettrace(),
    }


@contextlib.contextmanager
def traceless(model):
    """Everything named above, and the model's outputs bit for bit, equal on entry and on exit."""
    tokens = model.to_tokens(zoo.TEXT)
    with torch.no_grad():
        logits = model(tokens)
    before = model_state(model) | process_state()
    yield
    after = model_state(model) | process_state()
    assert {k for k in before if before[k] != after[k]} == set()
    with torch.no_grad():
        assert torch.equal(model(tokens), logits)


def lived_in(name: str):
    """A model in the middle of somebody's work: odd flags, gradients of its own, hooks of every kind."""
    model = zoo.build(name)
    for i, parameter in enumerate(parameters(model)):
        parameter.requires_grad_(i % 3 > 0)
        if i % 2:
            parameter.grad = torch.full_like(parameter, float(i))
    model.blocks[1].train()  # none of these models has dropout
    model.seen = []
    model.add_hook("blocks.0.hook_resid_pre", lambda a, hook: model.seen.append("TransformerLens") or a)
    model.add_hook("blocks.2.hook_resid_pre", lambda g, hook: None, dir="bwd")
    model.blocks[0].register_forward_hook(lambda *_: model.seen.append("torch"))
    model.blocks[2].register_forward_pre_hook(lambda *_: None)
    return model


class _Raise(torch.autograd.Function):
    """Identity that raises on the way back."""

    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        raise ctx.error


def raising(where: str, error: BaseException):
    """Arguments of `add_hook` for a hook of the user's that fails in the forward or the backward pass."""

    def fail(*_args, **_kwargs):
        raise error

    if where == "forward":
        return dict(hook=fail)
    if where == "backward hook":
        return dict(hook=fail, dir="bwd")
    return dict(hook=lambda a, hook: _Raise.apply(a, error))


SCOPES = [
    ts.SemanticScope(" Paris"), ts.TemperatureScope(), ts.FisherScope(rank=2, samples=2), ts.FisherScope(rank="full"),
    ts.FunctionScope(lambda z: z.logsumexp(0)), ts.DirectionScope(torch.ones(16), site=2),
]  # fmt: skip


@each_model
@pytest.mark.parametrize("scope", SCOPES, ids=lambda s: s.name)
def test_success_leaves_no_trace(name, scope):
    model = lived_in(name)
    with traceless(model):
        ts.attribute(model, zoo.TEXT, scope, sites="all")
        ts.attribute_batch(model, [zoo.TEXT, zoo.LONG_TEXT], scope, sites=["embed", "blocks.1.attn.hook_z"])
        ts.attribute_sequence(model, zoo.TEXT, scope, positions=[1, 3])


@each_model
def test_user_hooks_stay_and_still_work(name):
    model = lived_in(name)
    ts.attribute(model, zoo.TEXT, ts.SemanticScope(), sites="all")
    model.seen.clear()
    with torch.no_grad():
        model(model.to_tokens(zoo.TEXT))
    assert sorted(model.seen) == ["TransformerLens", "torch"]


@each_model
@pytest.mark.parametrize("used", [False, True], ids=["first call", "later call"])
def test_bad_arguments_leave_no_trace(name, used):
    model = lived_in(name)
    if used:
        ts.attribute(model, zoo.TEXT, ts.SemanticScope())
    with traceless(model):
        for error, scope, sites in [
            (TargetError, ts.SemanticScope(zoo.SPLIT_WORD), "all"),
            (SiteError, ts.SemanticScope(), ["embed", 1, "blocks.0.hook_misspelt"]),
            (SiteError, ts.SemanticScope(), ["embed", 1, "blocks.0.attn.hook_pattern"]),
            (SiteError, ts.SemanticScope(), ["embed", "blocks.0.attn.hook_result", 2]),  # never reached
        ]:
            with pytest.raises(error):
                ts.attribute(model, zoo.TEXT, scope, sites=sites)


@each_model
@pytest.mark.parametrize("used", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("where", ["forward", "backward hook", "backward function"])
def test_exceptions_and_interrupts_leave_no_trace(name, where, error, used):
    model = lived_in(name)
    if used:
        ts.attribute(model, zoo.TEXT, ts.SemanticScope())
    point = model.hook_dict[MLP]
    point.add_hook(**raising(where, error))
    before = model_state(model) | process_state()
    with pytest.raises(type(error)) as caught:
        ts.attribute(model, zoo.TEXT, ts.FisherScope(rank=3), sites="all")
    after = model_state(model) | process_state()
    assert {k for k in before if before[k] != after[k]} == set()
    assert str(caught.value) == str(error), "the user's own error must reach the user"
    point.remove_hooks("both")
    found = ts.attribute(model, zoo.TEXT, ts.FisherScope(rank=3), sites="all").scores
    torch.testing.assert_close(found, undisturbed(name))


@functools.cache
def undisturbed(name: str) -> torch.Tensor:
    return ts.attribute(zoo.build(name), zoo.TEXT, ts.FisherScope(rank=3), sites="all").scores


@each_class
def test_interrupt_at_any_line_leaves_no_trace(name):
    """Ctrl-C can strike between any two lines of ours: KeyboardInterrupt at the first run of each."""
    model = lived_in(name)
    places = {str(Path(ts.__file__).parent / file) for file in ("adapter.py", "capture.py")}  # all that touches a model
    struck: list[str] = []

    def trace(frame, event, arg):
        code = frame.f_code
        if code.co_filename not in places:
            return None
        where = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
        # What undoes cannot itself be protected from Python: it runs once, in `finally` or an exit callback.
        if event == "line" and where not in struck and code.co_name not in ("remove", "frozen"):
            struck.append(where)
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before, old = model_state(model) | process_state(), sys.gettrace()
    bad: dict[str, set[str]] = {}
    for _ in range(2000):
        sys.settrace(trace)
        try:
            ts.attribute(model, zoo.TEXT, ts.FisherScope(rank=1), sites=["embed", 1])
            break
        except KeyboardInterrupt:
            sys.settrace(old)
            after = model_state(model) | process_state()
            if changed := {k for k in before if before[k] != after[k]}:
                bad[struck[-1]] = changed
                model, before = (fresh := lived_in(name)), model_state(fresh) | process_state()
        finally:
            sys.settrace(old)
    else:
        pytest.fail("the call never came to its end")
    assert len(struck) > 50
    assert not bad


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
