"""Faithfulness of circuits of nodes: by a plain loop, at both ends, in the known circuit, killed and gone on with."""

from __future__ import annotations

import functools
import random

import numpy
import pytest
import torch

import tl_scopes as ts
from support import induction, zoo
from tl_scopes.circuits import Faithfulness, Pairs, components, faithfulness, select
from tl_scopes.circuits.judging.node_runs import NodeRuns
from tl_scopes.errors import NumericalError, RunError, ScopeParameterError

A, B = 5, 11
NAME = zoo.known("hooked/gqa", "bridge/llama")[-1]
SCOPE = ts.LogitDifferenceScope(A, B)
N = 15  # nodes: three layers of four heads and an MLP


def made(count: int = 5, scope=SCOPE) -> Pairs:
    """Pairs of two lengths."""
    draw = random.Random(count)
    clean = [[0, *(draw.randrange(4, 30) for _ in range(3 + i % 2))] for i in range(count)]
    corrupted = [[0, *(draw.randrange(4, 30) for _ in ids[1:-1]), ids[-1]] for ids in clean]
    return Pairs(clean, corrupted, scope)


def scores(seed: int = 0) -> dict[str, float]:
    draw = random.Random(seed)
    nodes = [f"L{i}H{h}" for i in range(3) for h in range(4)] + [f"{i}_mlp_out" for i in range(3)]
    return {node: draw.gauss(0, 1) for node in nodes}


@functools.cache
def judged(**options) -> Faithfulness:
    given = dict(sizes=(0.2, 0.5, 0.9, 1.0, 1), random=3, exact=True) | options
    with zoo.exact_float64():
        return faithfulness(zoo.shared(NAME), made(), scores(), **given)


def runs(labels: list[str], pairs: Pairs, ablation: str = "corrupted") -> torch.Tensor:
    """[pair]: of a circuit alone, batch by batch."""
    out = torch.zeros(len(pairs), dtype=torch.float64)
    with zoo.exact_float64():
        for batch in pairs.batches(zoo.shared(NAME)):
            with batch.locked():
                found = NodeRuns(batch, "head", ablation)
                kept = torch.tensor([[node in labels for node in found.nodes]])
                out[list(batch.numbers)] = found.metrics(kept)[:, 0]
    return out


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
def test_every_size_is_a_run_of_the_strongest(ablation):
    result = judged(ablation=ablation)
    assert result.sizes == (1, 3, 7, 13, 15) and result.kept == result.sizes
    order = sorted(scores(), key=lambda label: -abs(scores()[label]))
    for i, size in enumerate(result.sizes):
        wanted = runs(order[:size], made(), ablation)
        torch.testing.assert_close(
            result.metrics[:, i], wanted, rtol=1e-6, atol=1e-6, check_dtype=False
        )
    nothing, whole = runs([], made()), runs(list(scores()), made())
    torch.testing.assert_close(result.corrupted, nothing, rtol=1e-6, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(result.clean, whole, rtol=1e-6, atol=1e-6, check_dtype=False)
    wanted = (result.metrics.double().mean(0) - nothing.mean()) / (whole.mean() - nothing.mean())
    torch.testing.assert_close(result.f, wanted, rtol=1e-6, atol=1e-6, check_dtype=False)
    assert float(result.f[-1]) == 1.0 and (result.random_f[:, -1] == 1).all()


def test_the_exact_order_is_that_of_patching_each_node_alone():
    result = judged()
    nodes = list(scores())
    effects = {
        n: float((result.clean - runs([m for m in nodes if m != n], made())).mean()) for n in nodes
    }
    order = sorted(nodes, key=lambda label: -abs(effects[label]))
    for i, size in enumerate(result.sizes):
        wanted = runs(order[:size], made())
        torch.testing.assert_close(
            result.exact[:, i], wanted, rtol=1e-6, atol=1e-6, check_dtype=False
        )


def test_areas_are_numpys():
    result = judged()
    x, f = numpy.array(result.shares), result.f.numpy()
    area = numpy.sum(numpy.diff(x) * (f[1:] + f[:-1]) / 2)
    assert result.cpr == pytest.approx(area)
    off = numpy.abs(1 - f)
    assert result.cmd == pytest.approx(numpy.sum(numpy.diff(x) * (off[1:] + off[:-1]) / 2))
    assert len(result.random_cpr) == 3 and result.exact_cmd >= 0


def test_intervals_resample_whole_pairs():
    result = judged()
    low, high = result.interval()
    assert (low <= result.f + 1e-9).all() and (result.f <= high + 1e-9).all()
    assert float(low[-1]) == float(high[-1]) == 1.0
    low, high = result.interval("cpr")
    assert low < result.cpr < high
    # By hand: the same draws.
    drawn = numpy.random.default_rng(0).integers(5, size=(2000, 5))
    m, a, b = (x.double().numpy() for x in (result.metrics, result.clean, result.corrupted))
    f = (m[drawn].mean(1) - b[drawn].mean(1)[:, None]) / (a[drawn].mean(1) - b[drawn].mean(1))[
        :, None
    ]
    wanted = numpy.quantile(f, [0.025, 0.975], axis=0)
    numpy.testing.assert_allclose(result.interval().numpy(), wanted, rtol=1e-6, atol=1e-8)
    alone = faithfulness(zoo.shared(NAME), made()[:1], scores(), [2, 4], random=0)
    assert alone.interval().isnan().all() and alone.interval("cmd").shape == (2,)


def test_small_shares_of_few_nodes_are_the_corrupted_prompt():
    result = judged(sizes=(0.001, 0.01, 0.5), exact=False)
    assert result.sizes == (0, 0, 7)
    assert (result.f[:2] == 0).all() and (result.random_f[:, 0] == 0).all()


def test_a_circuit_is_judged_at_its_own_size():
    circuit = select(scores(), 6)
    with zoo.exact_float64():
        result = faithfulness(zoo.shared(NAME), made(), circuit, random=2)
    assert result.sizes == (6,) and result.random.shape == (2, 5, 1)
    wanted = runs(list(circuit.nodes), made())
    torch.testing.assert_close(
        result.metrics[:, 0], wanted, rtol=1e-6, atol=1e-6, check_dtype=False
    )
    with pytest.raises(ScopeParameterError, match="has one"):
        result.cpr  # noqa: B018


@pytest.mark.parametrize("ablation", ["corrupted", "mean", "zero"])
def test_mean_and_the_others_differ(ablation):
    mine = judged(ablation=ablation, exact=False)
    other = judged(ablation="corrupted", exact=False)
    assert (ablation == "corrupted") is bool(torch.equal(mine.metrics[:, 1], other.metrics[:, 1]))
    assert torch.equal(mine.metrics[:, -1], other.metrics[:, -1])


@pytest.mark.parametrize("kind", induction.kinds())
def test_the_known_circuit_is_faithful(kind):
    """Its two heads are the strongest, and keep nine tenths and more of the answer."""
    model = induction.shared(kind)
    clean, corrupted, scopes = [], [], []
    for prompt in induction.prompts(20, seed=500):
        read, right = prompt.reads[-1], prompt.targets[-1]
        copied = read - prompt.period + 1
        wrong = next(i for i in range(8, 60) if i not in prompt.tokens)
        # Another word before the one to copy, so that there is nothing to find.
        other = list(prompt.tokens)
        other[copied - 1] = wrong
        clean.append(prompt.tokens[: read + 1])
        corrupted.append(other[: read + 1])
        scopes.append(ts.LogitDifferenceScope(right, wrong))
    pairs = Pairs(clean, corrupted, scopes)
    found = components(model, pairs)
    known = {f"L{layer}H{head}" for layer, head in induction.circuit(model)}
    assert set(select(found, 2).nodes) - {"embed"} == known
    result = faithfulness(model, pairs, found, [2, 0.5, 1.0], random=10)
    assert float(result.f[0]) >= 0.9
    drawn = result.random_f[:, 0]
    assert float(drawn.mean()) < 0.5 * float(result.f[0])


# ------------------------------------------------------------------------------------------------ killed and gone on
class Killed(BaseException):
    pass


@pytest.mark.parametrize("exact", [False, True])
def test_a_killed_call_goes_on_to_the_same_numbers(exact, tmp_path, monkeypatch):
    model, pairs, given = (
        zoo.shared(NAME),
        made(20),
        dict(sizes=[2, 0.5, 1.0], random=2, exact=exact),
    )
    whole = faithfulness(model, pairs, scores(), **given)
    plain, calls = NodeRuns.metrics, []
    for stop in (3, 2, 2):

        def metrics(self, kept, stop=stop):
            calls.append(len(self.batch))
            if len(calls) == stop:
                raise Killed
            return plain(self, kept)

        calls.clear()
        monkeypatch.setattr(NodeRuns, "metrics", metrics)
        with pytest.raises(Killed):
            faithfulness(model, pairs, scores(), **given, out=tmp_path / "run")
    monkeypatch.setattr(NodeRuns, "metrics", plain)
    parts = len(list((tmp_path / "run" / "parts").glob("*.parquet")))
    assert 0 < parts < 4 * (1 + exact)
    ended = faithfulness(model, pairs, scores(), **given, out=tmp_path / "run", progress=False)
    again = faithfulness(model, pairs, scores(), **given, out=tmp_path / "run")
    for result in (ended, again):
        for name in ("metrics", "clean", "corrupted", "random"):
            assert torch.equal(getattr(result, name), getattr(whole, name)), name
        assert not exact or torch.equal(result.exact, whole.exact)
    for changed in (dict(seed=1), dict(ablation="zero"), dict(sizes=[3])):
        with pytest.raises(RunError, match="made with something else"):
            faithfulness(model, pairs, scores(), **(given | changed), out=tmp_path / "run")
    with pytest.raises(RunError, match="made with something else"):
        faithfulness(model, pairs[:9], scores(), **given, out=tmp_path / "run")
    with pytest.raises(RunError, match="made with something else"):
        faithfulness(model, pairs, scores(1), **given, out=tmp_path / "run")


# --------------------------------------------------------------------------------------------------------- bad input
def test_pairs_that_give_the_same_are_named():
    pairs = made(4)
    same = Pairs(
        pairs.clean,
        [*pairs.corrupted[:1], pairs.clean[1], *pairs.corrupted[2:3], pairs.clean[3]],
        SCOPE,
    )
    with pytest.raises(NumericalError, match=r"pairs 1, 3: what is explained is the same"):
        faithfulness(zoo.shared(NAME), same, scores())


def test_scopes_of_two_kinds_have_no_mean():
    pairs = made(2)
    two = Pairs(pairs.clean, pairs.corrupted, [SCOPE, ts.TemperatureScope()])
    with pytest.raises(ScopeParameterError, match="no mean can be taken"):
        faithfulness(zoo.shared(NAME), two, scores(), [2], random=0)


def test_pairs_that_cancel_are_told_of():
    pairs = made(1)
    there_and_back = Pairs(
        [*pairs.clean, *pairs.corrupted], [*pairs.corrupted, *pairs.clean], SCOPE
    )
    with zoo.exact_float64(), pytest.raises(NumericalError, match="over all 2 pairs"):
        faithfulness(zoo.shared(NAME), there_and_back, scores(), [2])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(sizes=[0]), "sizes holds 0"),
        (dict(sizes=[16]), "1 to 15"),
        (dict(sizes=[1.5]), "1.5"),
        (dict(sizes=[True]), "True"),
        (dict(sizes=[float("nan")]), "nan"),
        (dict(sizes=[]), r"sizes is \[\]"),
        (dict(sizes=0.1), "sizes is 0.1"),
        (dict(ablation="noise"), "ablation"),
        (dict(random=-1), "random"),
        (dict(exact=1), "exact"),
        (dict(seed=-1), "seed"),
    ],
)  # fmt: skip
@pytest.mark.wrong_types
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(ScopeParameterError, match=said):
        faithfulness(zoo.shared(NAME), made(2), scores(), **given)


@pytest.mark.wrong_types
def test_scores_of_another_model_are_refused():
    model, pairs = zoo.shared(NAME), made(2)
    with pytest.raises(ScopeParameterError, match="'L7H0', which this model does not have"):
        faithfulness(model, pairs, scores() | {"L7H0": 1.0})
    fewer = {label: x for label, x in scores().items() if label != "L1H2"}
    with pytest.raises(ScopeParameterError, match="lack 'L1H2'"):
        faithfulness(model, pairs, fewer)
    with pytest.raises(ScopeParameterError, match="head, neuron do not make up a model"):
        faithfulness(model, pairs, {"L0H0": 1.0, "L0N1": 1.0})
    with pytest.raises(ScopeParameterError, match="pairs is a list"):
        faithfulness(model, [1], scores())


# ------------------------------------------------------------------------------------------------- what it becomes
def test_it_is_saved_tabled_and_drawn(tmp_path):
    result = judged()
    again = Faithfulness.load(result.save(tmp_path / "f.safetensors"))
    assert torch.equal(again.f, result.f) and again.sizes == result.sizes
    frame = result.to_frame()
    assert len(frame) == 5 * 5 and set(frame["curve"]) == {
        "scores",
        "exact",
        "random 0",
        "random 1",
        "random 2",
    }
    assert frame.query("curve == 'scores'")["f"].tolist() == pytest.approx(result.f.tolist())
    axes = result.plot().axes
    assert len(axes[0].lines) >= 3
    assert "svg" in result.to_html(tmp_path / "page.html")
    assert "CPR" in repr(result)
