"""What scopes may do that looks odd: it works, or the error is the user's own."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.calls import ONES, T
from support.refusals import refused
from support.traces import PLAIN, each_class
from support.zoo_tables import D_MODEL
from tl_scopes.errors import SiteError

pytestmark = pytest.mark.wrong_types


@each_class
def test_one_sample_has_no_standard_error(name):
    assert ts.attribute(zoo.shared(name), T, ts.FisherScope(samples=1)).standard_error is None


@each_class
def test_an_error_inside_a_function_is_the_user_s_own(name):
    with pytest.raises(ZeroDivisionError):
        ts.attribute(zoo.shared(name), T, ts.FunctionScope(lambda z: 1 / 0))


@pytest.mark.parametrize("name", [*PLAIN, *zoo.names("", "softcap")[:2]])
def test_functions_may_write_to_the_logits_they_are_given(name):
    def banned(z):
        z[3] = -100.0
        return z.logsumexp(0)

    keep = torch.arange(zoo.D_VOCAB) != 3
    found = ts.attribute(zoo.shared(name), T, ts.FunctionScope(banned))
    expected = ts.attribute(zoo.shared(name), T, ts.FunctionScope(lambda z: z[keep].logsumexp(0)))
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.prediction == expected.prediction


@each_class
def test_directions_see_nothing_after_their_site_and_hide_no_error(name):
    model = zoo.shared(name)
    scope = ts.DirectionScope(ONES, site=1)
    scores = ts.attribute(model, T, scope, sites="all").scores
    assert (scores[:3, -1] > 0).all() and not scores[3:].any()
    torch.testing.assert_close(
        scores[2], torch.tensor([0, 0, 0, 0, 0, 4.0])
    )  # ||ONES|| where it is read
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
        whole.scores, ts.attribute(model, T, ts.DirectionScope(ONES), sites="all").scores
    )
    assert not ts.attribute(model, T, ts.DirectionScope(ONES * 0), sites="all").scores.any()
