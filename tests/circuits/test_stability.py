"""Would other pairs put the same first? Lists of known effects, of noise, and of paraphrases."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from support.circuit_cards import falling, nodes, sampled
from support.refusals import refused
from tl_scopes.circuits.stability import bootstrap
from tl_scopes.errors import NumericalError, ScopeParameterError
from tl_scopes.results.stability import CircuitStability
from tl_scopes.results.statistics import rank_correlation


def halves(result: CircuitStability, a: int = 0, b: int = 0) -> int:
    return result.row(a, b, "halves")


def test_equal_pairs_always_give_the_same_list():
    effects = falling(25)
    found = bootstrap(nodes(sampled(effects)), k=5, resamples=100)
    for values in (found.jaccard, found.jaccard_low, found.jaccard_high, found.stays):
        assert (values == 1).all()
    assert found.shared.tolist() == [[1, 2, 3, 4, 5]] * 3
    assert [each.value for each in found.ranks] == pytest.approx([1.0] * 3, abs=1e-12)
    largest = effects.abs().argsort(descending=True)[:5]
    assert found.top[0].tolist() == largest.tolist()
    for values in (found.effects, found.low, found.high):
        assert values[0].tolist() == pytest.approx(effects[largest].tolist(), abs=1e-12)
    verdict = found.verdict()
    assert verdict.kind == "same" and "5.0 of the top 5" in verdict.text
    assert verdict.core == tuple(found.members()["label"])


def test_halves_of_noise_are_as_alike_as_chance_has_it():
    # Over samples: what halves of one share depends on it. Resamples look alike all the same.
    random = torch.Generator().manual_seed(0)
    each = []
    for seed in range(60):
        noise = torch.randn(20, 40, 1, generator=random).double()
        each.append(bootstrap(nodes(noise), k=4, resamples=80, seed=seed))
    row = halves(each[0])
    jaccard = np.array([found.jaccard[row].numpy() for found in each])
    error = jaccard.std(0) / math.sqrt(len(each))
    chance = each[0].chance.numpy()
    assert (np.abs(jaccard.mean(0) - chance) < 3.5 * error).all() and (error < 0.02).all()
    ranks = np.array([found.ranks[row].value for found in each])
    assert abs(ranks.mean()) < 3.5 * ranks.std() / math.sqrt(len(each))
    alike = np.mean([float(found.jaccard[found.row(0, 0, "resamples"), -1]) for found in each])
    assert alike > 2 * chance[-1]
    kinds = [found.verdict().kind for found in each]
    assert kinds.count("not stable") >= 58
    assert "20 pairs are too few" in each[kinds.index("not stable")].verdict().text


@pytest.mark.parametrize("j", [1, 2, 3])
def test_chance_is_counted(j):
    found = bootstrap(nodes(sampled(falling(7))), k=3, resamples=2)
    lists = [{*own} for own in itertools.combinations(range(7), j)]
    each = [len(a & b) / len(a | b) for a in lists for b in lists]
    assert float(found.chance[j - 1]) == pytest.approx(sum(each) / len(each), abs=1e-12)


def test_two_pairs_have_one_split_and_it_is_reckoned_by_hand():
    effects = torch.tensor(
        [[9.0, -8.0, 7.0, 6.0, 0.5, 0.25, 0.125], [9.0, 1.0, -7.0, 2.0, 8.0, 0.25, 0.5]]
    )
    found = bootstrap(nodes(effects[..., None].double()), k=3, resamples=50)
    c = halves(found)
    # {0} and {0}; {0, 1} and {0, 4}; {0, 1, 2} and {0, 4, 2}.
    assert found.shared[c].tolist() == [1, 1, 2]
    assert found.jaccard[c].tolist() == pytest.approx([1, 1 / 3, 1 / 2])
    assert found.jaccard_low[c].tolist() == found.jaccard_high[c].tolist()
    expected = rank_correlation(effects[0].abs(), effects[1].abs())
    assert found.ranks[c].value == pytest.approx(expected, abs=1e-12)
    # Means: 9, -3.5, 0, 4, 4.25, ...; of resamples a quarter is either pair twice.
    assert [found.labels[i] for i in found.top[0]] == ["embed", "L0H3", "L0H2"]
    assert found.effects[0].tolist() == [9, 4.25, 4]


def test_resamples_say_what_scipy_says():
    effects = sampled(falling(12), pairs=15, noise=1.0)
    found = bootstrap(nodes(effects), k=4, resamples=4000, seed=3)
    assert found.low.shape == (1, 4)
    for i, row in enumerate(found.top[0].tolist()):
        own = effects[:, row, 0].numpy()
        known = stats.bootstrap((own,), np.mean, method="percentile", n_resamples=4000, rng=1)
        spread = own.std() / math.sqrt(len(own))
        ends = known.confidence_interval
        assert abs(float(found.low[0, i]) - ends.low) < 0.15 * spread
        assert abs(float(found.high[0, i]) - ends.high) < 0.15 * spread


def test_a_list_that_holds_in_part_has_a_core():
    # Three rows stand out; the others are noise.
    base = torch.zeros(60)
    base[[5, 20, 41]] = torch.tensor([30.0, -20.0, 10.0])
    found = bootstrap(nodes(sampled(base, 20, 1.0)), k=8, resamples=400)
    verdict = found.verdict()
    assert verdict.kind == "core" and "the rest is not stable" in verdict.text
    assert [found.labels.index(label) for label in verdict.core] == [5, 20, 41]
    assert found.members()["stays"].tolist()[:3] == [1, 1, 1]
    assert found.members()["stays"].max() <= 1
    assert (found.members()["stays"][3:] < 0.9).all()


def test_effects_of_all_roles_count_together():
    effects = sampled(falling(25), noise=0.3)
    apart = torch.cat([effects * 3, effects * -2], dim=-1)
    one, other = (bootstrap(nodes(x), k=5, resamples=60) for x in (effects, apart))
    assert torch.allclose(one.effects, other.effects)
    assert torch.equal(one.jaccard, other.jaccard) and one.labels == other.labels


def test_rows_without_any_effect_take_no_part():
    effects = sampled(falling(25), noise=0.3)
    dead = torch.zeros(30, 100, 1).double()
    one = bootstrap(nodes(effects), k=5, resamples=60)
    other = bootstrap(nodes(torch.cat([effects, dead], dim=1)), k=5, resamples=60)
    assert one.labels == other.labels and torch.equal(one.jaccard, other.jaccard)
    assert torch.equal(one.chance, other.chance) and one.ranks == other.ranks


def test_the_number_of_draws_at_a_time_changes_nothing(monkeypatch):
    result = nodes(sampled(falling(25), noise=2.0))
    whole = bootstrap(result, k=5, resamples=801)
    monkeypatch.setattr("tl_scopes.circuits.stability._AT_ONCE", 25 * 7)
    apart = bootstrap(result, k=5, resamples=801)
    for name in ("jaccard", "jaccard_low", "shared", "top", "low", "stays"):
        assert torch.allclose(getattr(whole, name), getattr(apart, name), atol=1e-12), name
    for one, other in zip(whole.ranks, apart.ranks):
        assert one.value == pytest.approx(other.value, abs=1e-12)


def test_a_seed_decides_the_draws():
    result = nodes(sampled(falling(25), noise=2.0))
    one, same, other = (bootstrap(result, k=5, resamples=50, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.jaccard, same.jaccard) and one.ranks == same.ranks
    assert not torch.equal(one.jaccard, other.jaccard)


# --- several results ----------------------------------------------------------------------------


def test_paraphrases_are_the_same_or_differ():
    effects = falling(60)
    other = effects.clone()
    other[effects.abs().argsort(descending=True)[:4]] = 0.01
    results = [
        nodes(sampled(effects, 30, 0.02, 1)), nodes(sampled(effects, 40, 0.02, 2)),
        nodes(sampled(other, 20, 0.02, 3)),
    ]  # fmt: skip
    found = bootstrap(results, k=8, resamples=200, names=["a", "b", "c"])
    assert found.pairs == (30, 40, 20) and found.names == ("a", "b", "c")
    assert {(a, b, how) for a, b, how in zip(found.first, found.second, found.how) if a == b} == {
        (i, i, how) for i in range(3) for how in ("sample", "resamples", "halves")
    }
    assert found.verdict("a", "b").kind == "same" == found.verdict("c").kind
    differs = found.verdict("a", "c")
    assert differs.kind == "differs" and differs == found.verdict("c", "a")
    assert "halves of both share 4.0 of the top 8" in differs.text
    c = found.row(0, 2, "whole")
    assert float(found.shared[c, -1]) == 4 and float(found.jaccard[c, -1]) == pytest.approx(1 / 3)
    means = [r.effects.sum(-1).mean(0).abs() for r in results]
    assert found.ranks[c].value == pytest.approx(rank_correlation(means[0], means[2]), abs=1e-12)
    kinds = found.verdicts()
    assert len(kinds) == 6 and kinds["second"].tolist() == ["", "", "", "b", "c", "c"]


def test_paraphrases_of_noise_cannot_be_told_apart():
    results = [nodes(sampled(torch.zeros(60), 10, 1.0, seed)) for seed in (1, 2)]
    found = bootstrap(results, k=5, resamples=200)
    assert found.verdict("1", "2").kind == "not stable"
    assert "too few pairs" in found.verdict("1", "2").text


def test_a_result_beside_itself_is_as_alike_as_halves_are():
    result = nodes(sampled(falling(25), noise=2.0))
    found = bootstrap([result, result], k=5, resamples=2000)
    within, between = (float(found.jaccard[halves(found, 0, b), -1]) for b in (0, 1))
    # Halves of both may share pairs: they are drawn each for itself.
    assert between > within
    assert float(found.jaccard[found.row(0, 1, "whole"), -1]) == 1


# --- tables and files ---------------------------------------------------------------------------


def test_tables_hold_every_comparison():
    results = [nodes(sampled(falling(25), 20, 1.0, seed)) for seed in (1, 2)]
    found = bootstrap(results, k=5, resamples=100, names=["a", "b"])
    table = found.to_frame()
    assert len(table) == 8 * 5 and set(table["size"]) == {1, 2, 3, 4, 5}
    own = found.comparisons()
    assert len(own) == 8 and own["jaccard"].tolist() == found.jaccard[:, -1].tolist()
    assert own["ranks"].tolist() == [each.value for each in found.ranks]
    assert own.query("how == 'whole'")[["first", "second"]].values.tolist() == [["a", "b"]]
    members = found.members("b")
    assert members["label"].tolist() == [found.labels[i] for i in found.top[1].tolist()]
    assert "CircuitStability(top 5 of 25 nodes" in repr(found)
    refused(lambda: found.members("c"), ScopeParameterError, "'c'", "'a', 'b'")


def test_a_file_gives_it_back(tmp_path):
    results = [nodes(sampled(falling(25), 20, 1.0, seed)) for seed in (1, 2)]
    found = bootstrap(results, k=5, resamples=100)
    loaded = CircuitStability.load(found.save(tmp_path / "stability.safetensors"))
    for field in dataclasses.fields(found):
        a, b = getattr(found, field.name), getattr(loaded, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
    assert loaded.verdicts().equals(found.verdicts())


# --- bad input ----------------------------------------------------------------------------------

RESULT = nodes(sampled(falling(25)))
REFUSED = {
    "no result": (dict(scores=3), "int", "components or edges"),
    "none": (dict(scores=[]), "list", "components or edges"),
    "a thing among them": (dict(scores=[RESULT, "x"]), "str"),
    "one pair": (dict(scores=nodes(sampled(falling(25), 1))), "1 pair", "two or more"),
    "another model": (dict(scores=[RESULT, nodes(sampled(falling(19)))]), "other rows", "in one alone", "one model"),
    "k too large": (dict(k=13), "k is 13", "1 to 12", "half of the 25 rows"),
    "no k": (dict(k=0), "k is 0"),
    "resamples": (dict(resamples=1), "resamples is 1", "from 2"),
    "seed": (dict(seed=-1), "seed is -1"),
    "too many names": (dict(names=["a", "b"]), "names", "1 different text"),
    "the same name": (dict(scores=[RESULT, RESULT], names=["a", "a"]), "names", "2 different texts"),
    "a text": (dict(names="a"), "names"),
    "nothing has an effect": (dict(scores=nodes(sampled(torch.zeros(25)))), "k is 10", "0 rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused(case):
    given, *words = REFUSED[case]
    usual = {"scores": RESULT} | given
    scores = usual.pop("scores")
    call = inspect.unwrap(bootstrap)  # as users have it: annotations are not checked
    refused(lambda: call(scores, **usual), ScopeParameterError, *words)


def test_effects_that_are_no_numbers_are_refused():
    effects = sampled(falling(25))
    effects[4, 7] = math.nan
    result = nodes(effects)
    refused(lambda: bootstrap(result), NumericalError, result.labels[7], "pair 4", "nan")
