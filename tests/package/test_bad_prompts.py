"""What a hurried user gets wrong with models, prompts, positions and targets: one named error in every call.

Each says what was got, what is allowed and what to do.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo, zoo_unfit
from support.calls import (
    ATTRIBUTING,
    CALLS,
    IDS,
    METHODS,
    ONES,
    TELLING,
    S,
    T,
    ask,
    calls,
    each_call,
)
from support.refusals import PROMPTS, TARGETS, refused
from support.traces import PLAIN, each_class
from tl_scopes import errors
from tl_scopes.baselines import LeaveOneOut
from tl_scopes.errors import (
    EmptyPromptError,
    LengthMismatchError,
    NumericalError,
    PositionError,
    PromptError,
    ScopeParameterError,
    ScopesError,
    TargetError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.wrong_types


# ------------------------------------------------------------------------------------------------------- prompts
@each_class
@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(name, case):
    prompt, error, *words = PROMPTS[case]
    for call in calls(but=TELLING):
        refused(ask(name, call, prompt=prompt), error, *words)
    if prompt is not None:  # what is not given
        refused(ask(name, "components", corrupted=prompt), error, *words)
        refused(ask(name, "verify", intervention="corrupt", corrupted=prompt), error, *words)
        refused(ask(name, "components", reference=[T, prompt]), error, *words)


@each_class
@pytest.mark.parametrize("case", ["no ids", "None", "too long", "two BOS"])
def test_prompts_among_others_are_told_in_a_row(name, case):
    prompt, error, *_ = PROMPTS[case]
    for call in ("measure", "run", "faithfulness_card"):
        found = ask(name, call, prompts=[IDS, prompt])()
        rows = (
            found if isinstance(found, list) else getattr(found, "rows", found).to_dict("records")
        )
        told = {row["error"] for row in rows if row["error"]}
        assert {row["index"] for row in rows} == {0, 1} and len(told) == 1
        assert told.pop().startswith(f"{error.__name__}: "), call


@each_class
@each_call("prepend_bos")
def test_bos(name, call):
    if call != "check":
        refused(ask(name, call, prepend_bos=1), PromptError, "prepend_bos is 1")
        words = "prepend_bos=True", "ids", "drop"
        refused(ask(name, call, prompt=[5, 6], prepend_bos=True), PromptError, *words)


@pytest.mark.parametrize(
    "ids",
    [np.array([0, 5, 6]), (0, 5, 6), torch.tensor([[0, 5, 6]], dtype=torch.int32), [np.int64(0), 5, 6]],
)  # fmt: skip
@each_class
def test_ids_in_any_integer_container_work(name, ids):
    wanted = ts.attribute(zoo.shared(name), [0, 5, 6], S).scores
    assert torch.equal(ts.attribute(zoo.shared(name), ids, S).scores, wanted)


@each_class
def test_without_a_tokenizer(name):
    model = zoo.build(name)
    model.tokenizer = None
    for call in calls(but=TELLING):
        text = functools.partial(CALLS[call], model)
        refused(text, PromptError, "no tokenizer", "token ids")
        if "scope" in CALLS[call].takes and call != "verify":
            asked = functools.partial(text, prompt=[5, 6], scope=ts.SemanticScope(" Paris"))
            refused(asked, TargetError, "no tokenizer", "id")
    found = ts.attribute(model, [5, 6], ts.SemanticScope())
    assert found.str_tokens == ("<5>", "<6>") and found.target is not None


BATCHES = {
    "text": (dict(prompts=T), PromptError, "list", "str", "attribute"),
    "tensor": (dict(prompts=torch.zeros(3, dtype=torch.long)), PromptError, "list", "Tensor"),
    "ids": (dict(prompts=[1, 2, 3]), PromptError, "int", "allowed"),
    "None": (dict(prompts=None), PromptError, "list", "NoneType"),
    "empty": (dict(prompts=[]), EmptyPromptError, "empty", "at least one"),
    "holds an empty one": (dict(prompts=[T, ""]), EmptyPromptError, "empty", "give"),
    "mixed": (dict(prompts=[T, [5, 6]]), PromptError, "mixes", "text", "ids", "one kind"),
    "scopes": (dict(scope=[S]), ScopeParameterError, "1 scopes?", "2 prompts", "one a prompt"),
    "positions": (dict(position=[1, 2, 3]), ScopeParameterError, "3 positions", "2 prompts", "one a prompt"),
}  # fmt: skip


@each_class
@pytest.mark.parametrize("case", BATCHES)
def test_batches(name, case):
    changes, error, *words = BATCHES[case]
    asked = dict(prompts=[T, "The cat"]) | changes
    refused(ask(name, "attribute_batch", **asked), error, *words)


@each_class
def test_second_prompts(name):
    words = "corrupted prompt has 3", "prompt 6", "same length", "BOS"
    refused(ask(name, "components", corrupted="The cat"), LengthMismatchError, *words)
    refused(
        ask(name, "verify", intervention="corrupt", corrupted="The cat"),
        *(LengthMismatchError, "corrupted prompt", "same"),
    )
    # Both must be as long even where the read position leaves the rest out.
    shorter = ask(name, "components", prompt=IDS, corrupted=IDS[:4], position=2)
    refused(shorter, LengthMismatchError, "4", "6")
    nothing = ask(name, "components", reference=[])
    refused(nothing, EmptyPromptError, "reference", "empty", "give")
    for reference in (T, torch.tensor(IDS), {T}, 3, iter([T]), np.array(IDS)):
        refused(ask(name, "components", reference=reference), PromptError, "reference", "list")
    refused(ask(name, "components", reference=IDS), PromptError, "int", "allowed")


# ----------------------------------------------------------------------------------------- positions and targets
POSITIONS = [True, "1", 1.0, None, 10**9, 6, -7, [1, 2], ts.NEXT_TOKEN]


@each_class
@pytest.mark.parametrize("position", POSITIONS, ids=repr)
def test_positions(name, position):
    index = isinstance(position, int) and not isinstance(position, bool)
    words = [f"{position} is out of range", "-6 to 5", "6 tokens"] if index else ["int"]
    for call in calls("position"):
        asked = [position] if call == "attribute_batch" else position
        refused(ask(name, call, position=asked), PositionError, *words)
    if position is not None:
        refused(ask(name, "attribute_sequence", positions=[position]), PositionError, *words)
        for call in calls("scope", but=["attribute_generation", "attribute_sequence"]):
            scope = ts.DirectionScope(ONES, position=position)
            refused(ask(name, call, scope=scope), PositionError, *words)


@each_class
@pytest.mark.parametrize("positions", [3, None, "first"], ids=repr)
def test_positions_of_a_sequence(name, positions):
    refused(ask(name, "attribute_sequence", positions=positions), PositionError)
    empty = ask(name, "attribute_sequence", positions=[])
    refused(empty, EmptyPromptError, r"positions is empty.*give")


@each_class
@pytest.mark.parametrize("case", TARGETS)
def test_targets(name, case):
    target, *words = TARGETS[case]
    for call in calls("scope") if name == PLAIN[-1] else ATTRIBUTING:
        knows_the_next = call in ("attribute_generation", "attribute_sequence")
        if not knows_the_next or target is not ts.NEXT_TOKEN:
            refused(ask(name, call, scope=ts.SemanticScope(target)), TargetError, *words)
        if call not in (
            "verify",
            *ATTRIBUTING[1:],
        ):  # which is of an attribution with another scope
            scope = ts.LogitDifferenceScope(5, target)
            refused(ask(name, call, scope=scope), TargetError, *words)
    targeted = [m for m in METHODS if "target" in {f.name for f in dataclasses.fields(m)}]
    assert len(targeted) == 6
    for method in targeted:
        given = {"measure": "logit"} if isinstance(method, LeaveOneOut) else {}
        asked = dataclasses.replace(method, target=target, **given)
        refused(functools.partial(asked.attribute, zoo.shared(name), T), TargetError, *words)


@each_class
def test_targets_of_a_difference_differ(name):
    same = ts.LogitDifferenceScope(5, 5)
    for call in calls("scope", but=["verify"]):
        refused(ask(name, call, scope=same), TargetError, "zero", "different")


@each_class
def test_targets_after_the_end(name):
    after = ts.SemanticScope(ts.NEXT_TOKEN)
    refused(ask(name, "scope_metric", scope=after), TargetError, "NEXT_TOKEN")
    assert ask(name, "scope_metric", scope=after, position=2)().position == 2


@each_class
@pytest.mark.parametrize(
    ("ids", "position"), [([5], -1), ([0], -1), ([0, 5, 6], 0), ([0, 5, 6], -3)]
)
def test_shortest_prompts_and_first_position_work(name, ids, position):
    for scope in (S, ts.TemperatureScope(), ts.FisherScope(rank="full")):
        scores = ts.attribute(zoo.shared(name), ids, scope, position=position, sites="all").scores
        assert (scores[:, 0] > 0).all() and not scores[:, 1:].any()


def test_errors_are_caught_by_their_common_base_and_by_python_s_own():
    with pytest.raises(ValueError):
        ask(PLAIN[0], "attribute", prompt="")()
    with pytest.raises(IndexError):
        ask(PLAIN[0], "attribute", position=99)()
    assert issubclass(NumericalError, ArithmeticError) and issubclass(TargetError, ScopesError)


# -------------------------------------------------------------------------------------------------------- models
REFUSED = zoo_unfit.refused()


@pytest.mark.parametrize("label", REFUSED)
def test_models_to_turn_away(label):
    error, make = REFUSED[label]
    model = make()
    words = {
        "TrainingModeError": ["dropout", r"model\.eval\(\)"],
        "UnsupportedModelError": ["model"],
    }
    for call in calls(but=["check", "run"]):
        asked = functools.partial(CALLS[call], model, prompt=IDS)
        refused(asked, getattr(errors, error), *words[error])


@pytest.mark.parametrize(
    "other",
    [None, "gpt2", torch.nn.Linear(2, 2), zoo.HookedTransformer or 3, object()],
    ids=lambda other: type(other).__name__,
)
def test_things_that_are_not_models(other):
    for call in calls(but=["check", "run"]):
        kind = rf"got an? {type(other).__module__}\.{type(other).__name__}"
        words = "allowed: a HookedTransformer.*TransformerBridge"
        refused(functools.partial(CALLS[call], other), UnsupportedModelError, kind, words)
