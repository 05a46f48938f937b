"""Batches and sequences that a hurried user gets wrong: named errors, as in test_bad_input."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.refusals import MODELS, S, T, refused
from tl_scopes.errors import (
    EmptyPromptError,
    PositionError,
    PromptError,
    ScopeParameterError,
    ScopesError,
)

pytestmark = [pytest.mark.wrong_types, pytest.mark.parametrize("name", MODELS)]

BATCHES = {
    "text": (dict(prompts=T), PromptError, ["list", "str", "attribute"]),
    "tensor": (dict(prompts=torch.zeros(3, dtype=torch.long)), PromptError, ["list", "Tensor"]),
    "ids": (dict(prompts=[1, 2, 3]), PromptError, ["int", "allowed"]),
    "None": (dict(prompts=None), PromptError, ["list", "NoneType"]),
    "empty": (dict(prompts=[]), EmptyPromptError, ["empty", "at least one"]),
    "holds an empty one": (dict(prompts=[T, ""]), EmptyPromptError, ["empty", "give"]),
    "mixed": (dict(prompts=[T, [5, 6]]), PromptError, ["mixes", "text", "ids", "one kind"]),
    "scopes": (dict(scope=[S]), ScopeParameterError, ["1 scopes?", "2 prompts", "one a prompt"]),
    "positions": (
        dict(position=[1, 2, 3]),
        ScopeParameterError,
        ["3 positions", "2 prompts", "one a prompt"],
    ),
    "batch_tokens 0": (dict(batch_tokens=0), ScopeParameterError, ["batch_tokens is 0", "allowed"]),
    "batch_tokens -1": (
        dict(batch_tokens=-1),
        ScopeParameterError,
        ["batch_tokens is -1", "allowed"],
    ),
    "batch_tokens 1.5": (
        dict(batch_tokens=1.5),
        ScopeParameterError,
        ["batch_tokens is 1.5", "allowed"],
    ),
    "batch_tokens text": (
        dict(batch_tokens="a"),
        ScopeParameterError,
        ["batch_tokens is 'a'", "allowed"],
    ),
    "chunk_size 0": (
        dict(chunk_size=0),
        ScopeParameterError,
        ["chunk_size is 0", "allowed", "None"],
    ),
    "chunk_size True": (
        dict(chunk_size=True),
        ScopeParameterError,
        ["chunk_size is True", "allowed"],
    ),
    "BOS for ids": (
        dict(prompts=[[5], [6]], prepend_bos=True),
        PromptError,
        ["prepend_bos=True", "ids", "drop"],
    ),
}


@pytest.mark.parametrize("case", BATCHES)
def test_batches(name, case):
    changes, error, words = BATCHES[case]
    arguments = dict(prompts=[T, "The cat"], scope=S) | changes
    refused(lambda: ts.attribute_batch(zoo.shared(name), **arguments), error, *words)


@pytest.mark.parametrize("positions", [3, None, "first", [1.0], [99], [True], [[1]]], ids=repr)
def test_positions_of_a_sequence(name, positions):
    refused(
        lambda: ts.attribute_sequence(zoo.shared(name), T, S, positions=positions), PositionError
    )


def test_no_positions_of_a_sequence(name):
    with pytest.raises(ScopesError, match=r"positions is empty.*give"):
        ts.attribute_sequence(zoo.shared(name), T, S, positions=[])
