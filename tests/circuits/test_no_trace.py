"""Circuit analysis leaves the model and the process as they were: on success, error, interrupt, from any thread."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.circuit_calls import CALLS, IDS, S, around, attribution, values
from support.traces import (
    MLP,
    each_class,
    each_model,
    lived_in,
    model_state,
    parameters,
    raising,
    strike_every_line,
)
from tl_scopes.circuits import components, flow, flow_path, head_paths, scope_metric, verify
from tl_scopes.errors import NonAdditiveError, ScopesError

# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types
each_call = pytest.mark.parametrize("call", CALLS)
# An embedding norm's model runs GELU without a forward mode on the bridge.
FORWARD_MODE = {"flow_path": ["bridge/bloom"]}


@contextlib.contextmanager
def traceless(model):
    with torch.no_grad():
        logits = model(torch.tensor([IDS]))
    before = model_state(model) | around()
    yield
    after = model_state(model) | around()
    assert {k for k in before if before[k] != after[k]} == set()
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([IDS])), logits)


@each_model
def test_success_leaves_no_trace(name):
    for model in (lived_in(name), zoo.build(name)):
        attribution(name)
        with torch.no_grad():
            model(torch.tensor([IDS]))
        with traceless(model):
            for label, call in CALLS.items():
                if name not in FORWARD_MODE.get(label, []):
                    call(model, name)


@each_model
def test_user_hooks_stay_and_still_work(name):
    model = lived_in(name)
    head_paths(model, IDS, S)
    model.seen.clear()
    with torch.no_grad():
        model(torch.tensor([IDS]))
    assert sorted(model.seen) == ["TransformerLens", "torch"]


@each_model
def test_refusals_leave_no_trace(name):
    """Those that are found out in the middle of a forward or backward pass."""
    model = lived_in(name)
    model.add_hook("blocks.1.hook_resid_pre", lambda a, hook: a + 1)
    beyond = ts.DirectionScope(torch.ones(16), site="blocks.1.attn.hook_result")
    scale = ts.DirectionScope(torch.ones(1), site="ln_final.hook_scale")
    with traceless(model):
        for call in (
            lambda: components(model, IDS, S),
            lambda: flow(model, IDS, ts.SemanticScope(zoo.SPLIT_WORD), 1),
            lambda: flow(model, IDS, ts.DirectionScope(torch.ones(16), 1), 2),
            lambda: flow_path(model, IDS, S, [1, 3], frozen="mlp"),
            lambda: flow_path(model, IDS, scale, [1, 2], frozen="norms"),
            lambda: head_paths(model, IDS, beyond),
            lambda: head_paths(model, IDS, ts.DirectionScope(torch.ones(3), 2)),
            lambda: scope_metric(model, IDS, ts.FunctionScope(lambda z: z)),
            lambda: verify(model, IDS, attribution(name), top=1, random=1),
        ):
            with pytest.raises(ScopesError):
                call()
    with pytest.raises(NonAdditiveError, match="hook of yours"):
        components(model, IDS, S)


FAILURES = [("forward", RuntimeError("mine")), ("forward", KeyboardInterrupt()),
            ("backward hook", KeyboardInterrupt()), ("backward function", RuntimeError("mine"))]  # fmt: skip


@each_class
@pytest.mark.parametrize("call", [c for c in CALLS if c not in ("neurons", "verify tokens")])
def test_exceptions_and_interrupts_leave_no_trace(name, call):
    model = lived_in(name)
    wanted = values(CALLS[call](model, name))
    point = model.hook_dict[MLP if call != "layers" else "blocks.1.hook_resid_pre"]
    for where, error in FAILURES:
        if where != "forward" and call == "metric":
            continue  # it is made without a backward pass
        mine = len(point.fwd_hooks), len(point.bwd_hooks)
        point.add_hook(**raising(where, error))
        before = model_state(model) | around()
        with pytest.raises(type(error)) as caught:
            CALLS[call](model, name)
        after = model_state(model) | around()
        assert {k for k in before if before[k] != after[k]} == set()
        assert str(caught.value) == str(error), "the user's own error must reach the user"
        for hooks, kept in zip((point.fwd_hooks, point.bwd_hooks), mine):
            for handle in hooks[kept:]:
                handle.hook.remove()
            del hooks[kept:]
    for got, expected in zip(values(CALLS[call](model, name)), wanted):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


FILES = tuple(
    f"circuits/{name}" for name in ("freezing", "references", "interventions", "jvp", "trace")
)
# They touch no model.
PURE = {"parse_frozen", "find_norms", "fit_norm", "_fit", "linear", "common", "whole", "chosen", "ask",
        "encode_like", "squared", "read_site", "run", "_check", "_scalar", "of"}  # fmt: skip


def one_block(name: str):
    """A model of one block, in the middle of somebody's work."""
    if name.startswith("hooked"):
        model = zoo.raw_hooked("rms", torch.float64, n_layers=1)
    else:
        source = zoo.hf_model("llama")
        source.config.num_hidden_layers, source.config.layer_types = 1, ["full_attention"]
        model = zoo.boot(type(source)(source.config).double().eval())
    with torch.no_grad():
        model(torch.tensor([IDS]))
    for i, parameter in enumerate(parameters(model)):
        parameter.requires_grad_(i % 3 > 0)
    model.add_hook("blocks.0.hook_resid_pre", lambda a, hook: None)
    return model


@each_class
def test_interrupt_at_any_line_leaves_no_trace(name):
    """Ctrl-C at the first run of every line that touches a model here."""
    places = {str(Path(ts.__file__).parent / f"{file}.py") for file in FILES}
    made = ts.attribute(one_block(name), IDS, S)

    def path(model) -> None:
        flow_path(model, IDS, S, [1], frozen="both")

    def check(model) -> None:
        verify(
            model, IDS, made, "token", "corrupt", corrupted=IDS[::-1], top=2, random=1, steps=[1]
        )

    struck, bad, done = strike_every_line(
        [path, check],
        lambda: one_block(name),
        lambda model: model_state(model) | around(),
        lambda frame: frame.f_code.co_filename not in places or frame.f_code.co_name in PURE,
    )
    assert done == 2 and len(struck) > 150
    assert not bad
