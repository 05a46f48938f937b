"""A model, and the process around it, are after a call what they were before: on success, error and interrupt."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.traces import (
    MLP,
    SCOPES,
    each_class,
    each_model,
    lived_in,
    model_state,
    process_state,
    raising,
    strike_every_line,
    traceless,
)
from tl_scopes.errors import SiteError, TargetError

# beartype draws from Python's own generator to choose which elements of a list to check.
pytestmark = pytest.mark.wrong_types


@each_model
@pytest.mark.parametrize("scope", SCOPES, ids=lambda s: s.name)
def test_success_leaves_no_trace(name, scope):
    model = lived_in(name)
    with traceless(model):
        ts.attribute(model, zoo.TEXT, scope, sites="all")
        ts.attribute_batch(
            model, [zoo.TEXT, zoo.LONG_TEXT], scope, sites=["embed", "blocks.1.attn.hook_z"]
        )
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
            (
                SiteError,
                ts.SemanticScope(),
                ["embed", "blocks.0.attn.hook_result", 2],
            ),  # never reached
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
    # All that touches a model. What undoes cannot itself be protected from Python: it runs once, on the way out.
    files = ("adapter/view.py", "jacobian/probes.py", "jacobian/forward.py")
    places = {str(Path(ts.__file__).parent / file) for file in files}
    undoing = {"remove", "locked", "_thaw"}

    def passes_by(frame) -> bool:
        code = frame.f_code
        return code.co_filename not in places or bool(
            {code.co_name, frame.f_back.f_code.co_name} & undoing
        )

    struck, bad, done = strike_every_line(
        [lambda model: ts.attribute(model, zoo.TEXT, ts.FisherScope(rank=1), sites=["embed", 1])],
        lambda: lived_in(name),
        lambda model: model_state(model) | process_state(),
        passes_by,
    )
    assert done and len(struck) > 50
    assert not bad
