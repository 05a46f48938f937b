"""Circuits of nodes in real runs: loops over the model's own hooks, and the prompts themselves at both ends."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.hook_edits import embed_hook
from support.traces import model_state
from tl_scopes.circuits import Pairs
from tl_scopes.circuits.judging.node_runs import (
    NodeRuns,
    check_patches,
    corrupted_means,
    node_metrics,
)
from tl_scopes.errors import NonAdditiveError

A, B = 5, 11
CLEAN = [[0, 5, 6, 7, 8], [0, 9, 8, 7, 6], [0, 12, 13, 14, 15]]
CORRUPTED = [[0, 4, 6, 3, 8], [0, 9, 3, 7, 4], [0, 12, 6, 14, 5]]
# Grouped queries, post-norms, parallel blocks, learned positions, biases, norms of the embedding.
SOME = zoo.known(
    "hooked/gqa", "hooked/gemma2", "hooked/neox", "hooked/gpt2", "bridge/gpt2", "bridge/llama", "bridge/gemma2",
    "bridge/gemma3", "bridge/neox", "hooked/bloom",
)  # fmt: skip
BYS = ("head", "mlp", "neuron", "layer")
PLACES = {"attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}


def hooks_of(node: str) -> list[tuple[str, int | None]]:
    """Where a node is replaced, said by hand."""
    if node[0] == "L":
        letter = "H" if "H" in node else "N"
        layer, index = node[1:].split(letter)
        return [
            (f"blocks.{layer}.{'attn.hook_z' if letter == 'H' else 'mlp.hook_post'}", int(index))
        ]
    layer, what = node.split("_", 1)
    both = ["attn_out", "mlp_out"] if what == "block" else [what]
    return [(f"blocks.{layer}.{PLACES[own]}", None) for own in both]


def seen(model, tokens: list[int], hook: str) -> torch.Tensor:
    found = []
    with torch.no_grad():
        model.run_with_hooks(
            torch.tensor([tokens]), fwd_hooks=[(hook, lambda a, hook: found.append(a.clone()) or a)]
        )
    return found[-1]


def difference(model, tokens: list[int], edits: dict) -> float:
    """logit A - logit B with parts of activations replaced, by the model's own hooks."""

    def edit(a, hook, parts):
        a = a.clone()
        for index, value in parts:
            a[(slice(None), slice(None), *([] if index is None else [index]))] = value
        return a

    fwd = [(hook, functools.partial(edit, parts=parts)) for hook, parts in edits.items()]
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=fwd)[0, -1]
    return float(logits[A] - logits[B])


def by_hand(model, pair: int, dropped: list[str], value) -> float:
    edits: dict[str, list] = {}
    for node in dropped:
        for hook, index in hooks_of(node):
            edits.setdefault(hook, []).append((index, value(hook, index)))
    return difference(model, CLEAN[pair], edits)


SCOPE = ts.LogitDifferenceScope(A, B)


def batches(model, scope=SCOPE):
    return Pairs(CLEAN, CORRUPTED, scope).batches(model)


def masks(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    drawn = torch.rand(3, n, generator=generator) < torch.tensor([[0.2], [0.5], [0.8]])
    drawn[:, 0] = True  # a circuit of nothing is the corrupted prompt, embedding included
    return torch.cat(
        [torch.zeros(1, n, dtype=torch.bool), torch.ones(1, n, dtype=torch.bool), drawn]
    )


@pytest.mark.parametrize(("name", "by"), chosen.each(SOME, BYS, times=2))
@zoo.exact_float64()
def test_circuits_are_runs_with_replaced_parts(name, by):
    model = zoo.shared(name)
    with zoo.exact_float64():
        (batch,) = batches(model)
        with batch.locked():
            nodes = check_patches(batch, by)
            runs = NodeRuns(batch, by)
            kept = masks(len(nodes))
            found = runs.metrics(kept)
    assert nodes == runs.nodes and len(set(nodes)) == len(nodes)
    for i in range(len(CLEAN)):
        assert float(found[i, 0]) == float(runs.corrupted[i])
        assert float(found[i, 1]) == float(runs.clean[i])
        if "gemma2" not in name:  # its logits are capped, ours are not
            assert float(found[i, 0]) == pytest.approx(
                difference(model, CORRUPTED[i], {}), abs=1e-10
            )
            assert float(found[i, 1]) == pytest.approx(difference(model, CLEAN[i], {}), abs=1e-10)
    if "gemma2" in name:
        return
    pair = 1
    for c in range(2, len(kept) - (by == "neuron")):
        dropped = [node for node, own in zip(nodes, kept[c]) if not own]
        where = functools.cache(functools.partial(seen, model, CORRUPTED[pair]))

        def value(hook, index, where=where):
            return where(hook) if index is None else where(hook)[:, :, index]

        assert float(found[pair, c]) == pytest.approx(
            by_hand(model, pair, dropped, value), abs=1e-9
        )


@pytest.mark.parametrize("ablation", ["mean", "zero"])
@pytest.mark.parametrize("name", zoo.known("hooked/gqa", "bridge/llama", "bridge/gemma3"))
@zoo.exact_float64()
def test_other_ablations(name, ablation):
    model = zoo.shared(name)
    with zoo.exact_float64():
        (batch,) = batches(model)
        means = corrupted_means([batch.part([0]), batch.part([1, 2])], "head")
        with batch.locked():
            nodes = NodeRuns(batch, "head").nodes
        kept = masks(len(nodes))[2:]
        found = node_metrics(batch, kept, ablation=ablation, means=means)

    def value(hook, index):
        if ablation == "zero":
            return 0.0
        every = torch.cat([seen(model, ids, hook)[0, 1:] for ids in CORRUPTED])  # BOS left out
        mean = every.mean(0)
        return mean if index is None else mean[index]

    for c, own in enumerate(kept):
        dropped = [node for node, is_kept in zip(nodes, own) if not is_kept]
        assert float(found[0, c]) == pytest.approx(by_hand(model, 0, dropped, value), abs=1e-9)


@pytest.mark.parametrize("name", zoo.known("hooked/gqa", "bridge/llama"))
def test_nodes_after_what_is_read_are_none(name):
    model = zoo.shared(name)
    scope = ts.DirectionScope(torch.ones(16, dtype=torch.float64), site=2)
    (batch,) = batches(model, scope)
    with batch.locked():
        nodes = check_patches(batch, "head")
    assert {int(node.split("H")[0].strip("L").split("_")[0]) for node in nodes} == {0, 1}


@pytest.mark.parametrize(
    "scope", [ts.FisherScope(rank=2), ts.TemperatureScope(), ts.ContinuationScope([7, 8])]
)
def test_any_scope_has_both_ends(scope):
    model = zoo.shared(SOME[0])
    with zoo.exact_float64():
        (batch,) = batches(model, scope)
        n = 15
        found = node_metrics(batch, masks(n))
        with batch.locked():
            runs = NodeRuns(batch, "head")
            ends = [
                batch.scalars(batch.read(rows), range(3)) for rows in (batch.corrupted, batch.clean)
            ]
            torch.testing.assert_close(found[:, 0], ends[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[:, 1], ends[1], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(runs.clean, ends[1], rtol=1e-12, atol=1e-12)
    assert found.isfinite().all()


@pytest.mark.parametrize("name", zoo.known("hooked/gqa", "bridge/llama"))
def test_hooks_of_the_users_act_on_one_row_at_a_time(name):
    model = zoo.build(name)
    rows = []

    def hook(a, hook):
        rows.append(len(a))
        return a + 0.5

    with zoo.exact_float64(), model.hooks(fwd_hooks=[(embed_hook(model), hook)]):
        found = batches(model)
        assert [len(batch) for batch in found] == [1, 1, 1]
        kept = masks(15)
        one = node_metrics(found[0], kept)
    assert set(rows) == {1} and one.isfinite().all()
    plain = node_metrics(batches(model)[0], kept)
    assert (one - plain[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", zoo.known("hooked/gqa", "bridge/llama"))
def test_an_interrupt_leaves_nothing_behind(name):
    model = zoo.build(name)
    (batch,) = batches(model)
    node_metrics(batch, masks(15))  # a bridge wires itself in its first pass
    before = model_state(model)
    (batch,) = batches(model)

    def interrupted(values, pairs):
        raise KeyboardInterrupt

    batch.scalars = interrupted
    with pytest.raises(KeyboardInterrupt):
        node_metrics(batch, masks(15))
    assert model_state(model) == before


@pytest.mark.parametrize("name", zoo.known("bridge/granite"))
@zoo.exact_float64()
def test_writes_that_are_scaled_on_their_way_are_replaced_all_the_same(name):
    """`components` refuses what is written times a factor; a run with replaced parts asks for no sum."""
    model = zoo.shared(name)
    (batch,) = batches(model)
    with batch.locked():
        nodes = check_patches(batch, "head")
        kept = masks(len(nodes))
        found = NodeRuns(batch, "head").metrics(kept)
    # The metric is of raw logits.
    factor = float(found[1, 1]) / difference(model, CLEAN[1], {})
    for c in range(2, len(kept)):
        dropped = [node for node, own in zip(nodes, kept[c]) if not own]
        where = functools.cache(functools.partial(seen, model, CORRUPTED[1]))

        def value(hook, index, where=where):
            return where(hook)[:, :, index] if index is not None else where(hook)

        assert float(found[1, c]) == pytest.approx(
            factor * by_hand(model, 1, dropped, value), abs=1e-9
        )


@pytest.mark.parametrize("name", zoo.known("hooked/llama", "bridge/llama"))
def test_what_is_written_besides_is_refused(name):
    model = zoo.build(name)
    model.add_hook("blocks.1.hook_resid_post", lambda a, hook: 2 * a)
    (first, *_) = batches(model)
    with pytest.raises(NonAdditiveError), first.locked():
        check_patches(first, "head")
