"""Effects of components over pairs: one by one what single calls give, and their statistics."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import stats

import tl_scopes as ts
from support import zoo
from support.exact import close
from support.refusals import refused
from tl_scopes.circuits import Pairs, components
from tl_scopes.errors import LengthMismatchError, RenderError, ScopeParameterError, TargetError
from tl_scopes.results.paired import PairedComponents

ARCHITECTURES = [
    n for n in zoo.names() if n.split("/")[1] in ("llama", "gqa", "gemma2", "gemma3", "parallel", "gpt2")
]  # fmt: skip
CLASSES = zoo.known("hooked/gemma2", "bridge/gemma3")
# Of two lengths, so that they take two batches, in an order of their own.
CLEAN = [[0, 5, 9, 12, 7, 20], [0, 6, 9, 12, 8], [0, 7, 11, 12, 7, 21], [0, 9, 8, 7, 6]]
CORRUPTED = [[0, 8, 9, 12, 7, 20], [0, 6, 10, 12, 8], [0, 7, 9, 12, 7, 21], [0, 9, 8, 11, 6]]
SCOPES = {
    "difference": [ts.LogitDifferenceScope(i + 5, i + 9) for i in range(4)],
    "fisher": ts.FisherScope(rank=3),
    "answer": ts.ContinuationScope([7, 8]),
}
ROLES = {"subject": [[1], [2], [2, 1], [3]], "last": -1}


@functools.cache
def found(name: str, kind: str = "difference", by: str = "head", frozen: str | None = None):
    pairs = Pairs(CLEAN, CORRUPTED, SCOPES[kind], ROLES)
    with zoo.exact_float64():
        return components(zoo.shared(name), pairs, by=by, frozen=frozen)


def check_each(name: str, kind: str, by: str, frozen: str | None = None) -> None:
    result = found(name, kind, by, frozen)
    assert result.roles == ("subject", "last", "rest")
    for i, (clean, corrupted) in enumerate(zip(CLEAN, CORRUPTED)):
        scope = SCOPES[kind][i] if isinstance(SCOPES[kind], list) else SCOPES[kind]
        with zoo.exact_float64():
            one = components(zoo.shared(name), clean, scope, by, corrupted=corrupted, frozen=frozen)
        assert result.labels == one.labels and result.kinds == one.kinds
        assert result.layers == one.layers and result.indices == one.indices
        named = ROLES["subject"][i], [len(clean) - 1]
        n = one.total.shape[-1]
        places = [*named, [t for t in range(n) if t not in named[0] + named[1]]]
        vectors = torch.stack([one.total_vectors[..., own].sum(-1) for own in places], -1)
        wanted = torch.einsum(
            "v,vcr->cr", one.weights, vectors.square() if one.squared else vectors
        )
        close(result.effects[i], wanted, 1e-10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_pair_has_the_effects_of_a_call_of_its_own(name):
    check_each(name, "difference", "head")


@pytest.mark.parametrize(
    ("kind", "by", "frozen"),
    [("fisher", "head", None), ("answer", "head", None), ("difference", "mlp", "norms"),
     ("difference", "layer", None), ("fisher", "neuron", "both")],
)  # fmt: skip
@pytest.mark.parametrize("name", CLASSES)
def test_so_it_has_under_other_scopes_and_options(name, kind, by, frozen):
    check_each(name, kind, by, frozen)


@pytest.mark.parametrize("name", CLASSES)
def test_the_scalar_of_both_sides_is_the_models_own(name):
    result, model = found(name), zoo.shared(name)
    for i, scope in enumerate(SCOPES["difference"]):
        for values, prompts in ((result.clean, CLEAN), (result.corrupted, CORRUPTED)):
            with zoo.exact_float64(), torch.no_grad():
                logits = model(torch.tensor([prompts[i]]))[0, -1]
            cap = getattr(model.cfg, "output_logits_soft_cap", 0) or 0
            if cap > 0:  # the scalar is that before the soft-cap
                logits = cap * torch.atanh(logits / cap)
            assert float(values[i]) == pytest.approx(
                float(logits[scope.a] - logits[scope.b]), abs=1e-8
            )
    fisher = found(name, "fisher")
    assert not fisher.clean.any() and (fisher.corrupted > 0).all()
    assert fisher.squared and fisher.units.startswith("nats")


def made(effects: torch.Tensor, **changes) -> PairedComponents:
    plain = found(CLASSES[0])
    n = effects.shape[1]
    fields = {
        name: getattr(plain, name)
        for name in ("scope", "units", "squared", "frozen", "provenance")
    }  # fmt: skip
    return PairedComponents(
        **fields | {
            "effects": effects, "roles": ("a", "b")[: effects.shape[2]],
            "clean": torch.ones(len(effects)), "corrupted": torch.zeros(len(effects)),
            "labels": tuple(f"L0H{i}" for i in range(n)), "kinds": ("head",) * n,
            "layers": (0,) * n, "indices": tuple(range(n)),
        } | changes
    )  # fmt: skip


def test_statistics_are_those_of_scipy():
    effects = torch.randn(30, 3, 2, generator=torch.Generator().manual_seed(0)) + 0.3
    result = made(effects)
    x = effects.double().numpy()
    np.testing.assert_allclose(result.mean(), x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.standard_error(), stats.sem(x), rtol=1e-12)
    shares = (np.sign(x) == np.sign(x.mean(0))).mean(0)
    np.testing.assert_allclose(result.sign_share(), shares)
    wanted = stats.bootstrap(
        (x,), np.mean, method="percentile", n_resamples=5000, axis=0
    ).confidence_interval
    low, high = result.interval()
    width = wanted.high - wanted.low
    assert (np.abs(low.numpy() - wanted.low) < 0.08 * width).all()
    assert (np.abs(high.numpy() - wanted.high) < 0.08 * width).all()
    narrow = result.interval(0.5)
    assert (narrow[0] > low).all() and (narrow[1] < high).all()
    assert torch.equal(result.interval(seed=3), result.interval(seed=3))
    np.testing.assert_allclose(result.summed(), x.mean(0).sum(-1))
    order = np.argsort(-np.abs(x.mean(0).sum(-1)))
    assert [label for label, _ in result.top(2)] == [f"L0H{i}" for i in order[:2]]


def test_of_one_pair_there_is_no_interval():
    result = made(torch.ones(1, 2, 1))
    assert result.standard_error().isnan().all() and result.interval().isnan().all()
    assert "1 pair;" in repr(result)


def test_grid_frame_and_file(tmp_path):
    result = found(CLASSES[0])
    grid = result.head_grid("subject")
    assert grid.shape == (3, zoo.shared(CLASSES[0]).cfg.n_heads)
    frame = result.to_frame()
    assert list(frame)[:5] == ["label", "kind", "layer", "index", "role"]
    row = frame.query("label == 'L1H2' and role == 'subject'").iloc[0]
    assert row["mean"] == float(grid[1, 2]) and row["kind"] == "head" and row["layer"] == 1
    assert row["low"] <= row["mean"] <= row["high"] and 0 <= row["sign_share"] <= 1
    assert torch.allclose(result.head_grid(), sum(result.head_grid(role) for role in result.roles))
    assert repr(result).startswith("PairedComponents(logit_difference, ")
    again = PairedComponents.load(made(torch.randn(4, 3, 2)).save(tmp_path / "effects.safetensors"))
    assert again.labels == ("L0H0", "L0H1", "L0H2")
    refused(lambda: result.head_grid("first"), ScopeParameterError, "role is 'first'", "'subject'")
    refused(
        lambda: found(CLASSES[0], by="layer").head_grid(), ScopeParameterError, "no heads", "by="
    )


def test_a_mean_is_drawn_with_its_interval():
    result = made(torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(0)) + 1)
    (ax,) = result.plot(top=3, role="b").axes
    names = [text.get_text() for text in ax.get_yticklabels()]
    wanted = sorted(dict(result.of_role("b").top(3)), reverse=True)
    assert names == wanted
    low, high = result.interval()
    (lines,) = ax.collections
    for name, segment in zip(names, lines.get_segments()):
        row = result.labels.index(name)
        assert segment[:, 0].tolist() == pytest.approx([float(low[row, 1]), float(high[row, 1])])
    grid = result.plot(over="heads").axes[0]
    assert grid.images[0].get_array().shape == (1, 5)
    page = result.to_html()
    assert "image/svg" in page and "the logit difference of each pair" in page


def test_drawing_options_that_cannot_be_are_refused():
    result = made(torch.ones(2, 3, 2), kinds=("mlp",) * 3)
    refused(lambda: result.plot(over="heads"), RenderError, "no heads", "by=")
    refused(lambda: result.plot(role="c"), RenderError, "'c'", "'a'")
    refused(lambda: result.plot(top=0), RenderError, "top is 0", "from 1")
    bad = made(torch.full((2, 3, 2), torch.nan))
    refused(lambda: bad.plot(), RenderError, "NaN", "make it again")


def test_a_terminal_shows_the_largest(capsys):
    made(torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))).print()
    said = capsys.readouterr().out
    assert "over 4 pairs" in said and "L0H1" in said and "sign share" in said.replace("\n", " ")


BESIDE = {
    "scope": dict(scope=ts.SemanticScope(5)),
    "baseline": dict(baseline="zero"),
    "corrupted": dict(corrupted=[1, 2]),
    "reference": dict(reference=[[1, 2]]),
    "position": dict(position=2),
    "prepend_bos": dict(prepend_bos=False),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_pairs_have_of_their_own_is_not_given_again(name):
    pairs = Pairs(CLEAN, CORRUPTED, ts.SemanticScope(5))
    call = functools.partial(components, zoo.shared(CLASSES[0]), pairs, **BESIDE[name])
    refused(call, ScopeParameterError, f"{name} is given beside pairs", "drop it")


def test_errors_name_the_pair():
    model = zoo.shared(CLASSES[0])

    def ask(scopes, clean=CLEAN, corrupted=CORRUPTED):
        return lambda: components(model, Pairs(clean, corrupted, scopes))

    same = [*SCOPES["difference"][:3], ts.LogitDifferenceScope(5, 5)]
    refused(ask(same), TargetError, "pair 3", "difference is zero")
    mixed = [ts.SemanticScope(5), ts.SemanticScope(6), ts.FisherScope(rank=1), ts.SemanticScope(6)]
    refused(ask(mixed), ScopeParameterError, "pair 2", "call once for each")
    longer = [*CORRUPTED[:2], [0, 1, 2], CORRUPTED[3]]
    refused(ask(ts.SemanticScope(5), CLEAN, longer), LengthMismatchError, "pair 2", "3 tokens", "6")


def test_a_bar_counts_pairs(capsys):
    pairs = Pairs(CLEAN, CORRUPTED, SCOPES["difference"])
    components(zoo.shared(CLASSES[0]), pairs, progress=True)
    assert "4/4" in capsys.readouterr().err
    components(zoo.shared(CLASSES[0]), pairs)
    assert not capsys.readouterr().err
