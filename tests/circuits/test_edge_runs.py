"""Runs of circuits of edges: against TransformerLens's own split inputs, in any batches, in half precision."""

from __future__ import annotations

import time

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.exact import close
from tl_scopes.circuits import Pairs, edges
from tl_scopes.circuits.judging.candidates import Candidates
from tl_scopes.circuits.judging.judge import _matched
from tl_scopes.circuits.pairs.batch import PairBatch
from tl_scopes.circuits.wiring.runs import EdgeRuns

TARGET = 7
PAIRS = Pairs(
    [[0, 5, 9, 11, 20, 7], [0, 6, 9, 14, 21, 8], [0, 3, 4, 14, 1, 8]],
    [[0, 6, 9, 14, 21, 8], [0, 5, 9, 11, 20, 7], [0, 3, 7, 14, 2, 9]],
    ts.SemanticScope(TARGET),
)
# Shares of edges that random circuits keep: few, about half, nearly all.
DENSITIES = (0.02, 0.1, 0.4, 0.6, 0.98)


def drawn(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.rand(count, generator=generator) < share for share in DENSITIES])


def read_of(model, pair: int, labels: tuple[str, ...], kept: torch.Tensor) -> float:
    """The logit in one run of the clean prompt, each reader's input put together by hand."""
    _, other = model.run_with_cache(torch.tensor([PAIRS.corrupted[pair]]))
    edges_into: dict[str, list[str]] = {}
    for label in (label for label, own in zip(labels, kept) if own):
        writer, reader = label.split(" -> ")
        edges_into.setdefault(reader, []).append(writer)
    last, changed = model.cfg.n_layers - 1, {}

    def seen(input_of_other, reader):
        return input_of_other + sum(changed[writer] for writer in edges_into.get(reader, []))

    def write(activation, hook):
        difference, layer = activation - other[hook.name], hook.name.split(".")[1]
        if hook.name.endswith("hook_resid_pre"):
            changed["embed"] = difference
        elif hook.name.endswith("mlp_out"):
            changed[f"{layer}_mlp_out"] = difference
        else:
            for head, own in enumerate(difference.unbind(2)):
                changed[f"L{layer}H{head}"] = own

    def read(activation, hook):
        name, layer = hook.name.rsplit(".", 1)[1], hook.name.split(".")[1]
        if name == "hook_mlp_in":
            return seen(other[hook.name], f"{layer}_mlp_in")
        if name == "hook_resid_post":
            return seen(other[hook.name], "read")
        each = other[hook.name].unbind(2)
        return torch.stack(
            [seen(x, f"L{layer}H{head}.{name[5]}") for head, x in enumerate(each)], dim=2
        )

    writers = ("blocks.0.hook_resid_pre", "attn.hook_result", "hook_mlp_out")
    readers = ("_q_input", "_k_input", "_v_input", "hook_mlp_in", f"{last}.hook_resid_post")
    at = [(lambda n: n.endswith(writers), write), (lambda n: n.endswith(readers), read)]
    with torch.no_grad(), model.hooks(at):
        return float(model(torch.tensor([PAIRS.clean[pair]]))[0, -1, TARGET])


@pytest.mark.parametrize("name", zoo.known("hooked/gpt2", "hooked/gqa"))
def test_they_are_those_of_hooked_transformers_own_split_inputs(name):
    with zoo.exact_float64():
        (batch,) = PAIRS.batches(zoo.shared(name))
        with batch.locked():
            runs = EdgeRuns(batch)
            kept = drawn(len(runs.edges))
            got = runs.metrics(kept)
        model = zoo.build(name)
        model.set_use_split_qkv_input(True)
        model.set_use_attn_result(True)
        model.set_use_hook_mlp_in(True)
        wanted = [[read_of(model, i, runs.edges, own) for own in kept] for i in range(len(batch))]
    close(got, torch.tensor(wanted, dtype=torch.float64))
    assert float(got.std(1).min()) > 1e-3


@pytest.mark.parametrize("by", ["head", "mlp"])
@pytest.mark.parametrize("name", zoo.known("hooked/gemma2", "bridge/gemma3", "bridge/pythia"))
def test_which_pairs_and_circuits_share_a_pass_does_not_matter(name, by, monkeypatch):
    with zoo.exact_float64():
        (batch,) = PAIRS.batches(zoo.shared(name))
        with batch.locked():
            runs = EdgeRuns(batch, by)
            kept = drawn(len(runs.edges))
            together = runs.metrics(kept)
            monkeypatch.setattr(PairBatch, "rows_at_once", lambda self: 2)
            in_twos = runs.metrics(kept)
            monkeypatch.setattr("tl_scopes.circuits.wiring.runs._BYTES", 1)
            alone = torch.stack([runs.metrics(own[None])[:, 0] for own in kept], dim=1)
    close(in_twos, together)
    close(alone, together)


@pytest.mark.parametrize("name", zoo.known("hooked/gqa", "bridge/gemma3"))
def test_half_precision_is_close(name):
    half = zoo.build(name, torch.bfloat16)
    found = {}
    for model in (zoo.shared(name), half):
        (batch,) = PAIRS.batches(model)
        with batch.locked():
            runs = EdgeRuns(batch)
            kept = drawn(len(runs.edges))
            ends = runs.metrics(torch.ones(2, kept.shape[1]) * torch.tensor([[1], [0]]))
            found[model] = edges(model, PAIRS).effects[..., 0], runs.metrics(kept), ends, runs
    (effects, metrics, *_), (rough, roughly, ends, runs) = found.values()
    assert rough.isfinite().all() and rough.dtype == torch.float32
    assert float((rough - effects).abs().max() / effects.abs().max()) < 0.15
    span = (runs.clean - runs.corrupted).abs().max()
    assert float((roughly - metrics).abs().max() / span) < 0.15
    assert torch.equal(ends[:, 0], runs.clean)
    assert float((ends[:, 1] - runs.corrupted).abs().max() / span) < 0.05


def test_as_many_edges_as_real_models_have_are_matched_in_one_go():
    """A small model has 70,000. Here 11,000: a set of all of them made anew for each takes longer than this."""
    writers = [f"L{i}H{h}" for i in range(24) for h in range(20)]
    known = [f"{writer} -> L23H{h}.q" for writer in writers for h in range(23)]
    start = time.process_time()
    places = _matched(Candidates.told(dict.fromkeys(reversed(known), 1.0)), known)
    assert time.process_time() - start < 5
    assert places.tolist() == [*range(len(known))][::-1]
