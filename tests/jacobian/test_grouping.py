"""How prompts and read positions are put into passes: little padding, no token that no read of a pass needs."""

from __future__ import annotations

import contextlib

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.reference import TOKENS
from support.traces import each_class
from tl_scopes.adapter import last_step
from tl_scopes.adapter.view import view_of
from tl_scopes.jacobian import batches, original
from tl_scopes.jacobian.answers import Limits, run
from tl_scopes.jacobian.prompt_run import PromptRun


def groups(lengths: list[int], batch_tokens: int = 4096) -> list[list[int]]:
    view = view_of(zoo.shared(zoo.names()[0]))
    runs = [PromptRun(view, [0] * n, n - 1, False) for n in lengths]
    found = list(batches.grouped(runs, batch_tokens))
    assert sorted(i for group in found for i in group) == list(range(len(lengths)))
    return [[lengths[i] for i in group] for group in found]


@contextlib.contextmanager
def widths_run(model):
    """Tokens of each forward pass, as block 0 is given them."""
    widths: list[int] = []

    kind = type(model.blocks[0])
    forward = kind.forward

    def noted(self, *args, **kwargs):
        if self is model.blocks[0]:
            widths.append((args[0] if args else kwargs["hidden_states"]).shape[1])
        return forward(self, *args, **kwargs)

    # No hook: under those of the user's every prompt is run whole.
    kind.forward = noted
    try:
        yield widths
    finally:
        kind.forward = forward


def test_few_tokens_share_a_pass_whatever_the_padding():
    assert groups([7, 3, 120, 60]) == [[3, 7, 60, 120]]


@pytest.mark.parametrize("lengths", [list(range(20, 61)), [10, 500] * 20, [300, 20, 20, 20]])
def test_padding_stays_below_a_fifth_of_a_pass(lengths):
    for group in groups(lengths):
        padded = len(group) * max(group)
        assert padded <= 4096
        assert padded - sum(group) <= 0.2 * padded or sum(group) <= batches._FEW_TOKENS


def test_equal_lengths_are_cut_by_size_alone():
    assert [len(group) for group in groups([64] * 100, 1024)] == [16] * 6 + [4]


@each_class
def test_reads_of_a_long_sequence_run_the_prefix_that_they_need(name):
    model = zoo.shared(name)
    prompt = (TOKENS * 5)[:32]
    ts.attribute(model, prompt, ts.SemanticScope(3))
    with widths_run(model) as widths:
        found = ts.attribute_sequence(model, prompt, ts.SemanticScope(3), sites=["embed", 2])
    assert widths == [8, 16, 24, 32]
    for p in (0, 7, 8, 20, 31):
        one = ts.attribute(model, prompt, ts.SemanticScope(3), sites=["embed", 2], position=p)
        torch.testing.assert_close(found.at(p).scores, one.scores, rtol=1e-5, atol=1e-9)


@each_class
@pytest.mark.parametrize("hooked", [False, True])
def test_the_last_step_is_checked_on_a_short_prefix_unless_hooks_may_count(
    name, hooked, monkeypatch
):
    monkeypatch.setattr(last_step, "CHECKED_TOKENS", 4)
    monkeypatch.setattr(original, "refuse_another", lambda *_: None)  # runs other tokens
    model = zoo.build(name)
    if hooked:
        model.add_hook("blocks.1.hook_mlp_out", lambda a, hook: a)
    with widths_run(model) as widths:
        ts.attribute(model, TOKENS, ts.SemanticScope(3))
    # The last step; the gradient held against nudges, row by row under hooks; the call.
    assert widths[0] == (len(TOKENS) if hooked else 4)
    assert widths[1:] == [len(TOKENS)] * len(widths[1:])
    with widths_run(model) as widths:
        ts.attribute(model, TOKENS, ts.SemanticScope(3))
    assert widths == [len(TOKENS)]


@each_class
def test_scopes_that_are_read_at_one_place_do_not_mix(name):
    view = view_of(zoo.shared(name))
    scopes = [ts.TemperatureScope(), ts.SemanticScope(3), ts.FisherScope(rank=2)]
    end = len(TOKENS) - 1
    prompt_run = PromptRun(view, TOKENS, end, False, [(end, scope) for scope in scopes])
    (together,) = run([prompt_run], view.sites("embed"), Limits())
    for answer, scope in zip(together, scopes, strict=True):
        alone = ts.attribute(view.model, TOKENS, scope).scores
        found = answer.attribution(view, TOKENS).scores
        torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-9)
