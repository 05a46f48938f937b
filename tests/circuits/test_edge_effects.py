"""Edges over pairs: sums, real patches in small steps, integrated gradients, and what is refused."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.exact import close
from tl_scopes.circuits import Pairs, components, edges
from tl_scopes.circuits.passes.trace import ask
from tl_scopes.circuits.wiring.runs import EdgeRuns, edge_metrics
from tl_scopes.errors import (
    LengthMismatchError,
    NonAdditiveError,
    ScopeParameterError,
    UnsupportedModelError,
)

TARGET = 7
CLEAN, CORRUPTED = [0, 5, 9, 11, 20, 7], [0, 6, 9, 14, 21, 8]
S = ts.SemanticScope(TARGET)
# Positions are added to what queries and keys read alone.
REFUSED = {"hooked/shortformer"}
NAMES = [n for n in zoo.names() if n not in REFUSED]
POST_NORM = ("gemma2", "gemma3", "olmo2")
# Each class with each kind of norm, grouped queries, norms behind parts, parallel blocks, no MLP.
KINDS = zoo.known(
    "hooked/gpt2", "hooked/gqa", "hooked/parallel", "hooked/gemma3", "hooked/attn-only-no-norm", "bridge/gpt2",
    "bridge/pythia", "bridge/gptj", "bridge/gemma2", "bridge/gemma3", "bridge/olmo2", "bridge/opt",
    "bridge/mixtral", "bridge/granite",
)  # fmt: skip
each_kind = pytest.mark.parametrize("name", KINDS)
each_by = pytest.mark.parametrize("by", ["head", "mlp"])


def pair(scope=S, **more) -> Pairs:
    return Pairs([CLEAN], [CORRUPTED], scope, **more)


@functools.cache
def found(name: str, by: str = "head", scope: ts.Scope = S, **options):
    with zoo.exact_float64():
        return edges(zoo.shared(name), pair(scope), by=by, **options)


def of_writers(result) -> dict[str, torch.Tensor]:
    """The sum of each writer's edges."""
    sums = torch.zeros(len(result.writers), dtype=torch.float64)
    sums.index_add_(0, result.source, result.effects[0, :, 0])
    return dict(zip(result.writers, sums))


@pytest.mark.parametrize(
    ("name", "by"), [*((n, "head") for n in NAMES), *((n, "mlp") for n in KINDS)]
)
def test_a_writers_edges_add_up_to_its_total_effect(name, by):
    if name == "bridge/granite" and zoo.HookedTransformer is not None:
        pytest.skip("components refuses it: hooks show by-products")
    sums = of_writers(found(name, by))
    with zoo.exact_float64():
        whole = components(zoo.shared(name), CLEAN, S, by, corrupted=CORRUPTED)
    if name.endswith(
        POST_NORM
    ):  # a head is scaled as in each run: exact for all of a block together
        sums = _by_block(sums)
        with zoo.exact_float64():
            whole = components(zoo.shared(name), CLEAN, S, "mlp", corrupted=CORRUPTED)
    totals = dict(zip(whole.labels, whole.summed()))
    assert set(sums) <= set(totals)
    close(torch.stack([*sums.values()]), torch.stack([totals[k] for k in sums]))


def _by_block(sums: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for label, value in sums.items():
        of_head = label.startswith("L")
        key = f"{label[1:].split('H')[0]}_attn_out" if of_head else label
        out[key] = out.get(key, 0) + value
    return out


@each_by
@each_kind
def test_effects_are_the_slopes_of_real_patches(name, by):
    result, step = found(name, by), 1e-4
    with zoo.exact_float64():
        (batch,) = pair().batches(zoo.shared(name))
        with batch.locked():
            runs = EdgeRuns(batch, by)
            assert runs.edges == result.labels
            moves = torch.eye(len(runs.edges), dtype=torch.float64) * step
            up, down = (runs.metrics(1 + sign * moves)[0] for sign in (1, -1))
    close((up - down) / (2 * step), result.effects[0, :, 0], 1e-6)
    assert (result.effects != 0).double().mean() > 0.9


@each_by
@each_kind
def test_all_edges_are_the_clean_prompt_and_none_the_corrupted_one(name, by):
    pairs = Pairs([CLEAN, CORRUPTED, CLEAN[:3]], [CORRUPTED, CLEAN, CORRUPTED[:3]], S)
    with zoo.exact_float64():
        model = zoo.shared(name)
        batches = pairs.batches(model)
        assert sorted(len(batch) for batch in batches) == [1, 2]
        for batch in batches:
            n = len(found(name, by).labels)
            kept = torch.stack([torch.ones(n), torch.zeros(n), torch.arange(n) > 0]).bool()
            all_kept, none, some = edge_metrics(batch, kept, by).T
            for got, rows in ((all_kept, batch.clean), (none, batch.corrupted)):
                alone = [ask(model, row.tolist(), S) for row in rows]
                with alone[0].locked(gradients=False):
                    close(got, torch.stack([run.read.raw[TARGET] for run in alone]), 1e-10)
            assert (some - all_kept).abs().min() > 1e-6 and (some - none).abs().min() > 1e-6


@each_by
@each_kind
def test_sums_into_a_reader_are_its_gradient_times_what_its_stream_differs_by(name, by):
    """Shown without a gradient: every edge of one reader moved at once."""
    result, step = found(name, by), 1e-4
    with zoo.exact_float64():
        (batch,) = pair().batches(zoo.shared(name))
        with batch.locked():
            runs = EdgeRuns(batch, by)
            own = torch.nn.functional.one_hot(result.reader).T.double() * step
            up, down = (runs.metrics(1 + sign * own)[0] for sign in (1, -1))
    close((up - down) / (2 * step), result.into()[0, :, 0], 1e-6)


@pytest.mark.parametrize("name", zoo.known("hooked/gqa", "bridge/gemma3", "bridge/pythia"))
@pytest.mark.parametrize(
    "scope", [S, ts.TemperatureScope(), ts.DirectionScope(torch.ones(16), site=2)], ids=lambda s: s.name
)  # fmt: skip
def test_integrated_over_many_steps_the_embeddings_edges_are_the_whole_change(name, scope):
    errors = []
    for steps in (20, 40):
        result = found(name, "mlp", scope, steps=steps)
        whole = result.clean - result.corrupted
        errors.append(float(of_writers(result)["embed"] - whole[0]))
    # The rule's error is of the order of a step: it halves with it.
    assert abs(errors[0]) > 1e-6
    assert abs(2 * errors[1] - errors[0]) < 0.2 * abs(errors[0])


@pytest.mark.parametrize("name", zoo.known("hooked/gemma2", "hooked/gqa", "bridge/llama"))
def test_frozen_patterns_leave_values_and_mlps(name):
    result = found(name, frozen="patterns")
    names = [result.readers[i].rsplit(".")[-1] for i in result.reader.tolist()]
    zero = torch.tensor([n in ("q", "k") for n in names])
    assert (
        not result.effects[:, zero].any() and (result.effects[:, ~zero] != 0).double().mean() > 0.9
    )
    assert result.frozen == ("patterns",)
    with zoo.exact_float64():
        whole = components(zoo.shared(name), CLEAN, S, "mlp", corrupted=CORRUPTED, frozen="both")
    totals = dict(zip(whole.labels, whole.summed()))
    sums = _by_block(of_writers(found(name, frozen="both")))
    close(torch.stack([*sums.values()]), torch.stack([totals[k] for k in sums]))


def test_a_bias_is_an_edge_where_a_norm_behind_it_makes_it_differ():
    model = zoo.build(zoo.known("hooked/gemma2", "bridge/olmo2")[0])
    if hasattr(model.blocks[1].attn, "original_component"):
        pytest.skip("no such bias on this class")
    with torch.no_grad():
        model.blocks[1].attn.b_O.normal_(generator=torch.Generator().manual_seed(0))
    with zoo.exact_float64():
        result = edges(model, pair())
        whole = components(model, CLEAN, S, "mlp", corrupted=CORRUPTED)
        (batch,) = pair().batches(model)
        kept = torch.tensor([[1], [0]]).expand(2, len(result.labels))
        found_all = edge_metrics(batch, kept.bool())[0]
    assert [w for w in result.writers if "b_O" in w] == ["1_b_O"]
    assert result.owners["L1H0.k"] == ("L1H0", "L1H1", "1_b_O")
    sums = of_writers(result)
    own = sum(
        value for label, value in sums.items() if label in ("1_b_O", *(f"L1H{h}" for h in range(4)))
    )
    close(own[None], whole.summed()[whole.labels.index("1_attn_out")][None])
    close(found_all, torch.stack([result.clean[0], result.corrupted[0]]))


def test_roles_partition_positions_and_pairs_keep_their_order():
    name = KINDS[0]
    positions = {"end": -1, "start": [[1, 2]] * 3}
    prompts = [CLEAN, CLEAN[:4], CORRUPTED], [CORRUPTED, CORRUPTED[:4], CLEAN]
    with zoo.exact_float64():
        by_role = edges(zoo.shared(name), Pairs(*prompts, S, positions=positions))
        singles = [edges(zoo.shared(name), Pairs([a], [b], S)) for a, b in zip(*prompts)]
    assert by_role.roles == ("end", "start", "rest")
    whole = torch.cat([one.effects for one in singles])
    close(by_role.effects.sum(-1, keepdim=True), whole)
    close(by_role.clean, torch.cat([one.clean for one in singles]))
    at_end = [i for i, label in enumerate(by_role.labels) if label.endswith("-> read")]
    assert not by_role.effects[:, at_end, 1:].any()  # the read sees the last position alone


def test_fisher_squares_what_its_vectors_add_up_to():
    name, scope = KINDS[0], ts.FisherScope(rank=3)
    with zoo.exact_float64():
        result = edges(zoo.shared(name), pair(scope), by="mlp")
        whole = components(zoo.shared(name), CLEAN, scope, "mlp", corrupted=CORRUPTED)
    (read,) = [i for i, label in enumerate(result.labels) if label == "2_mlp_out -> read"]
    assert result.squared and (result.effects >= 0).all()
    # The last write is read by the read alone: its total effect is its only edge.
    close(result.effects[0, read], whole.summed()[whole.labels.index("2_mlp_out")][None])


@pytest.mark.parametrize("name", zoo.known("hooked/shortformer"))
def test_models_whose_heads_read_something_else_are_refused(name):
    with pytest.raises(UnsupportedModelError, match="block 0 queries, keys and values are not W"):
        edges(zoo.shared(name), pair())


@pytest.mark.parametrize("name", zoo.known("hooked/llama", "bridge/llama"))
def test_hooks_that_edit_are_part_of_the_model_or_refused(name):
    model = zoo.shared(name)
    for hook, error, told in (
        ("blocks.1.hook_resid_post", NonAdditiveError, "misses the residual stream"),
        ("blocks.1.attn.hook_q", UnsupportedModelError, "block 1 queries, keys and values"),
    ):
        doubled = model.hooks([(hook, lambda a, hook: a * 2)])
        with doubled, pytest.raises(error, match=told):
            edges(model, pair())
    with (
        zoo.exact_float64(),
        model.hooks([("blocks.1.attn.hook_pattern", lambda a, hook: a * 0.5)]),
    ):
        result = edges(model, pair())
        whole = components(model, CLEAN, S, corrupted=CORRUPTED)
    totals = dict(zip(whole.labels, whole.summed()))
    sums = of_writers(result)
    close(torch.stack([*sums.values()]), torch.stack([totals[k] for k in sums]))
    assert result.provenance.hooks


@pytest.mark.wrong_types
def test_what_cannot_be_asked_is_refused_by_name():
    model = zoo.shared(KINDS[0])
    with pytest.raises(ScopeParameterError, match="by is 'neuron'"):
        edges(model, pair(), by="neuron")
    for steps in (0, 1.5, True):
        with pytest.raises(ScopeParameterError, match="steps is"):
            edges(model, pair(), steps=steps)
    inside = [ts.DirectionScope(torch.ones(16), site=site) for site in (1, 2)]
    with pytest.raises(ScopeParameterError, match="different streams"):
        edges(model, Pairs([CLEAN] * 2, [CORRUPTED] * 2, inside))
    with pytest.raises(LengthMismatchError, match="pair 0"):
        edges(model, Pairs([CLEAN], [CLEAN[:3]], S))
    (batch,) = pair().batches(model)
    with pytest.raises(ScopeParameterError, match="kept has shape"):
        edge_metrics(batch, torch.ones(1, 3).bool())


def test_results_are_saved_and_tabled(tmp_path):
    result = found(KINDS[0])
    again = type(result).load(result.save(tmp_path / "edges.safetensors"))
    assert again.labels == result.labels and torch.equal(again.effects, result.effects)
    table = result.to_frame()
    assert len(table) == len(result.labels)
    assert table["label"].tolist() == [*result.labels]
    assert (table["writer"] + " -> " + table["reader"]).tolist() == [*result.labels]
    assert result.top(1)[0][0] == table.loc[table["mean"].abs().idxmax(), "label"]
