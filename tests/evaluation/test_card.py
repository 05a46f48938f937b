"""The faithfulness card: every measure and check in one call, each prompt under its own number."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.rankings import Given
from support.traces import PLAIN, model_state
from tl_scopes import baselines, errors
from tl_scopes.errors import NumericalError, ProcessedWeightsError, ScopesWarning
from tl_scopes.evaluation import (
    FaithfulnessCard,
    Settings,
    card,
    faithfulness_card,
    fisher_spectrum,
    input_stability,
    measure,
    randomisation,
)

C = ts.ContinuationScope
PROMPTS = [zoo.LONG_TEXT, "", "The cat sat on the mat", zoo.TEXT]
WHOLE = [0, 2, 3]
METHODS = {
    "semantic": ts.SemanticScope(),
    "gradient": baselines.InputXGradient(),
    "position": Given(tuple(float(t) for t in range(40))),
}


@pytest.fixture(scope="module", params=PLAIN)
def made(request) -> tuple[object, FaithfulnessCard]:
    model = zoo.shared(request.param)
    return model, faithfulness_card(model, PROMPTS, METHODS, progress=False)


def test_it_holds_what_its_parts_give(made):
    model, card = made
    assert card.methods == tuple(METHODS) and card.prompts == len(PROMPTS)
    whole = [PROMPTS[i] for i in WHOLE]
    depths = (0.25, 0.5, 1.0)
    for name, frame in {
        "randomisation": randomisation(model, whole, METHODS, depths=depths),
        "stability": input_stability(model, whole, METHODS),
        "spectra": fisher_spectrum(model, whole, top=zoo.D_MODEL),
    }.items():
        own = getattr(card, name)
        assert list(own["index"]) == [WHOLE[i] for i in frame["index"]]
        for column in ("similarity", "spearman", "eigenvalue"):
            if column in frame:
                assert list(own[column]) == pytest.approx(list(frame[column]), nan_ok=True)
    rows = measure(model, PROMPTS, METHODS, Settings(leave_one_out="zero", matched=1))
    assert len(card.rows) == len(rows)
    told = {
        (r["index"], r["method"], r["metric"], str(r["fraction"])): r["value"]
        for r in card.rows.to_dict("records")
    }
    for row in rows:
        key = (row["index"], row["method"], row["metric"], str(row["fraction"]))
        assert told[key] == pytest.approx(row["value"], rel=1e-5, abs=1e-6, nan_ok=True)


AFTER = [[9, 5], [3], "", [7, 5, 3]]
ANSWERING = {
    "whole": C(),
    "against": C(versus=[8]),
    "product": baselines.InputXGradient(C()),
    "first": ts.SemanticScope(ts.NEXT_TOKEN),
}


@pytest.mark.parametrize("name", PLAIN)
def test_whole_answers_are_measured_and_checked(name):
    """Each prompt by its own: as of methods that name the continuation, one prompt at a time."""
    model, settings = zoo.shared(name), Settings((0.2, 0.5), leave_one_out="zero")
    amounts = dict(randomised=[1, 2], stability=2, spectra=False, progress=False)
    card = faithfulness_card(
        model, PROMPTS, ANSWERING, settings=settings, continuations=AFTER, **amounts
    )
    assert card.settings["target"] == "continuation"
    page = card.to_markdown()
    assert "log-probability of the measured continuation" in page and "| continuation |" in page
    told = card.failures().set_index("index")["error"]
    assert "EmptyPromptError" in told[1] and "continuation is empty" in told[2]
    for i in (0, 3):
        fixed = {
            "whole": C(AFTER[i]),
            "against": C(AFTER[i], [8]),
            "product": baselines.InputXGradient(C(AFTER[i])),
            "first": ts.SemanticScope(AFTER[i][0]),
        }
        alone, own = [PROMPTS[i]], dict(continuations=[AFTER[i]])
        rows = measure(model, alone, fixed, settings, **own)
        wanted = {(r["method"], r["metric"], str(r["fraction"])): r["value"] for r in rows}
        for row in card.subset([i]).rows.to_dict("records"):
            key = row["method"], row["metric"], str(row["fraction"])
            assert row["value"] == pytest.approx(wanted[key], rel=1e-4, abs=1e-5, nan_ok=True)
        for frame, made, column in (
            (card.randomisation, randomisation(model, alone, fixed, depths=[1, 2]), "similarity"),
            (card.stability, input_stability(model, alone, fixed, draws=2), "change"),
        ):
            got = frame[frame["index"] == i][column]
            assert list(got) == pytest.approx(list(made[column]), rel=1e-4, abs=1e-5)


def test_continuations_that_cannot_be_measured_are_refused_before_anything_is(monkeypatch):
    monkeypatch.setattr(card, "measure", lambda *a, **k: pytest.fail("it was measured"))
    model = zoo.shared(PLAIN[-1])
    for error, given in {
        "2 for 4 prompts": dict(continuations=AFTER[:2]),
        "one text": dict(continuations="word"),
        "name the continuations": {},
        "drop these": dict(continuations=AFTER, settings=Settings(position=-2)),
    }.items():
        with pytest.raises(errors.ScopesError, match=error):
            faithfulness_card(model, PROMPTS, ANSWERING, **given)


@pytest.mark.wrong_types
@pytest.mark.parametrize("given", [dict(enumerate(AFTER)), 4, {"word"}])
def test_continuations_that_are_no_list_are_refused(given):
    with pytest.raises(errors.LengthMismatchError, match=f"is a {type(given).__name__} for"):
        faithfulness_card(zoo.shared(PLAIN[-1]), PROMPTS, ANSWERING, continuations=given)


def test_a_map_that_ignores_the_model_fails(made):
    _, card = made
    verdicts = card.verdicts().set_index("method")
    assert verdicts.loc["position", "verdict"] == "fail"
    assert verdicts.loc["position", "similarity"] == 1


def test_the_prompt_that_failed_is_shown(made):
    _, card = made
    failures = card.failures()
    assert list(failures["index"]) == [1]
    assert "EmptyPromptError" in failures["error"][0]
    assert set(card.to_frame()["failed"]) == {1}


def test_checks_can_be_left_out():
    model = zoo.shared(PLAIN[-1])
    measure(model, PROMPTS[:1], METHODS)
    before = model_state(model)
    without = dict(randomised=False, stability=False, spectra=False)
    methods = {**METHODS, "mine": ts.rules.GIM().on(ts.SemanticScope())}
    card = faithfulness_card(
        model, PROMPTS, methods, settings=Settings(), reference="semantic", **without
    )
    assert card.settings["rules"] == "mine: GIM" and "mine: GIM" in card.to_markdown()
    assert card.randomisation is None and card.stability is None and card.spectra is None
    assert set(card.comparisons("semantic")["method"]) == {"gradient", "position", "mine"}
    assert model_state(model) == before


def test_how_much_of_each():
    amounts = dict(randomised=[1, 3], stability=2, spectra=5)
    card = faithfulness_card(zoo.shared(PLAIN[-1]), PROMPTS[2:], METHODS, **amounts)
    assert set(card.randomisation["depth"]) == {1, 3}
    assert set(card.stability["draw"]) == {0, 1}
    assert card.spectra["k"].max() == 5


@pytest.mark.skipif(
    "hooked/llama" not in zoo.names(), reason="no HookedTransformer in this version"
)
@pytest.mark.parametrize(
    "given",
    [{"methods": [ts.TemperatureScope()], "spectra": False}, {"methods": [ts.SemanticScope()]}],
    ids=["a method", "the spectra"],
)
def test_what_processed_weights_cannot_have_is_refused_before_anything_is_measured(
    given, monkeypatch
):
    model = zoo.build("hooked/llama", torch.float32)
    model.process_weights_(fold_ln=True, center_unembed=False, center_writing_weights=False)
    monkeypatch.setattr(card, "measure", lambda *a, **k: pytest.fail("it was measured"))
    with pytest.raises(ProcessedWeightsError):
        faithfulness_card(model, PROMPTS[2:3], **given)


def test_a_check_without_numbers_does_not_take_the_others_with_it(monkeypatch):
    def failing(*args, **kwargs):
        raise NumericalError("NaN at token 3")

    monkeypatch.setattr(card, "randomisation", failing)
    with pytest.warns(ScopesWarning, match="no random blocks: NaN at token 3"):
        made = faithfulness_card(zoo.shared(PLAIN[-1]), PROMPTS[2:3], METHODS, spectra=5)
    assert made.randomisation is None and len(made.stability) and len(made.spectra)
