"""Figures that a reader can read: no text on another or cut off, at 5 tokens and at 200."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from support.infos import info
from support.pictures import attribution, fisher
from tl_scopes import render
from tl_scopes.results.records import Candidate, FisherInfo, Token

pytestmark = pytest.mark.teaching

WORDS = (
    "the old fisherman told every child in Aland that whales sing in a language older than any "
    "book , and nobody but Marta believed it . \n"
).split(" ")
LABELS = [
    "Integrated gradients from the mean embedding, 32 steps, with the norm of each token's part",
    "Integrated gradients from the mean embedding, 32 steps, with the signed sum of each token",
    "Fisher",
]
SIGNED = {
    "scope": info("input_x_gradient", {"reduce": "sum", "of": "logit"}),
    "units": "logit",
}
both = pytest.mark.parametrize("n", [5, 200])
grounds = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
scales = pytest.mark.parametrize("scale", ["linear", "log"])


@pytest.fixture
def readable(amiss):
    """Write a figure to a file, and fail on what is amiss."""

    def draw(figure, least):
        row = amiss(figure, dpi=80)
        assert row["texts"] >= least and not row["overlapping"] and not row["cut"]

    return draw


def scores(n: int, signed: bool, seed: int = 0) -> list[list[float]]:
    """Four decades of them, the largest at BOS."""
    rng = np.random.default_rng(seed)
    made = 10 ** rng.uniform(-4, 0, n) * (rng.choice([-1, 1], n) if signed else 1)
    made[0] = 20
    return [made.tolist()]


def prompt(n: int) -> tuple[str, ...]:
    return ("<bos>", *(f" {WORDS[i % len(WORDS)]}" for i in range(1, n)))


def result(n: int, signed: bool = False, seed: int = 0, **changes):
    kind = SIGNED if signed else {}
    return attribution(prompt(n), scores(n, signed, seed), **{**kind, **changes})


@both
@grounds
@scales
@pytest.mark.parametrize("signed", [False, True], ids=["plain", "signed"])
def test_series(readable, n, dark, scale, signed):
    tokens = ["<bos>", *(text for i in range(n) for text in (str(100 + i), ","))]
    made = scores(len(tokens), signed)
    errors = torch.tensor(made).abs() * 0.3
    own = attribution(tokens, made, standard_error=errors, **(SIGNED if signed else {}))
    options = {"marks": [1, 3], "forecast": {103: 0.5, 104: 0.25}, "actual": 107}
    values = [100 + i for i in range(n)]
    readable(render.series(own, values, scale=scale, dark=dark, **options), 12)


@both
@grounds
@scales
@pytest.mark.parametrize("kind", ["bars", "map"])
def test_compare(readable, n, dark, scale, kind):
    three = [result(n), result(n, True, 1), result(n, seed=2, units="nats per unit^2 of residual")]
    readable(render.compare(three, LABELS, kind=kind, scale=scale, dark=dark), n)


@both
@grounds
def test_compare_by_names_that_it_makes_itself(readable, n, dark):
    common = {"of": "log_prob", "steps": 32, "baseline": "zero", "rule": "gausslegendre"}
    scopes = [info("integrated_gradients", {**common, "reduce": x}) for x in ("norm", "sum")]
    two = [result(n, scope=scope, position=n - 1 - i) for i, scope in enumerate(scopes)]
    for kind in ("bars", "map"):
        readable(render.compare(two, kind=kind, dark=dark), n)


def spectrum(share: float, k: int, target: int):
    eigenvalues = np.geomspace(1, 0.05, k)
    info = FisherInfo(tuple(eigenvalues), float(eigenvalues.sum() / share), share)
    return dataclasses.replace(fisher(), fisher=info, target=Token(target, f" {target}"))


@both
@grounds
@pytest.mark.parametrize("lines", [1, 2, 4, 24])
def test_spectrum(readable, n, dark, lines):
    """Of rank `n`, with shares that are close, as those of one model's prompts are."""
    shown = [spectrum(0.7 + 0.01 * i, n, i) for i in range(lines)]
    readable(render.spectrum(shown, dark=dark), 12)


@both
@grounds
def test_prediction(readable, n, dark):
    long = " the_longest_token_that_a_vocabulary_holds_or_so_it_seems"
    top = tuple(Candidate(i, f"{long}{i}", 0.4 / 2**i) for i in range(10))
    for target in (Token(3, f"{long}3"), Token(99, long * 2)):
        one = result(n, prediction=top, target=target)
        tokens = (*one.str_tokens[:-1], long * 2)
        readable(render.prediction(dataclasses.replace(one, str_tokens=tokens), dark=dark), 20)
