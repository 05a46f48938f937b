"""The circuit card: every part is what its own call gives, and the whole goes into a file and back."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.circuit_cards import card, edges, falling, nodes, sampled
from support.refusals import refused
from tl_scopes import circuits
from tl_scopes.circuits import CircuitCard, Pairs, circuit_card
from tl_scopes.errors import ResultFileError, ScopeParameterError
from tl_scopes.results.base import Result

NAMES = zoo.known("hooked/llama", "bridge/llama")
SIZES = [0.1, 0.5, 1.0]
SCOPES = {"whole": ts.FisherScope(rank=2)}


def prompts(count, seed):
    drawn = torch.randint(5, 30, (count, 6), generator=torch.Generator().manual_seed(seed))
    return [[0, *row] for row in drawn.tolist()]


def pairs(count=6, seed=0):
    scopes = [ts.LogitDifferenceScope(5 + i, 4) for i in range(count)]
    return Pairs(prompts(count, seed), prompts(count, seed + 1), scopes, {"last": -1})


def same(one: Result, other: Result) -> None:
    """All tensors and values are equal, those of parts too."""
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b) and a.dtype == b.dtype, field.name
        elif isinstance(a, tuple) and a and isinstance(a[0], Result):
            assert len(a) == len(b)
            for own, read in zip(a, b):
                same(own, read)
        else:
            assert a == b and type(a) is type(b), field.name


@pytest.mark.parametrize("name", NAMES)
def test_every_part_is_what_its_own_call_gives(name, capsys):
    model, found, judged = zoo.shared(name), pairs(), pairs(4, 7)
    other = {"another": pairs(5, 3)}
    made = circuit_card(
        model, found, SCOPES, paraphrases=other, judge=judged, k=3, sizes=SIZES, steps=2, random=2,
        seed=4, progress=True,
    )  # fmt: skip
    bar = capsys.readouterr().err
    for stage in ("nodes of pairs by logit_difference", "edges of another by whole",
                  "circuits of edges by whole", "stability of nodes by whole", "16/16"):  # fmt: skip
        assert stage in bar
    assert made.names == ("logit_difference", "whole") and made.judged_apart
    for i, scope in enumerate([None, *SCOPES.values()]):
        own, told = (p if scope is None else dataclasses.replace(p, scope=scope)
                     for p in (found, other["another"]))  # fmt: skip
        by_nodes = [circuits.components(model, p) for p in (own, told)]
        by_edges = [circuits.edges(model, p, 2, progress=False) for p in (own, told)]
        same(made.nodes[i], by_nodes[0])
        same(made.edges[i], by_edges[0])
        if scope is None:
            same(made.paraphrased[0], by_nodes[1])
        for of, results in (("nodes", by_nodes), ("edges", by_edges)):
            # Whatever they were found by, the pairs' own metric judges.
            curve = circuits.faithfulness(
                model, judged, results[0], SIZES, random=2, seed=4, progress=False
            )
            same(made.curve(of, made.names[i]), curve)
            stable = circuits.bootstrap(results, k=3, seed=4, names=["pairs", "another"])
            same(made.stability(of, made.names[i]), stable)
    assert made.settings == {
        "steps": 2, "by": "head", "k": 3, "random": 2, "seed": 4, "sizes": SIZES
    }  # fmt: skip


def test_a_card_by_whole_attentions_on_the_pairs_themselves(tmp_path):
    model, found = zoo.shared(NAMES[0]), pairs(4)
    given = dict(by="mlp", k=2, sizes=[1, 3], random=1, progress=False)
    made = circuit_card(model, found, out=tmp_path / "runs", **given)
    assert made.names == ("logit_difference",) and not made.judged_apart
    assert "0_attn_out" in made.nodes[0].labels and made.edges[0].by == "mlp"
    assert made.metrics()["set"].tolist() == ["found on"]
    folders = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert folders == ["0-edges", "0-nodes"]
    same(made, circuit_card(model, found, out=tmp_path / "runs", **given))
    same(made, CircuitCard.load(made.save(tmp_path / "card.safetensors")))


# --- tables -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return card()


def test_tables_of_known_numbers(made):
    metrics = made.metrics().set_index("set")
    assert metrics.index.tolist() == ["found on", "judged on", "another wording"]
    own = made.nodes[0]
    row = metrics.loc["found on"]
    assert row["clean"] == pytest.approx(float(own.clean.mean()))
    assert row["corrupted_error"] == pytest.approx(float(own.corrupted.std()) / 30**0.5)
    assert row["apart"] == 1 and row["above_zero"] == float((own.clean > 0).double().mean())
    members = made.members("nodes", "fisher")
    assert len(members) == 6
    found = made.nodes[1]
    assert list(zip(members["label"], members["effect"])) == [
        (label, pytest.approx(value)) for label, value in found.top(6)
    ]
    rows = [found.labels.index(label) for label in members["label"]]
    assert members["sign_share"].tolist() == pytest.approx(found.sign_share()[rows, 0].tolist())
    frame = made.to_frame()
    assert frame[["scope", "of"]].values.tolist() == [
        [scope, of] for scope in made.names for of in ("nodes", "edges")
    ]
    assert frame["cpr"].tolist() == [
        made.curve(o, s).cpr for s, o in zip(frame["scope"], frame["of"])
    ]
    assert (frame["cpr_low"] < frame["cpr"]).all() and (frame["cmd"] < frame["cmd_high"]).all()
    assert frame["verdict"].tolist() == ["same", "not stable"] * 2
    assert "CPR" in repr(made) and "30 pairs" in repr(made)


def test_a_squared_metric_is_apart_where_it_is_larger_on_the_corrupted_prompt(made):
    own = dataclasses.replace(
        made.nodes[0], squared=True, clean=torch.zeros(30), corrupted=torch.ones(30)
    )
    changed = dataclasses.replace(made, nodes=(own, made.nodes[1]))
    assert changed.metrics()["apart"].tolist()[0] == 1


# --- files --------------------------------------------------------------------------------------


def test_a_file_gives_it_back(made, tmp_path):
    path = made.save(tmp_path / "card.safetensors")
    loaded = CircuitCard.load(path)
    same(made, loaded)
    assert loaded.to_frame().equals(made.to_frame())
    same(loaded, CircuitCard.load(loaded.save(path)))


def test_other_files_are_refused(made, tmp_path):
    path = tmp_path / "x.safetensors"
    nodes(sampled(falling(25))).save(path)
    refused(lambda: CircuitCard.load(path), ResultFileError, "PairedComponents", "CircuitCard")
    # A part that does not fit the others: three scopes, two of whose edges are there.
    dataclasses.replace(made, edges=made.edges[:1]).save(path)
    with pytest.raises(ResultFileError, match="does not describe a whole CircuitCard"):
        CircuitCard.load(path)
    whole = made.save(path).read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ResultFileError, match="not a whole safetensors file"):
        CircuitCard.load(path)


# --- bad input ----------------------------------------------------------------------------------

REFUSED = {
    "no pairs": (dict(pairs=3), "int", "two or more"),
    "one pair": (dict(pairs=pairs(1)), "1 pair", "two or more"),
    "one judge": (dict(judge=pairs(1)), "judge is 1 pair"),
    "one paraphrase": (dict(paraphrases={"b": pairs(1)}), "'b'", "1 pair"),
    "paraphrases without names": (dict(paraphrases=[pairs()]), "dict of circuits.Pairs by name"),
    "a name that is taken": (dict(paraphrases={"pairs": pairs()}), "'pairs'", "another name"),
    "by": (dict(by="neuron"), "by is 'neuron'", "'head', 'mlp'"),
    "k": (dict(k=0), "k is 0"),
    "too large a k": (dict(k=1000), "k is 1000", "half of the"),
    "steps": (dict(steps=0), "steps is 0"),
    "random": (dict(random=-1), "random is -1"),
    "seed": (dict(seed=-1), "seed is -1"),
    "one size": (dict(sizes=[0.5]), "sizes is", "two or more"),
    "a method": (dict(scopes=["x"]), "'x' is no method"),
    "a scope twice": (dict(scopes=[ts.FisherScope(), ts.FisherScope()]), "two methods are called", "dict"),
    "the pairs' own": (dict(scopes={"logit_difference": ts.FisherScope()}), "as the pairs' own", "label"),
}  # fmt: skip


@pytest.mark.wrong_types
@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_card_is_refused(case):
    given, *words = REFUSED[case]
    usual = dict(pairs=pairs(3), sizes=SIZES, random=0, progress=False) | given
    refused(lambda: circuit_card(zoo.shared(NAMES[0]), **usual), ScopeParameterError, *words)


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", ["members", "curve", "stability"])
def test_what_a_card_does_not_hold_is_refused(made, name):
    call = getattr(made, name)
    refused(lambda: call("nodes", "x"), ScopeParameterError, "'x'", "'semantic', 'fisher'")
    refused(lambda: call("neurons"), ScopeParameterError, "of is 'neurons'", "'nodes', 'edges'")


def test_edges_and_nodes_are_not_compared():
    results = [nodes(sampled(falling(25))), edges(sampled(falling(25)))]
    refused(lambda: circuits.bootstrap(results), ScopeParameterError, "other rows", "one model")
