"""Cascading randomisation: which maps it catches, what it draws, and that the model is itself again afterwards."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import real_models, zoo
from support.rankings import Embedding, FailsLater, Given
from support.traces import each_class, lived_in, untouched
from support.weights import changed, places, values
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines import AttentionRollout, InputXGradient, Random
from tl_scopes.evaluation import sanity
from tl_scopes.evaluation.sanity import randomisation, randomised
from tl_scopes.results.card import verdicts

TEXTS = [zoo.LONG_TEXT, "The dog is not on the mat and Mary sat in Berlin", "John sat on a cat"]
UNLIKE = ("gpt2", "bloom", "gemma3", "mixtral", "olmo2", "native", "attn-only-no-norm")
SCOPES = [ts.SemanticScope(), ts.TemperatureScope(), ts.FisherScope(), ts.FisherScope(rank="full")]


# Blind to the model: the same score everywhere or the place in the prompt; and of the input alone.
CONSTANT = Given((0.25,) * zoo.N_CTX)
BLIND = {
    "constant": CONSTANT,
    "place": Given(tuple(t / 7 for t in range(zoo.N_CTX))),
    "embedding": Embedding([]),
    "random": Random(),
}


@each_class
def test_maps_blind_to_the_model_fail_and_scopes_pass(name):
    methods = BLIND | {str(scope): scope for scope in (*SCOPES, InputXGradient())}
    frame = randomisation(zoo.shared(name), TEXTS, methods, depths=[1, 3])
    assert list(frame.columns) == ["index", "method", "depth", "blocks", "similarity", "overlap"]
    assert len(frame) == 3 * 9 * 2 and set(frame["blocks"]) == {"2", "0-2"}
    verdict = verdicts(frame).set_index("method")
    for method in BLIND:
        own = frame[frame["method"] == method]
        assert (own["similarity"] == 1).all() and (own["overlap"] == 1).all()
        assert verdict.loc[method, "verdict"] == "fail"
    assert (verdict["depth"] == 3).all()
    assert "fail" not in set(verdict.drop(list(BLIND))["verdict"])


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.split("/")[1] in UNLIKE])
def test_scopes_change_with_the_blocks(name):
    methods = [ts.SemanticScope(5), Embedding([])]
    shown = randomisation(zoo.shared(name), TEXTS, methods, depths=[3])
    found = shown.groupby("method")["similarity"].mean()
    assert found["embedding"] == 1 and found["semantic(target=5)"] < 0.95


@each_class
def test_similarity_is_that_of_separate_calls(name):
    from scipy.stats import spearmanr

    model = zoo.shared(name)
    scopes = [ts.SemanticScope(), ts.LogitDifferenceScope(None, 9)]
    frame = randomisation(model, TEXTS, scopes, seed=3)
    for index, text in enumerate(TEXTS):
        top = ts.attribute(model, text, ts.SemanticScope()).target.id
        for scope in (ts.SemanticScope(top), ts.LogitDifferenceScope(top, 9)):
            a = ts.attribute(model, text, scope).scores[0, 1:]
            for depth in (1, 2, 3):
                with randomised(view_of(model), range(3 - depth, 3), seed=3):
                    b = ts.attribute(model, text, scope).scores[0, 1:]
                row = frame.query(f"index == {index} and depth == {depth}")
                got = row[row["method"].str.startswith(scope.name)]["similarity"].item()
                assert got == pytest.approx(spearmanr(a, b).statistic)


@each_class
def test_half_precision(name):
    model = zoo.build(name).to(torch.bfloat16)
    model.cfg.dtype = torch.bfloat16
    before, kept = places(model), values(model)
    frame = randomisation(model, TEXTS[:1], [ts.SemanticScope(), CONSTANT], depths=[3])
    assert frame["similarity"].tolist()[0] < 1 and frame["similarity"].tolist()[1] == 1
    assert places(model) == before and not changed(model, kept)


@each_class
@pytest.mark.wrong_types
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_a_method_leaves_no_trace(name, error):
    model = lived_in(name)
    before, kept = places(model), values(model)
    with untouched(model), pytest.raises(type(error)):
        randomisation(model, [zoo.TEXT], [FailsLater([], error), ts.SemanticScope()])
    assert places(model) == before and not changed(model, kept)


@each_class
def test_facts_that_the_package_remembers_stay_right(name):
    model = zoo.build(name)
    fresh = [ts.attribute(zoo.build(name), zoo.TEXT, scope).scores for scope in SCOPES]
    with randomised(view_of(model), range(3)):  # its first use, head and MLP learnt meanwhile
        ts.attribute_batch(model, TEXTS, ts.FisherScope())
    for scope, wanted in zip(SCOPES, fresh):
        torch.testing.assert_close(ts.attribute(model, zoo.TEXT, scope).scores, wanted)


def test_depths():
    assert sanity.parse_depths([0.25, 0.5, 1.0], 18) == [5, 9, 18]  # as published, by quarters
    for depth, n in ((0.9, 10), (0.8, 10), (0.9, 30), (0.8, 40), (0.7, 90)):  # no float is these
        assert sanity.parse_depths([depth], n) == [round(depth * n)]
    assert sanity.parse_depths([0.25, 0.5, 1.0], 30) == [8, 15, 30]
    assert sanity.parse_depths([3, 1, 3], 4) == [1, 3]
    assert sanity.parse_depths(None, 2) == [1, 2]


def test_a_single_token_says_nothing():
    frame = randomisation(zoo.shared(zoo.names()[0]), [[0, 9]], [ts.TemperatureScope()], depths=[3])
    assert frame["similarity"].isna().all()
    assert set(verdicts(frame)["verdict"]) == {"undecided"}


@pytest.mark.real("gemma-3-270m")
def test_scopes_of_a_real_model_pass_and_attention_does_not():
    model = real_models.shared("gemma-3-270m")
    texts = [
        "The old lighthouse keeper walked down to the shore every evening to watch the boats come",
        "Rain had fallen on the village for three days, and the river stood higher than ever",
    ]
    frame = randomisation(model, texts, [*SCOPES[:3], AttentionRollout(), Random()], depths=[1.0])
    assert verdicts(frame).set_index("method")["verdict"].to_dict() == {
        "semantic": "pass", "temperature": "pass", "fisher": "pass",
        "attention_rollout": "fail", "random": "fail",
    }  # fmt: skip
