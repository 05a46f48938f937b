"""Scopes that cannot be, functions and directions that do not fit, and numbers that are not numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.refusals import MODELS, T, refused, spoilt
from support.zoo_tables import D_MODEL, N_LAYERS
from tl_scopes.errors import NumericalError, PositionError, ScopeParameterError, SiteError

pytestmark = pytest.mark.wrong_types
each_class = pytest.mark.parametrize("name", MODELS)
ones = torch.ones(D_MODEL)

FISHER = {
    "rank 0": (dict(rank=0), ["rank is 0", "1 to d_model"]),
    "rank -1": (dict(rank=-1), ["rank is -1", "1 to d_model"]),
    "rank 1.5": (dict(rank=1.5), ["1.5", r"\(0, 1\]", "int"]),
    "rank 0.0": (dict(rank=0.0), ["0.0", r"\(0, 1\]"]),
    "rank nan": (dict(rank=float("nan")), ["nan", r"\(0, 1\]"]),
    "rank True": (dict(rank=True), ["True", "'full'"]),
    "rank ful": (dict(rank="ful"), ["'ful'", "'full'", "1 to d_model"]),
    "rank list": (dict(rank=[1]), [r"\[1\]", "'full'"]),
    "samples 0": (dict(samples=0), ["samples is 0", "from 1"]),
    "samples -1": (dict(samples=-1), ["samples is -1", "from 1"]),
    "samples 1.5": (dict(samples=1.5), ["samples is 1.5", "whole number"]),
    "samples True": (dict(samples=True), ["samples is True", "whole number"]),
    "samples text": (dict(samples="3"), ["samples is '3'", "whole number"]),
    "samples of full": (dict(rank="full", samples=2), ["nothing to sample", "drop"]),
    "tail 1": (dict(tail=1), ["tail is 1", "0 to below 1"]),
    "tail -1": (dict(tail=-1e-9), ["tail is -1e-09", "0 to below 1"]),
    "tail nan": (dict(tail=float("nan")), ["tail is nan", "0 to below 1"]),
    "tail text": (dict(tail="x"), ["tail is 'x'", "0 to below 1"]),
    "tail None": (dict(tail=None), ["tail is None", "0 to below 1"]),
    "seed text": (dict(samples=2, seed="a"), ["seed is 'a'", "int|whole"]),
    "seed None": (dict(samples=2, seed=None), ["seed is None", "int|whole"]),
    "seed 1.5": (dict(samples=2, seed=1.5), ["seed is 1.5", "int|whole"]),
    "seed too large": (dict(samples=2, seed=2**64), ["seed is 18446744073709551616"]),
    "distribution": (dict(distribution="gauss"), ["'gauss'", "'rademacher', 'normal'"]),
}


@pytest.mark.parametrize("case", FISHER)
def test_fisher_parameters_are_refused_when_the_scope_is_made(case):
    arguments, words = FISHER[case]
    refused(lambda: ts.FisherScope(**arguments), ScopeParameterError, *words)


@each_class
def test_rank_over_d_model(name):
    for call in (ts.attribute, ts.attribute_sequence):
        refused(
            lambda call=call: call(zoo.shared(name), T, ts.FisherScope(rank=17)),
            ScopeParameterError,
            "rank 17",
            "d_model",
            "16",
        )
    assert ts.attribute(zoo.shared(name), T, ts.FisherScope(rank=16)).scores.any()


@each_class
def test_one_sample_has_no_standard_error(name):
    assert ts.attribute(zoo.shared(name), T, ts.FisherScope(samples=1)).standard_error is None


W = torch.nn.Parameter(torch.ones(3))
FUNCTIONS = {
    "vector": (lambda z: z, [r"shape \(65,\)", "one number"]),
    "python float": (lambda z: z.max().item(), ["returned", "tensor", "one number"]),
    "None": (lambda z: None, ["None", "tensor"]),
    "detached": (lambda z: z.detach().max(), ["differentiably", ".detach"]),
    "argmax": (lambda z: z.argmax(), ["differentiably", "argmax"]),
    "constant": (lambda z: torch.tensor(2.0), ["differentiably", "logits"]),
    "parameter": (lambda z: W.sum(), ["gradient|differentiably", "logits"]),
    "NaN gradient": (lambda z: (z - z).norm().sqrt(), ["gradient", "not finite", "check"]),
    "NaN value": (lambda z: z.sum() * float("nan"), ["not finite", "check"]),
    "infinite": (lambda z: (z * 0).log().sum(), ["not finite", "check"]),
}


@each_class
@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions(name, case):
    fn, words = FUNCTIONS[case]
    refused(
        lambda: ts.attribute(zoo.shared(name), T, ts.FunctionScope(fn)),
        ScopeParameterError,
        "fn",
        *words,
    )


@pytest.mark.parametrize("fn", [None, "entropy", 3], ids=repr)
def test_functions_that_cannot_be_called(fn):
    refused(lambda: ts.FunctionScope(fn), ScopeParameterError, "fn", "logits|call")


@each_class
def test_an_error_inside_a_function_is_the_user_s_own(name):
    with pytest.raises(ZeroDivisionError):
        ts.attribute(zoo.shared(name), T, ts.FunctionScope(lambda z: 1 / 0))


@pytest.mark.parametrize("name", [*MODELS, *zoo.names("", "softcap")[:2]])
def test_functions_may_write_to_the_logits_they_are_given(name):
    def banned(z):
        z[3] = -100.0
        return z.logsumexp(0)

    keep = torch.arange(zoo.D_VOCAB) != 3
    found = ts.attribute(zoo.shared(name), T, ts.FunctionScope(banned))
    expected = ts.attribute(zoo.shared(name), T, ts.FunctionScope(lambda z: z[keep].logsumexp(0)))
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.prediction == expected.prediction


DIRECTIONS = {
    "text": ("abc", ["'abc'|str", "vector"]),
    "None": (None, ["None", "vector"]),
    "dictionary": ({}, ["dict|{}", "vector"]),
    "number": (torch.tensor(1.0), [r"shape \(\)", "vector"]),
    "NaN": ([float("nan")] * D_MODEL, ["16 entries", "finite", "width"]),
    "infinite": (ones * float("inf"), ["16 entries", "finite"]),
    "complex": (ones.to(torch.cfloat), ["complex", "real|vector"]),
}


@pytest.mark.parametrize("case", DIRECTIONS)
def test_directions_are_refused_when_the_scope_is_made(case):
    v, words = DIRECTIONS[case]
    refused(lambda: ts.DirectionScope(v), ScopeParameterError, *words)


@each_class
def test_directions_of_a_wrong_width(name):
    model, z = zoo.shared(name), "blocks.1.attn.hook_z"
    for v, site, shape in [
        (ones[:15], None, r"\(16,\)"),
        (ones[None], None, r"\(16,\)"),
        (ones, z, r"\(4, 4\)"),
        (torch.ones(4), z, r"\(4, 4\)"),
        (torch.ones(4, 4), f"{z}[2]", r"\(4,\)"),
    ]:
        words = ["direction has shape", shape, "give a vector"]
        refused(
            lambda v=v, site=site: ts.attribute(model, T, ts.DirectionScope(v, site=site)),
            ScopeParameterError,
            *words,
        )


@each_class
@pytest.mark.parametrize(
    "site", [99, "resid(4)", "all", True, 3.0, ["embed"], "blocks.0.attn.hook_z[99]", "blocks.0.hook_resid_pre[0]",
             "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_result", "blocks.1.hook_resid"], ids=repr,
)  # fmt: skip
def test_directions_at_sites_that_do_not_exist(name, site):
    message = refused(
        lambda: ts.attribute(zoo.shared(name), T, ts.DirectionScope(ones, site=site)), SiteError
    )
    assert "nearest names are 'all'" not in message


@each_class
def test_directions_see_nothing_after_their_site_and_hide_no_error(name):
    model = zoo.shared(name)
    scope = ts.DirectionScope(ones, site=1)
    scores = ts.attribute(model, T, scope, sites="all").scores
    assert (scores[:3, -1] > 0).all() and not scores[3:].any()
    torch.testing.assert_close(
        scores[2], torch.tensor([0, 0, 0, 0, 0, 4.0])
    )  # ||ones|| where it is read
    # A hook that never fires is not one that comes later.
    words = ["does not reach|never"]
    refused(
        lambda: ts.attribute(model, T, scope, sites=["embed", "blocks.0.hook_mlp_in"]),
        SiteError,
        *words,
    )


@each_class
def test_directions_may_be_integers_or_zero(name):
    model = zoo.shared(name)
    whole = ts.attribute(
        model, T, ts.DirectionScope(torch.ones(D_MODEL, dtype=torch.int64)), sites="all"
    )
    torch.testing.assert_close(
        whole.scores, ts.attribute(model, T, ts.DirectionScope(ones), sites="all").scores
    )
    assert not ts.attribute(model, T, ts.DirectionScope(ones * 0), sites="all").scores.any()


@each_class
@pytest.mark.parametrize("position", [99, "a", 1.0, True], ids=repr)
def test_positions_of_directions(name, position):
    refused(
        lambda: ts.attribute(zoo.shared(name), T, ts.DirectionScope(ones, position=position)),
        PositionError,
    )


@each_class
def test_a_direction_with_a_position_is_not_silently_read_elsewhere(name):
    """`attribute_sequence` reads at its own positions, so a scope that names one contradicts it."""
    scope = ts.DirectionScope(ones, position=2)
    with pytest.raises((PositionError, ScopeParameterError), match="position"):
        ts.attribute_sequence(zoo.shared(name), T, scope, positions=[1, 3])


@each_class
def test_a_direction_beyond_the_model_s_dtype(name):
    scope = ts.DirectionScope(torch.full((D_MODEL,), 1e300, dtype=torch.float64))
    message = refused(
        lambda: ts.attribute(zoo.build(name, torch.float32), T, scope),
        ScopeParameterError,
        "direction",
    )
    assert "float16" not in message


# ------------------------------------------------------------------------------------------------ NaN and infinity


@each_class
@pytest.mark.filterwarnings("error")  # weights full of infinity are not "mean-centred"
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("sites", ["embed", "all", 3])
@pytest.mark.parametrize(
    ("place", "word"),
    [("embed", "at embed"), ("block 1", r"at resid\(2\)"), ("W_U", "in the unembedding")],
)
def test_weights_that_are_not_numbers(name, place, word, sites, value):
    model = spoilt(name, place, value)
    for _ in range(2):  # the second call finds a model that the first has already seen
        message = refused(
            lambda: ts.attribute(model, T, ts.SemanticScope(5), sites=sites),
            NumericalError,
            "NaN or inf",
            word,
        )
        assert "float16" not in message


@each_class
def test_gradients_that_are_not_numbers(name):
    model = zoo.build(name)

    def spoil(grad, hook):
        return (
            (torch.full_like(grad[0], float("nan")),)
            if isinstance(grad, tuple)
            else grad * float("nan")
        )

    with model.hooks(bwd_hooks=[("blocks.1.hook_mlp_out", spoil)]):
        message = refused(
            lambda: ts.attribute(model, T, ts.SemanticScope(5), sites="all"),
            NumericalError,
            "gradient",
            "forward .* finite",
        )
        assert "resid(1)" in message, "the last place on the way back that was fine is resid(2)"
        assert "float16" not in message
        assert (
            ts.attribute(model, T, ts.SemanticScope(5), sites=[2, N_LAYERS]).scores.isfinite().all()
        )


@each_class
def test_half_precision_that_overflows(name):
    model = zoo.build(name, torch.float16)
    with torch.no_grad():
        next(p for n, p in model.blocks[1].named_parameters() if "mlp" in n).data.fill_(6e4)
    refused(
        lambda: ts.attribute(model, T, ts.SemanticScope(5)),
        NumericalError,
        r"resid\(2\)",
        "float16",
        "bfloat16 or float32",
    )


def test_numpy_integers_are_integers():
    assert ts.FisherScope(rank=np.int64(2)).parameters()["rank"] == 2
    assert ts.FisherScope(samples=np.int64(2)).parameters()["samples"] == 2
