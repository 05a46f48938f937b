"""Influence over pairs, by role: what single calls of the clean prompts give, added up; and it adds up."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.exact import close
from support.refusals import refused
from tl_scopes.circuits import Pairs, flow, head_paths
from tl_scopes.errors import LengthMismatchError, ScopeParameterError, SiteError, TargetError
from tl_scopes.results.paired import PairedPaths

CLASSES = zoo.known("hooked/gemma2", "bridge/gemma3", "hooked/gqa", "bridge/llama")
# Of two lengths, in an order of their own.
CLEAN = [[0, 5, 9, 12, 7, 20], [0, 6, 9, 12, 8], [0, 7, 11, 12, 7, 21]]
CORRUPTED = [[0, 8, 9, 12, 7, 20], [0, 6, 10, 12, 8], [0, 7, 9, 12, 7, 21]]
SCOPES = {
    "difference": [ts.LogitDifferenceScope(i + 5, i + 9) for i in range(3)],
    "fisher": [ts.FisherScope(rank=3)] * 3,
    "answer": [ts.ContinuationScope([7, 8])] * 3,
}
ROLES = {"subject": [[1], [2], [2, 1]], "last": -1}
CALLS = {"heads": head_paths, "flow": functools.partial(flow, layer=2)}


def places(i: int, n: int) -> list[list[int]]:
    """Of the roles of a pair: subject, last, rest, in a result over n positions."""
    subject, last = ROLES["subject"][i], len(CLEAN[i]) - 1
    return [subject, [last], [t for t in range(n) if t not in (*subject, last)]]


@functools.cache
def found(name: str, kind: str, call: str, frozen: str | None = None) -> PairedPaths:
    pairs = Pairs(CLEAN, CORRUPTED, SCOPES[kind], ROLES)
    with zoo.exact_float64():
        return CALLS[call](zoo.shared(name), pairs, frozen=frozen)


def single(name: str, kind: str, call: str, i: int, frozen: str | None = None):
    with zoo.exact_float64():
        return CALLS[call](zoo.shared(name), CLEAN[i], SCOPES[kind][i], frozen=frozen)


@pytest.mark.parametrize(
    ("kind", "frozen"), [("difference", None), ("fisher", "norms"), ("answer", None)]
)
@pytest.mark.parametrize("name", CLASSES)
def test_heads_are_those_of_single_calls(name, kind, frozen):
    result = found(name, kind, "heads", frozen)
    cfg = zoo.shared(name).cfg
    grid = [(i, h) for i in range(cfg.n_layers) for h in range(cfg.n_heads)]
    assert result.labels == tuple(f"L{i}H{h}" for i, h in grid) and result.layer is None
    assert result.roles == ("subject", "last", "rest") and result.effects.any()
    for i in range(3):
        one = single(name, kind, "heads", i, frozen)
        at = places(i, one.signed.shape[-1])
        wanted = torch.stack([one.signed[..., own].double().sum(-1) for own in at], -1)
        close(result.effects[i], wanted.flatten(0, 1), 1e-10)
        outside = torch.stack([one.outside_signed[..., own].double().sum(-1) for own in at], -1)
        # With what passes outside of its heads, each layer has all of the influence.
        layers = result.effects[i].double().unflatten(0, (cfg.n_layers, cfg.n_heads)).sum(1)
        close(layers + outside, result.scores[i].double().expand_as(outside), 1e-10)
        assert result.units == one.units and result.squared == one.squared
        assert result.frozen == one.frozen


@pytest.mark.parametrize(
    ("kind", "frozen"), [("difference", None), ("fisher", "norms"), ("answer", None)]
)
@pytest.mark.parametrize("name", CLASSES)
def test_flow_is_that_of_single_calls(name, kind, frozen):
    result = found(name, kind, "flow", frozen)
    assert result.labels == result.roles == ("subject", "last", "rest")
    assert result.site == "embed" and result.layer == single(name, kind, "flow", 0, frozen).layer
    for i in range(3):
        one = single(name, kind, "flow", i, frozen)
        at = places(i, one.signed.shape[-1])
        wanted = [[one.signed[q][:, t].double().sum() for t in at] for q in at]
        close(result.effects[i], torch.tensor(wanted), 1e-10)
        close(result.effects[i].sum(0), result.scores[i], 1e-10)
        close(result.scores[i], torch.stack([one.scores[t].double().sum() for t in at]), 1e-10)


@pytest.mark.parametrize("call", CALLS)
def test_without_roles_all_is_one(call):
    name = CLASSES[0]
    with zoo.exact_float64():
        result = CALLS[call](zoo.shared(name), Pairs(CLEAN, CORRUPTED, SCOPES["difference"]))
    assert result.roles == ("all",)
    whole = found(name, "difference", call).of_role(None)
    close(result.scores, whole.scores, 1e-10)
    if call == "heads":
        close(result.effects, whole.effects, 1e-10)
    else:
        assert result.labels == ("all",)
        close(result.effects.sum(1), whole.effects.sum(1), 1e-10)


def test_some_heads_are_rows_alone():
    pairs, model = Pairs(CLEAN, CORRUPTED, SCOPES["difference"], ROLES), zoo.shared(CLASSES[0])
    with zoo.exact_float64():
        some = head_paths(model, pairs, heads=[(1, 2), (0, 1)])
    whole = found(CLASSES[0], "difference", "heads")
    assert some.labels == ("L0H1", "L1H2")
    close(some.effects, whole.effects[:, [whole.labels.index(own) for own in some.labels]], 1e-10)


def test_corrupted_prompts_are_not_run():
    pairs = Pairs(CLEAN, [[0, *ids[:0:-1]] for ids in CLEAN], SCOPES["difference"], ROLES)
    for call in CALLS:
        with zoo.exact_float64():
            result = CALLS[call](zoo.shared(CLASSES[0]), pairs)
        assert torch.equal(result.effects, found(CLASSES[0], "difference", call).effects)


@pytest.mark.parametrize("call", CALLS)
def test_a_role_a_table_a_file_and_a_picture(call, tmp_path, capsys):
    result = found(CLASSES[0], "difference", call)
    last = result.of_role("last")
    assert last.roles == ("last",) and torch.equal(last.scores[:, 0], result.scores[:, 1])
    frame = result.to_frame()
    assert len(frame) == len(result.labels) * 3
    row = frame.query(f"label == {result.labels[1]!r} and role == 'last'").iloc[0]
    assert row["mean"] == pytest.approx(float(result.effects[:, 1, 1].double().mean()))
    again = PairedPaths.load(result.save(tmp_path / "paths.safetensors"))
    assert torch.equal(again.effects, result.effects) and again.layer == result.layer
    assert repr(again).startswith("PairedPaths(") and "3 pairs" in repr(again)
    (ax,) = result.plot(top=3).axes
    assert "influence" in ax.get_xlabel() and "per" in ax.get_xlabel()
    result.print()
    assert "over 3 pairs" in capsys.readouterr().out


@pytest.mark.parametrize("call", CALLS)
def test_what_pairs_have_of_their_own_is_not_given_again(call):
    pairs, model = Pairs(CLEAN, CORRUPTED, ts.SemanticScope(5)), zoo.shared(CLASSES[0])
    for name, value in {"scope": ts.SemanticScope(5), "position": 2, "prepend_bos": False}.items():
        asked = functools.partial(CALLS[call], model, pairs, **{name: value})
        refused(asked, ScopeParameterError, f"{name} is given beside pairs", "drop it")


def test_what_is_wrong_is_said():
    model, pairs = zoo.shared(CLASSES[0]), Pairs(CLEAN, CORRUPTED, ts.SemanticScope(5))
    refused(
        lambda: head_paths(model, pairs, split=True), ScopeParameterError, "split is True", "drop"
    )
    refused(
        lambda: head_paths(model, pairs, least_effect=0.1), ScopeParameterError, "0.1", "layers"
    )
    refused(lambda: flow(model, pairs), SiteError, "layer is None", "give")
    refused(lambda: flow(model, pairs, layer=0, site=1), SiteError, "pair ", "ascending")
    same = Pairs(CLEAN, CORRUPTED, [*SCOPES["difference"][:2], ts.LogitDifferenceScope(5, 5)])
    mixed = Pairs(
        CLEAN, CORRUPTED, [ts.SemanticScope(5), ts.FisherScope(rank=1), ts.SemanticScope(5)]
    )
    longer = Pairs(CLEAN, [*CORRUPTED[:2], [0, 1]], ts.SemanticScope(5))
    for call in CALLS.values():
        of = functools.partial(functools.partial, call, model)
        refused(of(same), TargetError, "pair 2", "difference is zero")
        refused(of(mixed), ScopeParameterError, "pair 1", "call once for each")
        refused(of(longer), LengthMismatchError, "pair 2", "2 tokens")


@pytest.mark.parametrize("call", CALLS)
def test_a_bar_counts_pairs(call, capsys):
    pairs = Pairs(CLEAN, CORRUPTED, ts.SemanticScope(5))
    CALLS[call](zoo.shared(CLASSES[0]), pairs, progress=True)
    assert "3/3" in capsys.readouterr().err
    CALLS[call](zoo.shared(CLASSES[0]), pairs)
    assert not capsys.readouterr().err
