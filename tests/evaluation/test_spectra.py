"""Spectra of the Fisher information against a dense eigenproblem in float64."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

import tl_scopes as ts
from support import reference, zoo, zoo_unfit
from support.reference import POSITION, TOKENS
from support.traces import each_class, lived_in, untouched
from tl_scopes.errors import (
    NumericalError,
    ProcessedWeightsError,
)
from tl_scopes.evaluation.spectra import fisher_spectrum, ranks_holding

FOLDED = {k: make for k, (effect, make) in zoo_unfit.processed().items() if effect == "folded"}
TEXTS = [zoo.LONG_TEXT, "John sat", zoo.TEXT]


@pytest.mark.parametrize("name", zoo.kinds())
def test_eigenvalues_are_those_of_the_dense_matrix(name):
    with zoo.exact_float64():
        F = reference.fisher_matrix(reference.of(name))
        found = fisher_spectrum(zoo.shared(name), [TOKENS], position=POSITION)
    wanted = torch.linalg.eigvalsh(F).flip(0)
    got = torch.tensor(found["eigenvalue"].to_numpy())
    n = len(got)
    assert wanted[n:].abs().max() <= 1e-12 * wanted[0] if n < len(wanted) else True
    torch.testing.assert_close(got, wanted[:n], rtol=1e-8, atol=1e-12 * float(wanted[0]))
    assert found["trace"].to_numpy() == pytest.approx(float(F.trace()), rel=1e-9)
    assert found["k"].tolist() == list(range(1, n + 1)) and set(found["index"]) == {0}
    shares = (wanted.cumsum(0) / wanted.sum())[:n]
    assert found["share"].to_numpy() == pytest.approx(shares.numpy(), rel=1e-9)


@each_class
def test_prompts_of_any_length_share_passes_and_equal_their_own(name):
    model = zoo.shared(name)
    found = fisher_spectrum(model, TEXTS, position=-2)
    for index, text in enumerate(TEXTS):
        own = fisher_spectrum(model, [text], position=-2)
        part = found[found["index"] == index].reset_index(drop=True)
        pd.testing.assert_frame_equal(part.drop(columns="index"), own.drop(columns="index"))


@each_class
def test_it_is_what_fisher_scopes_report(name):
    model = zoo.shared(name)
    found = fisher_spectrum(model, TEXTS, top=2)
    assert found.groupby("index").size().tolist() == [2, 2, 2]
    for index, text in enumerate(TEXTS):
        info = ts.attribute(model, text, ts.FisherScope(rank=2)).fisher
        own = found[found["index"] == index]
        assert info is not None
        assert own["eigenvalue"].tolist() == pytest.approx(list(info.eigenvalues), rel=1e-6)
        assert own["share"].iloc[-1] == pytest.approx(info.share)
        assert own["trace"].iloc[0] == pytest.approx(info.trace)


@each_class
def test_the_unlikeliest_tokens_may_be_left_out(name):
    model = zoo.shared(name)
    whole, part = (fisher_spectrum(model, [zoo.TEXT], tail=tail) for tail in (0.0, 0.05))
    assert 0.95 <= part["share"].iloc[-1] < 1 - 1e-6
    assert part["trace"].iloc[0] == whole["trace"].iloc[0]
    for k in range(1, 4):
        gap = float(whole["eigenvalue"].iloc[k - 1] - part["eigenvalue"].iloc[k - 1])
        assert -1e-12 <= gap <= 0.05 * float(whole["trace"].iloc[0])


@each_class
def test_ranks_holding_a_share(name):
    model = zoo.shared(name)
    frame = fisher_spectrum(model, TEXTS)
    found = ranks_holding(frame, (0.5, 0.9, 1e-6))
    assert found.columns.tolist() == ["index", "share", "k"] and len(found) == 9
    for _, row in found.iterrows():
        scope = ts.FisherScope(rank=1e-6 if row["share"] < 1e-3 else float(row["share"]))
        info = ts.attribute(model, TEXTS[int(row["index"])], scope).fisher
        assert info is not None and row["k"] == len(info.eigenvalues)
    short = ranks_holding(fisher_spectrum(model, [zoo.TEXT], top=1), [0.01, 0.999999])
    assert short["k"].iloc[0] == 1 and math.isnan(short["k"].iloc[1])


@pytest.mark.parametrize("label", FOLDED)
def test_processed_weights_are_refused(label):
    with pytest.raises(ProcessedWeightsError, match="raw weights"):
        fisher_spectrum(FOLDED[label](), [zoo.TEXT])


@each_class
@pytest.mark.wrong_types
def test_it_leaves_no_trace_and_minds_hooks_of_the_users(name):
    model = lived_in(name)
    with untouched(model):
        plain = fisher_spectrum(model, TEXTS)
    hook = ("blocks.1.hook_resid_pre", lambda a, hook: 2 * a if a.shape[:2] == (1, 3) else a)
    with model.hooks([hook]):  # of the second prompt, which must come alone and unpadded
        edited = fisher_spectrum(model, TEXTS)
    same = [a.equals(b) for (_, a), (_, b) in zip(plain.groupby("index"), edited.groupby("index"))]
    assert same[1] is False and model.to_tokens(TEXTS[1]).shape == (1, 3)


def test_nan_is_named():
    model = zoo.build(zoo.names()[0])
    model.blocks[1].mlp.W_in.data[0, 0] = math.nan
    with pytest.raises(NumericalError, match=r"appears in the activation at resid\(2\)"):
        fisher_spectrum(model, TEXTS)


def test_a_certain_prediction_has_no_spectrum():
    model = zoo.build(zoo.names()[0])
    model.unembed.b_U.data[3] = 1e4
    found = fisher_spectrum(model, [zoo.TEXT])
    assert found.empty and ranks_holding(found).empty
    assert found.columns.tolist() == ["index", "k", "eigenvalue", "share", "trace"]
