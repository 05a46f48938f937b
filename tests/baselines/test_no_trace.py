"""Baselines leave the model and the process as they were: on success, error and interrupt."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.traces import (
    MLP,
    each_class,
    each_model,
    lived_in,
    model_state,
    process_state,
    strike_every_line,
    traceless,
)
from tl_scopes.baselines import (
    AttentionRollout,
    GradientNorm,
    InputXGradient,
    IntegratedGradients,
    LeaveOneOut,
    Random,
    SemanticPath,
    SmoothGrad,
)
from tl_scopes.errors import NumericalError, ScopesError, SiteError, TargetError

# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types

METHODS = [
    GradientNorm(), InputXGradient(), SmoothGrad(draws=2), LeaveOneOut(), LeaveOneOut(replacement="mean"),
    LeaveOneOut(replacement="hide"), AttentionRollout(), Random(), SemanticPath(steps=2),
    IntegratedGradients(steps=2), IntegratedGradients(steps=2, rule="published", baseline="pad"),
]  # fmt: skip


def everything(model) -> dict[str, object]:
    return model_state(model) | process_state()


@each_model
def test_success_leaves_no_trace(name):
    """Not in the flags, hooks and gradients of a model in use, nor in any random state."""
    model = lived_in(name)
    with traceless(model):
        for method in METHODS:
            method.attribute(model, zoo.TEXT, position=2)
        LeaveOneOut().attribute(model, zoo.TEXT, sites=["embed", 1, "blocks.1.attn.hook_z"])


@each_model
def test_errors_leave_no_trace(name):
    model = lived_in(name)
    before = everything(model)
    for error, method, sites in (
        (TargetError, SmoothGrad(zoo.SPLIT_WORD), "embed"),
        (SiteError, LeaveOneOut(replacement="hide"), ["embed", 1]),
        (SiteError, InputXGradient(), ["embed", "blocks.0.attn.hook_pattern"]),
        (SiteError, AttentionRollout(), ["embed", "blocks.1.attn.hook_z"]),
        (SiteError, IntegratedGradients(steps=2), "blocks.0.attn.hook_result"),
    ):
        with pytest.raises(error):
            method.attribute(model, zoo.TEXT, sites=sites)
    point = model.hook_dict[MLP]
    for error in (RuntimeError("mine"), KeyboardInterrupt()):
        for method in METHODS[1:]:

            def fail(*_, error=error, **__):
                raise error

            point.add_hook(fail)
            with pytest.raises(type(error)):
                method.attribute(model, zoo.TEXT)
            point.remove_hooks("fwd")
    after = everything(model)
    assert {k for k in before if before[k] != after[k]} == set()


@each_class
def test_interrupt_at_any_line_leaves_no_trace(name):
    """Ctrl-C can strike between any two lines of ours; those that tap the model have a test of their own."""
    hooked = name.startswith("hooked")  # a method of each kind, on one class each
    method = LeaveOneOut(replacement="hide") if hooked else SmoothGrad(draws=2)
    files = ("ablation.py",) if hooked else ("gradients.py", "target.py", "prompt_run.py")
    places = {str(path) for path in Path(ts.__file__).parent.rglob("*.py") if path.name in files}

    def passes_by(frame) -> bool:
        return frame.f_code.co_filename not in places

    struck, bad, done = strike_every_line(
        [lambda model: method.attribute(model, [0, 5, 6])],
        lambda: lived_in(name),
        everything,
        passes_by,
    )
    assert done and len(struck) > 30
    assert not bad


@each_class
def test_smoothgrad_draws_without_touching_the_random_state(name):
    """Neither does what was drawn before matter, nor is anything drawn from it."""
    model, method = zoo.shared(name), SmoothGrad(draws=3)
    torch.manual_seed(1)
    expected = torch.rand(5)
    torch.manual_seed(1)
    first = method.attribute(model, zoo.TEXT).scores
    assert torch.equal(torch.rand(5), expected)
    assert torch.equal(method.attribute(model, zoo.TEXT).scores, first)


@each_class
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off_do_not_matter(name, around):
    model = zoo.shared(name)
    for method in (
        InputXGradient(),
        IntegratedGradients(steps=2),
        SmoothGrad(draws=2),
        LeaveOneOut(),
    ):
        expected = method.attribute(model, zoo.TEXT).scores
        with around():
            assert torch.equal(method.attribute(model, zoo.TEXT).scores, expected)


@each_class
def test_a_default_device_does_not_matter(name):
    """ "meta" stands for the "cuda" that people set. Captum's own tensors need one that has values."""
    model = zoo.shared(name)
    plain = [
        m for m in METHODS if not isinstance(m, SmoothGrad) and m != IntegratedGradients(steps=2)
    ]
    for method in plain:
        expected = method.attribute(model, [0, 5, 6, 7]).scores
        try:
            torch.set_default_device("meta")
            found = method.attribute(model, [0, 5, 6, 7]).scores
        finally:
            torch.set_default_device(None)
        assert torch.equal(found, expected), method


@each_class
def test_two_threads_may_ask_at_once(name):
    model, results, failed = zoo.build(name), {}, []
    methods = [
        InputXGradient(),
        LeaveOneOut(),
        IntegratedGradients(steps=3),
        LeaveOneOut(replacement="hide"),
    ]

    def work(i: int) -> None:
        try:
            results[i] = methods[i % 4].attribute(model, zoo.TEXT).scores
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for i, found in results.items():
        torch.testing.assert_close(found, methods[i % 4].attribute(model, zoo.TEXT).scores)


@each_class
def test_nan_is_named_not_returned(name):
    model = zoo.build(name)
    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a * float("nan"))]):
        for method in METHODS:
            with pytest.raises(NumericalError, match=r"NaN or infinity.*resid\(1\)"):
                method.attribute(model, zoo.TEXT)
    assert issubclass(NumericalError, ScopesError)
    for method in METHODS:
        assert torch.isfinite(method.attribute(model, zoo.TEXT).scores).all()
