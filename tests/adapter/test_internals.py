"""Private fields of other packages: read in one module, and what each means in the installed releases.

A failure here names the releases that were looked at, and what changed between them.
"""

from __future__ import annotations

import ast
import functools
import inspect
from datetime import timedelta

import pytest
import torch
from torch import nn
from transformer_lens.hook_points import HookPoint

from support import zoo
from support.package_files import MODULES, PACKAGE
from tl_scopes.adapter import internals

LOOKED_AT = {
    "torch": "torch 2.6.0, 2.13.0 and 2.14.1 have it alike",
    "handles": "transformer-lens 2.16.1 to 4.3.0: HookPoint.fwd_hooks and .bwd_hooks list a LensHandle for each "
    "add_hook, whose .hook is torch's RemovableHandle",
    "asked_for": "transformer-lens 3.3.0 gave LensHandle its user_hook; before, the function is the variable `hook` in "
    "the closure of the forward hook, and in 3.0 to 3.2 that of `full_hook` in the closure of the backward hook",
    "hook_points": "transformer-lens 3.0.0 to 4.3.0: TransformerBridge.hook_dict is a property that lists aliases, "
    "from 4.0.0 on of a class below it; SAELens's subclass has one of its own, without",
    "registered": "transformer-lens 3.0.0 to 4.3.0: _hook_registry holds a part's own hook points",
    "may_be_processed": "transformer-lens 3.6.0 gave bridges _weights_processed; before, compatibility_mode alone "
    "tells that they may have been",
    "WRAPPED": "transformer-lens 3.0.0 to 4.3.0: the wrapped module is registered as _original_component",
    "accelerate": "accelerate 1.15: PartialState._reset_state empties the state that all instances share",
}
TORCH, HANDLES, WRAPPED, POINTS = (
    LOOKED_AT[what] for what in ("torch", "handles", "WRAPPED", "hook_points")
)
BRIDGE = pytest.mark.skipif("bridge/gpt2" not in zoo.names(), reason="this version has no bridge")


def own_names() -> set[str]:
    """What the package itself defines: functions, classes, and what is assigned to."""
    found = set()
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
                found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return found


def test_private_fields_are_read_in_one_module():
    fields = {"fwd_hooks", "bwd_hooks", "user_hook", "hooks_dict_ref"}
    own = own_names() | {"_getframe"}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            field = node.attr if isinstance(node, ast.Attribute) else ""
            if getattr(getattr(node, "func", None), "id", "") in ("getattr", "hasattr"):
                field = str(getattr(node.args[1], "value", ""))
            private = field.startswith("_") and not field.startswith("__") and field not in own
            place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            assert name == "adapter.internals" or not (private or field in fields), (
                f"{place} reads {field}: give it a function in internals.py, and a test here"
            )


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_hooks_of_modules(direction):
    module, hook = nn.Linear(1, 1), lambda *_: None
    forward = direction == "forward"
    register = [
        module.register_forward_pre_hook if forward else module.register_full_backward_pre_hook,
        module.register_forward_hook if forward else module.register_full_backward_hook,
    ]
    assert not internals.is_hooked(module)
    for i, each in enumerate(register):
        handle = each(hook)
        assert internals.before_and_after(module, direction)[i] == {handle.id: hook}, TORCH
        assert internals.is_hooked(module), TORCH
        handle.remove()
    other = "backward" if forward else "forward"
    assert not any(internals.before_and_after(module, other)), TORCH
    if forward:
        for i, each in enumerate(register):
            handle = each(hook, with_kwargs=True)
            assert internals.keyword_marks(module)[i] == {handle.id: True}, TORCH


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_hooks_of_every_module(direction):
    own = torch.nn.modules.module
    forward = direction == "forward"
    register = [
        own.register_module_forward_pre_hook
        if forward
        else own.register_module_full_backward_pre_hook,
        own.register_module_forward_hook if forward else own.register_module_full_backward_hook,
    ]
    for i, each in enumerate(register):
        handle = each(lambda *_: None)
        assert handle.id in internals.around_all(direction)[i], TORCH
        handle.remove()
    assert handle.id not in internals.around_all(direction)[1]


def test_parts_of_modules():
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout2d())
    norm, dropout = module
    assert list(internals.children(module).values()) == [norm, dropout], TORCH
    assert internals.parameters(norm) == dict(norm.named_parameters()), TORCH
    assert internals.buffers(norm) == dict(norm.named_buffers()), TORCH
    assert [internals.dropped(m) for m in module] == [0.0, 0.5], TORCH
    assert [internals.looks_at_other_rows(m) for m in module] == [True, False], TORCH
    internals.give(norm, parameters={"weight": None, "bias": None}, buffers={})
    assert not [*norm.parameters(), *norm.buffers()] and norm.weight is None, TORCH
    assert not internals.is_compiled(norm)
    norm.compile()
    assert internals.is_compiled(norm), TORCH


def test_groups_of_processes():
    """Alone; `test_runs_processes` meets others."""
    assert internals.group_store() is None
    internals.set_group_timeout(timedelta(seconds=1))
    c10d = torch.distributed.distributed_c10d
    for name, parameters in (("_get_default_store", []), ("_set_pg_timeout", ["timeout", "group"])):
        assert list(inspect.signature(getattr(c10d, name)).parameters) == parameters, TORCH
    accelerate = pytest.importorskip("accelerate")
    accelerate.PartialState(cpu=True)
    internals.forget_group()
    assert not accelerate.PartialState._shared_state, LOOKED_AT["accelerate"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_hooks_of_points(direction):
    point = HookPoint()
    point.name = "point"
    functions = [lambda a, hook: a, functools.partial(lambda a, hook: a)]
    for f in functions:
        point.add_hook(f, dir=direction[:1] + "wd")
    found = internals.handles(point, direction)
    stored = internals.before_and_after(point, direction)[1]
    assert internals.is_point(point) and not internals.is_point(nn.Linear(1, 1)), HANDLES
    assert [internals.number(handle) for handle in found] == list(stored), HANDLES
    assert [internals.asked_for(handle) for handle in found] == functions, LOOKED_AT["asked_for"]


@BRIDGE
def test_bridges():
    bridge = zoo.build("bridge/gpt2")
    points = internals.hook_points(bridge)
    assert {"blocks.0.hook_resid_post", "blocks.0.attn.hook_z", "hook_embed"} <= points.keys(), (
        POINTS
    )

    own = {"own": HookPoint()}
    bridge.__class__ = type("Other", (type(bridge),), {"hook_dict": own})
    assert internals.hook_points(bridge) == points | own, POINTS
    block = bridge.blocks[0]
    assert internals.children(block)[internals.WRAPPED] is block.original_component, WRAPPED
    found = internals.registered(block)
    assert found and all(map(internals.is_point, found.values())), LOOKED_AT["registered"]
    assert not internals.may_be_processed(bridge), LOOKED_AT["may_be_processed"]


@BRIDGE
@pytest.mark.parametrize("says_so", [True, False])
def test_bridges_say_that_weights_were_processed(says_so):
    bridge = zoo.build("bridge/gpt2", torch.float32)
    bridge.enable_compatibility_mode(disable_warnings=True)
    if not says_so:  # as up to 3.5
        del bridge._weights_processed
    assert internals.may_be_processed(bridge), LOOKED_AT["may_be_processed"]
