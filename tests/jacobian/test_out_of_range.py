"""Numbers beyond a dtype, odd default devices, text that no file can hold: right, or refused by name."""

from __future__ import annotations

import dataclasses
import functools

import pandas as pd
import pytest
import torch

import tl_scopes as ts
from support import run_cases, zoo
from support.faithfulness_cards import METHODS, card
from support.stored_results import attribution, sequence
from tl_scopes.circuits import components, flow, head_paths, verify
from tl_scopes.errors import NumericalError
from tl_scopes.evaluation import faithfulness_card, fisher_spectrum
from tl_scopes.results.card import FaithfulnessCard

IDS = [0, 5, 6, 7, 8, 9]
FISHERS = {
    "leading": ts.FisherScope(rank=1),
    "full": ts.FisherScope(rank="full"),
    "share": ts.FisherScope(rank=0.9),
    "sampled": ts.FisherScope(samples=2),
    "both": ts.FisherScope(rank=1, samples=2),
}


def scaled(by: float, dtype=torch.float32, gain: float = 1):
    model = zoo.build(run_cases.name(), dtype)
    with torch.no_grad():
        head, norm = model.W_U, next(model.ln_final.parameters())
        head *= by  # in place: on a bridge they are views of the weights
        norm *= gain
    return model


@functools.cache
def plain():
    return scaled(1)


@pytest.mark.parametrize("name", FISHERS)
@pytest.mark.parametrize("by", [1e20, 1e-25, 1e-20])
def test_weights_that_cannot_be_squared_are_refused(by, name):
    model = scaled(by)
    with pytest.raises(NumericalError, match=r"unembedding's weights.*float32.*float64"):
        ts.attribute(model, IDS, FISHERS[name])
    for call in (components, lambda *a: flow(*a, 1), head_paths):
        with pytest.raises(NumericalError, match="beyond the range"):
            call(model, IDS, FISHERS[name])
    with pytest.raises(NumericalError, match="beyond the range"):
        fisher_spectrum(model, [IDS])


def test_products_that_are_beyond_the_range_are_refused_too():
    """F itself, where its trace is finite still."""
    model = scaled(1)
    with torch.no_grad():
        model.W_U[:, 9] = 1e19
    for name in ("leading", "full", "share"):
        try:
            found = ts.attribute(model, IDS, FISHERS[name])
        except NumericalError:
            continue
        assert torch.isfinite(found.scores).all() and found.fisher.trace < float("inf")


def test_what_needs_no_squares_is_right(tmp_path):
    for by in (1e20, 1e-25):
        for scope in (ts.SemanticScope(5), ts.LogitDifferenceScope(5, 6)):
            found = ts.attribute(scaled(by), IDS, scope)
            right = ts.attribute(plain(), IDS, scope).scores
            assert torch.allclose(found.scores / by, right, rtol=1e-4)
            ts.Attribution.load(found.save(tmp_path / "file"))
    # In double they can be squared; scores are in float32, which holds the squares of 1e-10.
    found = ts.attribute(scaled(1e-10, torch.float64), IDS, FISHERS["full"])
    again = ts.attribute(scaled(1e-12, torch.float64), IDS, FISHERS["full"])
    assert torch.allclose(found.scores, again.scores * 1e4, rtol=1e-3)
    assert found.fisher.trace == pytest.approx(again.fisher.trace * 1e4, rel=1e-3)


def test_an_unembedding_of_zeros_has_no_information():
    found = ts.attribute(scaled(0), IDS, FISHERS["full"])
    assert found.fisher.trace == 0 and not found.scores.any()


@pytest.mark.parametrize("gain", [1e25, 1e-25])
def test_a_final_state_that_cannot_be_squared(gain):
    found = ts.attribute(scaled(1 / gain, gain=gain), IDS, ts.TemperatureScope())
    right = ts.attribute(plain(), IDS, ts.TemperatureScope()).scores
    assert torch.allclose(found.scores / gain, right, rtol=1e-4)


# --- half of a surrogate pair ---


def test_tables_of_text_that_no_file_can_hold(tmp_path):
    """It shows as the letters of its escape."""
    texts = ("<bos>", "a", "caf\ud83d", "d", "e", "f")
    one = attribution(str_tokens=texts, sites=("embed", "\udfff"))
    found = one.to_frame()
    assert found["token"][2] == "caf\\ud83d" and found["site"].iloc[-1] == "\\udfff"
    model = plain()
    made = [
        *(one, sequence(str_tokens=texts), one.group([(1, 3)])),
        components(model, IDS, ts.SemanticScope(5)),
        flow(model, IDS, ts.SemanticScope(5), 1),
        head_paths(model, IDS, ts.SemanticScope(5)),
        verify(model, IDS, ts.attribute(model, IDS, ts.SemanticScope(5)), steps=[1]),
    ]
    for result in made:
        odd = {"str_tokens": ("\ud83d",) * len(result.str_tokens)}
        odd |= {"labels": ("\ud83d",) * len(result.labels)} if hasattr(result, "labels") else {}

        result = dataclasses.replace(result, **odd)
        result.to_frame().to_parquet(tmp_path / "table")
        assert type(result).load(result.save(tmp_path / "file")).str_tokens == result.str_tokens


def test_a_card_of_errors_that_no_file_can_hold(tmp_path):
    made = card(METHODS[:2], prompts=3, failed={1: "TypeError: x"})
    texts = [text.replace("x", "\ud83d") for text in made.rows["error"]]
    rows = made.rows.assign(error=pd.Series(texts, dtype=object))
    made = dataclasses.replace(made, rows=rows)
    assert set(made.failures()["error"]) == {"TypeError: \\ud83d"}
    loaded = FaithfulnessCard.load(made.save(tmp_path / "card"))
    assert set(loaded.failures()["error"]) == {"TypeError: \\ud83d"}
    # As a prompt brings it into an error.
    made = faithfulness_card(
        plain(), [IDS, "The \ud800", IDS[1:]], [ts.SemanticScope()], randomised=False, stability=False,
        spectra=False,
    )  # fmt: skip
    assert len(made.failures()) == 1 and FaithfulnessCard.load(made.save(tmp_path / "card"))
