"""How far half precision is from a wider one, said on request; and the model is itself again afterwards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

import tl_scopes as ts
from support import zoo
from support.traces import each_class
from tl_scopes.errors import NumericalError, ScopeParameterError
from tl_scopes.results.statistics import rank_likeness
from tl_scopes.scopes import pinning

SCOPES = [
    ts.SemanticScope(),
    ts.LogitDifferenceScope(None, 7),
    ts.TemperatureScope(),
    ts.FisherScope(rank=2),
]


def in_dtype(name: str, dtype: torch.dtype):
    model = zoo.build(name).to(dtype)
    model.cfg.dtype = dtype
    return model


def tensors(model) -> dict[str, torch.Tensor]:
    wrapped = getattr(model, "original_model", torch.nn.Module())
    found = [*model.named_parameters(), *model.named_buffers()]
    return dict([*found, *wrapped.named_parameters(), *wrapped.named_buffers()])


def state(model) -> dict[str, tuple]:
    each = {k: (t.dtype, t.data_ptr(), t.detach().clone()) for k, t in tensors(model).items()}
    return {
        k: (dtype, place, value.nan_to_num().tolist()) for k, (dtype, place, value) in each.items()
    }


@each_class
@pytest.mark.parametrize("scope", SCOPES, ids=lambda s: s.name)
@pytest.mark.parametrize(
    "narrow, wide",
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float64),
    ],
    ids=str,
)
def test_it_compares_with_a_model_of_the_same_weights_in_the_wider_precision(
    name, scope, narrow, wide
):
    model = in_dtype(name, narrow)
    found = ts.attribute(model, zoo.TEXT, scope, sites="all", stability=True)
    plain = ts.attribute(model, zoo.TEXT, scope, sites="all")
    assert torch.equal(found.scores, plain.scores) and plain.stability is None
    other = in_dtype(name, narrow).to(wide)
    other.cfg.dtype = wide
    expected = ts.attribute(other, zoo.TEXT, pinning.pinned_as(scope, found), sites="all")
    got = found.stability
    assert got is not None and got.precision == str(wide).removeprefix("torch.")
    for s in range(len(found.sites)):
        a, b = found.scores[s, 1:], expected.scores[s, 1:]
        error = float((a - b).abs().max() / b.abs().max())
        assert got.largest_error[s] == pytest.approx(error, rel=1e-2, abs=1e-7)
        assert error < {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float32: 1e-5}[narrow]
        top = [set(x.topk(5).indices.tolist()) for x in (a, b)]
        if s < len(found.sites) - 1:  # at the last site all but one score are zero
            assert got.top_agreement[s] == len(top[0] & top[1]) / 5
            assert got.rank_correlation[s] == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)


@each_class
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_put_back_bit_for_bit(name, fails):
    model = in_dtype(name, torch.bfloat16)
    ts.attribute(model, zoo.TEXT, ts.SemanticScope())
    before, cfg = state(model), repr(vars(model.cfg))
    if fails:
        calls = []

        def fn(z):
            calls.append(model.W_U.dtype)
            if calls[-1] == torch.float32:
                raise KeyboardInterrupt
            return z[0]

        with pytest.raises(KeyboardInterrupt):
            ts.attribute(model, zoo.TEXT, ts.FunctionScope(fn), stability=True)
        assert calls[0] == torch.bfloat16
    else:
        ts.attribute(model, zoo.TEXT, ts.TemperatureScope(), stability=True)
    assert state(model) == before and repr(vars(model.cfg)) == cfg


@each_class
def test_batches_say_it_of_each(name):
    model = in_dtype(name, torch.float32)
    found = ts.attribute_batch(
        model, [zoo.TEXT, zoo.LONG_TEXT], ts.FisherScope(rank=1), sites=["embed", 1], stability=True
    )
    for each in found:
        assert each.stability is not None and len(each.stability.largest_error) == 2
        assert max(each.stability.largest_error) < 1e-5


def test_nothing_is_wider_than_float64():
    model = zoo.shared(zoo.names()[0])
    with pytest.raises(ScopeParameterError, match=r"none beyond torch\.float64"):
        ts.attribute(model, zoo.TEXT, ts.SemanticScope(), stability=True)


def test_a_nan_in_half_precision_is_refused_as_ever():
    model = in_dtype(zoo.names()[0], torch.float16)
    with torch.no_grad():
        model.blocks[1].mlp.W_out[0, 0] = float("inf")
    with pytest.raises(NumericalError):
        ts.attribute(model, zoo.TEXT, ts.SemanticScope(), stability=True)


@each_class
def test_pictures_say_it(name):
    found = ts.attribute(
        in_dtype(name, torch.bfloat16), zoo.TEXT, ts.TemperatureScope(), stability=True
    )
    assert found.stability is not None
    page = found.to_html()
    assert "against float32: rank correlation" in page
    assert (
        f"largest error {100 * found.stability.largest_error[0]:.1f}% of the largest score" in page
    )


@each_class
def test_it_is_saved_with_the_result(name, tmp_path):
    found = ts.attribute(
        in_dtype(name, torch.float32), zoo.TEXT, ts.TemperatureScope(), stability=True
    )
    again = ts.Attribution.load(found.save(tmp_path / "a.safetensors"))
    assert again.stability == found.stability


@each_class
def test_the_rerun_explains_the_same_token(name):
    found = ts.attribute(zoo.shared(name), zoo.TEXT, ts.SemanticScope())
    assert found.target is not None
    assert pinning.pinned_as(ts.SemanticScope(), found).target == found.target.id
    assert pinning.pinned_as(ts.SemanticScope(4), found) == ts.SemanticScope(4)
    assert pinning.pinned_as(ts.LogitDifferenceScope(None, 4), found).a == found.target.id
    assert pinning.pinned_as(ts.TemperatureScope(), found) == ts.TemperatureScope()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9))
def test_rank_correlation_is_spearmans(pairs):
    a, b = torch.tensor(pairs, dtype=torch.float64).T
    got = rank_likeness(a.numpy(), b.numpy())
    if len(set(a.tolist())) > 1 and len(set(b.tolist())) > 1:
        assert got == pytest.approx(spearmanr(a, b).statistic)
    else:
        assert got in (0.0, 1.0)
