"""What a call must leave as it was, as values to compare: a model's flags and hooks, and the process around it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import sys
import threading
import warnings
import weakref
from pathlib import Path

import numpy
import pytest
import torch
from torch.autograd import forward_ad

import tl_scopes as ts
from support import zoo
from support.marks import each_class as each_class
from support.marks import each_use as each_use

# The embedding is tapped in another way where a norm follows it (bloom).
MODELS = [
    n for n in ("hooked/llama", "bridge/llama", "hooked/bloom", "bridge/bloom") if n in zoo.names()
]
PLAIN = [n for n in MODELS if n.endswith("llama")]
each_model = pytest.mark.parametrize("name", MODELS)

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
        "grad": [
            None if p.grad is None else (id(p.grad), p.grad._version) for p in parameters(model)
        ],
        "written to": [p._version for p in parameters(model)],
        "torch hooks": [
            (type(m).__name__, h, [(k, id(f)) for k, f in getattr(m, h).items()])
            for m in modules(model)
            for h in HOOKS
        ],
        "TransformerLens hooks": [
            [id(h) for h in (*m.fwd_hooks, *m.bwd_hooks)]
            for m in modules(model)
            if hasattr(m, "fwd_hooks")
        ],
        "training": [m.training for m in modules(model)],
        "attributes": [set(vars(block)) for block in model.blocks],
        "context_level": getattr(model, "context_level", None),
        "cfg": repr(vars(model.cfg)),
    }


def process_state() -> dict[str, object]:
    kernels = torch.backends.cuda
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
        "forward mode": forward_ad._current_level,
        "kernels": (
            kernels.flash_sdp_enabled(), kernels.mem_efficient_sdp_enabled(), kernels.math_sdp_enabled(),
            kernels.cudnn_sdp_enabled(),
        ),
    }  # fmt: skip


def output_state() -> dict[str, object]:
    """What could silence or colour other threads' output and warnings."""
    return {
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "warnings": list(warnings.filters),
        "class of the environment": type(os.environ),
        "handlers": list(logging.root.handlers),
    }


@contextlib.contextmanager
def untouched(model):
    """Everything named above is equal on entry and on exit."""
    before = model_state(model) | process_state()
    yield
    after = model_state(model) | process_state()
    assert {k for k in before if before[k] != after[k]} == set()


@contextlib.contextmanager
def traceless(model):
    """So it is, and the model's outputs bit for bit."""
    tokens = model.to_tokens(zoo.TEXT)
    with torch.no_grad():
        logits = model(tokens)
    with untouched(model):
        yield
    with torch.no_grad():
        assert torch.equal(model(tokens), logits)


def strike_every_line(calls, make, state, passes_by) -> tuple[list[str], dict[str, set[str]], int]:
    """KeyboardInterrupt at the first run of each line of ours, one after the other, until every call gets through.

    `make()` gives a model, `state(model)` what must not change, `passes_by(frame)` says which frames are let be.
    Returns the lines struck, what changed at some of them, and how many calls got through.
    """
    struck: list[str] = []
    bad: dict[str, set[str]] = {}
    done: list[object] = []

    def trace(frame, event, arg):
        code = frame.f_code
        if passes_by(frame):
            return None
        where = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
        if event == "line" and where not in struck:
            struck.append(where)
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    def strike() -> None:
        model = make()
        before = state(model)
        for call in calls:
            for _ in range(1000):
                sys.settrace(trace)
                try:
                    call(model)
                    done.append(call)
                    break
                except KeyboardInterrupt:
                    sys.settrace(None)
                finally:
                    sys.settrace(None)
                after = state(model)
                if changed := {k for k in before if before[k] != after[k]}:
                    bad[struck[-1]] = changed
                    model = make()
                    before = state(model)

    # In a thread of its own: tracing is per thread, and a debugger or coverage may trace this one.
    thread = threading.Thread(target=strike)
    thread.start()
    thread.join()
    return struck, bad, len(done)


def strike_every_line_of(module, call, make, state, least: int) -> None:
    """Nothing of `state` changes though KeyboardInterrupt strikes at each line of a module, of `least` at least."""
    struck, bad, done = strike_every_line(
        [call], make, state, lambda frame: frame.f_code.co_filename != module.__file__
    )
    assert done and len(struck) > least
    assert not bad


@contextlib.contextmanager
def letting_go_of_activations(model):
    """No activation of the model's passes inside is alive at the end, though garbage was not collected."""
    activations = []

    def watch(activation, hook):
        activations.append(weakref.ref(activation))
        return activation

    gc.collect()
    gc.disable()  # a cycle would hold a GPU's memory until a collection that may come too late
    try:
        with model.hooks([("blocks.1.hook_resid_pre", watch), ("blocks.2.hook_resid_pre", watch)]):
            yield
        assert activations and not any(ref() is not None for ref in activations)
    finally:
        gc.enable()


def lived_in(name: str):
    """A model in the middle of somebody's work: odd flags, gradients of its own, hooks of every kind."""
    model = zoo.build(name)
    with (
        torch.no_grad()
    ):  # some models grow ALiBi tables or install hooks of their own in their first forward passes
        model(model.to_tokens(zoo.LONG_TEXT))
    for i, parameter in enumerate(parameters(model)):
        parameter.requires_grad_(i % 3 > 0)
        if i % 2:
            parameter.grad = torch.full_like(parameter, float(i))
    model.blocks[1].train()  # none of these models has dropout
    model.seen = []
    model.add_hook(
        "blocks.0.hook_resid_pre", lambda a, hook: model.seen.append("TransformerLens") or a
    )
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


def built(name: str, used: bool):
    """A model of one's own, `used`: which the package has already seen."""
    model = zoo.build(name)
    if used:
        ts.attribute(model, zoo.TEXT, ts.SemanticScope(5))
    return model
