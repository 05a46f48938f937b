"""A model, and the process around it, are after a call what they were before: on success, error and interrupt."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.calls import CALLS, IDS, ONES, VARIANTS, S, T, attribution, values
from support.traces import (
    MLP,
    MODELS,
    PLAIN,
    built,
    each_model,
    lived_in,
    model_state,
    parameters,
    process_state,
    raising,
    strike_every_line,
    traceless,
    untouched,
)
from tl_scopes.baselines import (
    AttentionRollout,
    InputXGradient,
    IntegratedGradients,
    LeaveOneOut,
    SmoothGrad,
)
from tl_scopes.circuits import components, flow, flow_path, head_paths, scope_metric, verify
from tl_scopes.errors import NonAdditiveError, ScopesError, SiteError, TargetError
from tl_scopes.rules import GIM

# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types
# An embedding norm's model runs GELU without a forward mode on the bridge.
FORWARD_MODE = {"bridge/bloom": ("flow_path", "flow_path, frozen")}
# Stability copies the weights in a wider precision, which a model in double has none of.
NARROW = ("stability",)
STATES = {"lived in": lived_in, "plain": zoo.build}


# ------------------------------------------------------------------------------------------------------- success
@pytest.mark.parametrize(
    ("name", "state"),
    dict.fromkeys([*itertools.product(PLAIN, STATES), *chosen.each(MODELS, STATES)]),
)
def test_success_leaves_no_trace(name, state):
    """Not in the flags, hooks and gradients of a model in use, nor in any random state."""
    model = STATES[state](name)
    with torch.no_grad():
        model(model.to_tokens(zoo.LONG_TEXT))  # some models grow tables, or wire their modules
    attribution()
    with traceless(model):
        for variant, call in VARIANTS.items():
            if variant not in (*FORWARD_MODE.get(name, ()), *NARROW):
                call(model)


@each_model
def test_user_hooks_stay_and_still_work(name):
    model = lived_in(name)
    for call in ("attribute", "head_paths", "LeaveOneOut"):
        CALLS[call](model)
    model.seen.clear()
    with torch.no_grad():
        model(model.to_tokens(T))
    assert sorted(model.seen) == ["TransformerLens", "torch"]


# ------------------------------------------------------------------------------------------------------ refusals
PIECES = ts.SemanticScope(zoo.SPLIT_WORD)
PATTERN, NEVER = "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_result"
# Found out before any pass, or in the middle of a forward or backward pass.
REFUSALS: list[tuple[type[ScopesError], Callable[[Any], Any]]] = [
    (TargetError, lambda m: ts.attribute(m, T, PIECES, sites="all")),
    (SiteError, lambda m: ts.attribute(m, T, S, sites=["embed", 1, "blocks.0.hook_misspelt"])),
    (SiteError, lambda m: ts.attribute(m, T, S, sites=["embed", 1, PATTERN])),
    (SiteError, lambda m: ts.attribute(m, T, S, sites=["embed", NEVER, 2])),
    (SiteError, lambda m: ts.attribute(m, T, S, sites=[0, NEVER], checkpoint_blocks=True)),
    (TargetError, lambda m: SmoothGrad(zoo.SPLIT_WORD).attribute(m, T)),
    (SiteError, lambda m: LeaveOneOut(replacement="hide").attribute(m, T, sites=["embed", 1])),
    (SiteError, lambda m: InputXGradient().attribute(m, T, sites=["embed", PATTERN])),
    (SiteError, lambda m: AttentionRollout().attribute(m, T, sites=["embed", "blocks.1.attn.hook_z"])),
    (SiteError, lambda m: IntegratedGradients(steps=2).attribute(m, T, sites=NEVER)),
    (TargetError, lambda m: flow(m, IDS, PIECES, 1)),
    (ScopesError, lambda m: flow(m, IDS, ts.DirectionScope(ONES, 1), 2)),
    (ScopesError, lambda m: flow_path(m, IDS, S, [1, 3], frozen="mlp")),
    (ScopesError, lambda m: flow_path(m, IDS, ts.DirectionScope(torch.ones(1), "ln_final.hook_scale"), [1, 2],
                                      frozen="norms")),
    (ScopesError, lambda m: head_paths(m, IDS, ts.DirectionScope(ONES, "blocks.1.attn.hook_result"))),
    (ScopesError, lambda m: head_paths(m, IDS, ts.DirectionScope(torch.ones(3), 2))),
    (ScopesError, lambda m: scope_metric(m, IDS, ts.FunctionScope(lambda z: z))),
    (ScopesError, lambda m: verify(m, IDS, attribution(), top=1, random=1)),
]  # fmt: skip


@each_model
@pytest.mark.parametrize("used", [False, True], ids=["first call", "later call"])
def test_refusals_leave_no_trace(name, used):
    model = lived_in(name)
    if used:
        ts.attribute(model, T, S)
    with traceless(model):
        for error, call in REFUSALS:
            with pytest.raises(error):
                call(model)
    model.add_hook("blocks.1.hook_resid_pre", lambda a, hook: a + 1)
    with traceless(model), pytest.raises(NonAdditiveError, match="hook of yours"):
        components(model, IDS, S)


# ------------------------------------------------------------------------------------- failures of hooks of users
FAILURES = [(where, error) for where in ("forward", "backward hook", "backward function")
            for error in (RuntimeError("mine"), KeyboardInterrupt())]  # fmt: skip
GRADIENTLESS = ("LeaveOneOut", "Random", "AttentionRollout", "mean", "hide", "metric")
EVERYWHERE = "fisher, every site"
# Of each way through the package: others take the same passes, or tell what fails in a row.
FAILING = [
    *("attribute_generation",),
    *("attribute", "components, frozen", "layers", "flow, in chunks", "flow_path, frozen", "head_paths, split"),
    *("metric", "verify, heads", "InputXGradient", "SmoothGrad", "LeaveOneOut", "mean", "hide", "AttentionRollout"),
    *("Random", "SemanticPath", "IntegratedGradients", "published", "GradientNorm"),
]  # fmt: skip


@functools.cache
def undisturbed(name: str, variant: str) -> list[torch.Tensor]:
    return values(VARIANTS[variant](zoo.build(name)))


@pytest.mark.parametrize(
    ("name", "variant"), [*chosen.each(MODELS, [EVERYWHERE]), *chosen.each(PLAIN, FAILING)]
)
def test_exceptions_and_interrupts_leave_no_trace(name, variant):
    call, model = VARIANTS[variant], lived_in(name)
    point = model.hook_dict["blocks.1.hook_resid_pre" if variant == "layers" else MLP]
    for used in (False, True) if variant == EVERYWHERE else (False,):
        if used:
            call(model)
        for where, error in FAILURES:
            if where != "forward" and variant in GRADIENTLESS:
                continue
            hooks = len(point.fwd_hooks), len(point.bwd_hooks)
            point.add_hook(**raising(where, error))
            with untouched(model), pytest.raises(type(error)) as caught:
                call(model)
            assert str(caught.value) == str(error), "the user's own error must reach the user"
            for listed, kept in zip((point.fwd_hooks, point.bwd_hooks), hooks):
                for handle in listed[kept:]:
                    handle.hook.remove()
                del listed[kept:]
    for got, wanted in zip(values(call(model)), undisturbed(name, variant), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------------- Ctrl-C at any line
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


@dataclass(frozen=True)
class Struck:
    """Calls, the files whose lines are struck, what is spared there, and how many lines there are at least."""

    calls: list[Callable[[Any], Any]]
    files: list[str]
    lines: int
    spared: frozenset[str] = frozenset()
    spared_below: frozenset[str] = frozenset()
    make: Callable[[str], Any] = lived_in
    kind: str = ""


# What undoes cannot itself be protected from Python: it runs once, on the way out.
UNDOING = frozenset(["remove", "locked", "_thaw"])
# They touch no model.
PURE = frozenset(
    "parse_frozen find_norms fit_norm _fit linear common whole chosen ask encode_like squared read_site run _check"
    " _scalar of".split()
)
STRUCK = {
    "attribute": Struck(
        [lambda model: ts.attribute(model, T, ts.FisherScope(rank=1), sites=["embed", 1])],
        ["adapter/view", "jacobian/probes", "jacobian/forward"], 50, UNDOING, UNDOING,
    ),
    "generation": Struck(
        [lambda model: ts.attribute_generation(model, T, S, max_new_tokens=2, stop=" on")],
        ["generation", "jacobian/decoding", "jacobian/sampling"], 60,
        UNDOING, UNDOING, make=functools.partial(built, used=True),
    ),
    "rules": Struck(
        [lambda model: ts.attribute(model, T, S, rules=GIM(), checkpoint_blocks=True)],
        ["jacobian/ruled"], 30, make=one_block,
    ),
    "blocks run again": Struck(
        [lambda model: ts.attribute(model, T, S, checkpoint_blocks=True)], ["jacobian/checkpointing"], 10,
        frozenset(["put_back"]),
    ),
    "gradients": Struck(
        [lambda model: SmoothGrad(draws=2).attribute(model, IDS[:3])],
        ["baselines/gradients", "baselines/target", "jacobian/prompt_run"], 30, kind="bridge",
    ),
    "ablation": Struck(
        [lambda model: LeaveOneOut(replacement="hide").attribute(model, IDS[:3])], ["baselines/ablation"], 30,
        kind="hooked",
    ),
    "circuits": Struck(
        [
            lambda model: flow_path(model, IDS, S, [1], frozen="both"),
            lambda model: verify(
                model, IDS, attribution(), "token", "corrupt", corrupted=IDS[::-1], top=2, random=1, steps=[1]
            ),
        ],
        [
            *(f"circuits/passes/{name}" for name in ("references", "interventions", "jvp", "trace")),
            "jacobian/held_norms", "jacobian/ruled",
        ],
        150,
        spared=PURE, make=one_block,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "calls"), chosen.each(PLAIN, STRUCK))
def test_interrupt_at_any_line_leaves_no_trace(name, calls):
    """Ctrl-C can strike between any two lines of ours: KeyboardInterrupt at the first run of each."""
    given = STRUCK[calls]
    if not name.startswith(given.kind):
        pytest.skip("one class is enough")
    paths = [Path(ts.__file__).parent / f"{file}.py" for file in given.files]
    assert all(path.exists() for path in paths)
    places = set(map(str, paths))
    attribution()

    def passes_by(frame) -> bool:
        code, caller = frame.f_code, frame.f_back.f_code.co_name
        spared = code.co_name in given.spared or caller in given.spared_below
        return code.co_filename not in places or spared

    def state(model):
        return model_state(model) | process_state()

    struck, bad, done = strike_every_line(given.calls, lambda: given.make(name), state, passes_by)
    assert done == len(given.calls) and len(struck) > given.lines
    assert not bad
