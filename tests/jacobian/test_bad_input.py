"""What a hurried user gets wrong: each is a named error that says what was got, what is allowed, what to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.refusals import MODELS, PROMPTS, TARGETS, S, T, refused
from tl_scopes.errors import (
    NumericalError,
    PositionError,
    PromptError,
    ScopeParameterError,
    ScopesError,
    SiteError,
    TargetError,
)

pytestmark = [pytest.mark.wrong_types, pytest.mark.parametrize("name", MODELS)]


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(name, case):
    prompt, error, words = PROMPTS[case]
    refused(lambda: ts.attribute(zoo.shared(name), prompt, S), error, *words)
    refused(lambda: ts.attribute_sequence(zoo.shared(name), prompt, S), error, *words)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([0, 5, 6]),
        (0, 5, 6),
        torch.tensor([[0, 5, 6]], dtype=torch.int32),
        [np.int64(0), 5, 6],
    ],
)
def test_ids_in_any_integer_container_work(name, ids):
    model = zoo.shared(name)
    assert torch.equal(ts.attribute(model, ids, S).scores, ts.attribute(model, [0, 5, 6], S).scores)


@pytest.mark.parametrize(
    "position", [True, "1", 1.0, None, 10**9, 6, -7, [1, 2], ts.NEXT_TOKEN], ids=repr
)
def test_positions(name, position):
    message = refused(
        lambda: ts.attribute(zoo.shared(name), T, S, position=position), PositionError
    )
    if isinstance(position, int) and not isinstance(position, bool):
        assert (
            f"{position} is out of range" in message
            and "-6 to 5" in message
            and "6 tokens" in message
        )
    else:
        assert "int" in message


@pytest.mark.parametrize("case", TARGETS)
def test_targets(name, case):
    target, words = TARGETS[case]
    refused(
        lambda: ts.attribute(zoo.shared(name), T, ts.SemanticScope(target)), TargetError, *words
    )


def test_targets_of_a_difference_differ(name):
    refused(
        lambda: ts.attribute(zoo.shared(name), T, ts.LogitDifferenceScope(5, 5)),
        TargetError,
        "zero",
        "different",
    )


def test_without_a_tokenizer(name):
    model = zoo.build(name)
    model.tokenizer = None
    refused(lambda: ts.attribute(model, T, S), PromptError, "no tokenizer", "token ids")
    refused(
        lambda: ts.attribute(model, [5, 6], ts.SemanticScope(" Paris")),
        TargetError,
        "no tokenizer",
        "id",
    )
    found = ts.attribute(model, [5, 6], ts.SemanticScope())
    assert found.str_tokens == ("<5>", "<6>") and found.target is not None


SITES = {
    "nothing": ([], ["no site", "allowed"]),
    "None": (None, ["None", "allowed|string"]),
    "float": (3.0, ["3.0", "float"]),
    "bool": (True, ["True", "bool"]),
    "nested": ([["embed"]], ["list"]),
    "misspelt": ("ebmed", ["'ebmed'", "nearest names are 'embed'", "layer from 0 to 3"]),
    "misspelt hook": ("blocks.1.hook_resid_pr", ["nearest names are 'blocks.1.hook_resid_pre'"]),
    "beyond the layers": ("blocks.9.hook_resid_pre", ["nearest", "hook_resid_pre", "hook_dict"]),
    "layer 4": (4, ["layer 4", "3 blocks", r"resid\(0\) to resid\(3\)"]),
    "layer -5": (-5, ["layer -5", r"resid\(0\) to resid\(3\)"]),
    "resid(9)": ("resid(9)", ["layer 9", r"resid\(0\) to resid\(3\)"]),
    "pattern": ("blocks.0.attn.hook_pattern", ["hook_pattern", r"\[batch, pos", "hook_z"]),
    "head 99": ("blocks.0.attn.hook_z[99]", [r"hook_z\[99\]", "does not exist", r"\[4\]"]),
    "head of the stream": ("blocks.0.hook_resid_pre[0]", ["no head axis", "allowed"]),
    "two heads": ("blocks.0.attn.hook_z[0][1]", ["does not exist", r"\[4\]"]),
    "never fires": ("blocks.0.attn.hook_result", ["does not reach", "set_use_attn_result"]),
}


@pytest.mark.parametrize("case", SITES)
def test_sites(name, case):
    sites, words = SITES[case]
    refused(lambda: ts.attribute(zoo.shared(name), T, S, sites=sites), SiteError, *words)


@pytest.mark.parametrize("container", [set, tuple, iter])
def test_sites_in_any_container_work(name, container):
    assert ts.attribute(zoo.shared(name), T, S, sites=container(["embed"])).sites == ("embed",)


@pytest.mark.parametrize("layer", [np.int64(2), torch.tensor(2)])
def test_layers_of_any_integer_type_work(name, layer):
    assert ts.attribute(zoo.shared(name), T, S, sites=layer).sites == ("resid(2)",)


def test_a_hook_that_fires_three_times(name):
    site = "blocks.0.ln1.hook_normalized"  # once each for queries, keys and values on HookedTransformer
    if name.startswith("hooked"):
        refused(
            lambda: ts.attribute(zoo.shared(name), T, S, sites=site),
            SiteError,
            "more than once",
            "residual stream",
        )
    else:
        assert ts.attribute(zoo.shared(name), T, S, sites=site).scores.any()


@pytest.mark.parametrize(
    "scope", [ts.FisherScope, None, 3, "fisher", {}, [S, S], [], [None]], ids=repr
)
def test_scopes(name, scope):
    for call in (ts.attribute, ts.attribute_sequence):
        refused(
            lambda call=call: call(zoo.shared(name), T, scope), ScopeParameterError, "Scope", "give"
        )
    refused(
        lambda: ts.attribute_batch(zoo.shared(name), [T], scope),
        ScopeParameterError,
        "Scope|scopes",
        "give",
    )


@pytest.mark.parametrize(
    ("ids", "position"), [([5], -1), ([0], -1), ([0, 5, 6], 0), ([0, 5, 6], -3)]
)
def test_shortest_prompts_and_first_position_work(name, ids, position):
    for scope in (S, ts.TemperatureScope(), ts.FisherScope(rank="full")):
        scores = ts.attribute(zoo.shared(name), ids, scope, position=position, sites="all").scores
        assert (scores[:, 0] > 0).all() and not scores[:, 1:].any()


def test_one_layer(name):
    if name.startswith("hooked"):
        model = zoo.raw_hooked("rms", torch.float64, n_layers=1)
    else:
        config = zoo.hf_model("llama").config
        config.num_hidden_layers, config.layer_types = 1, ["full_attention"]
        model = zoo.boot(type(zoo.hf_model("llama"))(config).double().eval())
    assert ts.attribute(model, T, S, sites="all").sites == ("embed", "resid(0)", "resid(1)")
    refused(lambda: ts.attribute(model, T, S, sites=2), SiteError, "1 block", r"resid\(1\)")


def test_errors_are_caught_by_their_common_base_and_by_python_s_own(name):
    with pytest.raises(ValueError):
        ts.attribute(zoo.shared(name), "", S)
    with pytest.raises(IndexError):
        ts.attribute(zoo.shared(name), T, S, position=99)
    assert issubclass(NumericalError, ArithmeticError) and issubclass(TargetError, ScopesError)
