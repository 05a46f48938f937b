"""What low-rank Fisher leaves out of a large vocabulary, and how much that is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import tl_scopes as ts
from support import zoo
from tl_scopes.adapter.unembedding import Unembedding
from tl_scopes.results.records import Token
from tl_scopes.scopes.base import Read
from tl_scopes.scopes.eigen import extended, krylov
from tl_scopes.scopes.fisher import FisherGeometry

D_MODEL, D_VOCAB = 64, 12_000


def head(dtype=torch.float32, d_vocab: int = D_VOCAB, transposed: bool = False) -> Unembedding:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.linspace(0, -2, D_MODEL, dtype=torch.float64).exp()[:, None]
    W = spectrum * torch.randn(D_MODEL, d_vocab, generator=generator, dtype=torch.float64) + 0.3
    W = W.to(dtype)
    return Unembedding(W.T.contiguous().T if transposed else W, torch.zeros(d_vocab, dtype=dtype))


def raw_logits(d_vocab: int = D_VOCAB) -> torch.Tensor:
    """A few likely tokens and a long tail."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(d_vocab, generator=generator, dtype=torch.float64)
    return noise - 1.5 * torch.arange(1, d_vocab + 1, dtype=torch.float64).log()


def textbook(found: Unembedding, raw: torch.Tensor) -> torch.Tensor:
    p = torch.softmax(raw.double(), 0)
    w = found.W_U.double()
    w = w - (w @ p)[:, None]
    return w * p @ w.T


def explained(scope: ts.FisherScope, found: Unembedding, raw: torch.Tensor):
    y = torch.zeros(D_MODEL, dtype=found.W_U.dtype)
    return scope.explain(Read(y, raw.to(found.W_U.dtype), found, lambda t: Token(0, ""), None))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_by_default_less_than_a_ten_thousandth_is_left_out(k, transposed):
    found, raw = head(transposed=transposed), raw_logits()
    exact = torch.linalg.eigvalsh(textbook(found, raw)).flip(0)
    trace = float(exact.sum())
    got = explained(ts.FisherScope(rank=k), found, raw)
    assert got.fisher is not None and 0 < got.fisher.left_out <= 1e-4
    assert got.fisher.trace == pytest.approx(trace, rel=1e-5)
    values = torch.tensor(got.fisher.eigenvalues, dtype=torch.float64)
    assert (values <= exact[:k] + 1e-6 * trace).all()
    assert (exact[:k] - values <= got.fisher.left_out * trace + 1e-6 * trace).all()
    assert got.fisher.share == pytest.approx(float(values.sum()) / trace, rel=1e-5)


def test_pictures_say_what_is_left_out():
    from tl_scopes.render.picture import about, build

    fisher = explained(ts.FisherScope(rank=2), head(), raw_logits()).fisher
    model = zoo.shared(zoo.names()[0])
    found = ts.attribute(model, zoo.TEXT, ts.FisherScope(rank=2))
    picture = build(found)
    (line,) = about(picture, picture.rows[0])
    assert "left out" not in line
    picture = build(dataclasses.replace(found, fisher=fisher))
    (line,) = about(picture, picture.rows[0])
    assert line.endswith("; unlikely tokens that hold <0.1% of it are left out.")


WHOLE = {
    "tail=0": (ts.FisherScope(rank=2, tail=0), {}),
    "float64": (ts.FisherScope(rank=2), dict(dtype=torch.float64)),
    "few tokens": (ts.FisherScope(rank=2), dict(d_vocab=8192)),
    "samples": (ts.FisherScope(rank=2, samples=2), {}),
    "full": (ts.FisherScope(rank="full"), {}),
    "share": (ts.FisherScope(rank=0.5), {}),
}


@pytest.mark.parametrize("case", WHOLE)
def test_nothing_is_left_out_where_it_matters_or_on_request(case):
    scope, kind = WHOLE[case]
    found = head(**kind)
    raw = raw_logits(found.d_vocab)
    got = explained(scope, found, raw)
    assert got.fisher is not None and got.fisher.left_out == 0
    exact = torch.linalg.eigvalsh(textbook(found, raw)).flip(0)
    top = torch.tensor(got.fisher.eigenvalues[:2], dtype=torch.float64)
    torch.testing.assert_close(top, exact[: len(top)], rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("tail", [0.3, 1e-2, 1e-5])
def test_leading_pairs_with_a_tail_are_those_of_that_matrix(k, tail):
    geometry = FisherGeometry.at(head(torch.float64), raw_logits())
    values, vectors = geometry.leading(k, tail)
    tokens = geometry.kept(tail)  # none is left out where these are nearly all
    F = geometry.matrix(tail if tokens is not None else 0.0)
    exact = torch.linalg.eigvalsh(F).flip(0)
    torch.testing.assert_close(values, exact[:k], rtol=1e-9, atol=0)
    residual = F @ vectors.T - vectors.T * values
    assert float(residual.norm()) < 1e-9 * float(exact[0])
    assert geometry.share_of(tokens) == pytest.approx(
        float(F.trace() / textbook(geometry.head, raw_logits()).trace()), rel=1e-9
    )
    assert geometry.share_of(None) == 1


@pytest.mark.parametrize("n, rank", [(40, 30), (10, 10), (3, 3), (1, 1)])
def test_lanczos_finds_what_few_rows_span(n, rank):
    """Also where there are fewer directions than were asked for."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(n, 30, generator=generator, dtype=torch.float64)
    rows = torch.nn.functional.pad(rows, (0, 90))
    start = torch.randn(5, 120, generator=generator, dtype=torch.float64)
    found = krylov(rows, start, 2, 1e-12)
    torch.testing.assert_close(found @ found.T, torch.eye(len(found), dtype=torch.float64))
    values, vectors = (x.flip(-1) for x in torch.linalg.eigh(rows.T @ rows))
    for i in range(min(2, rank)):
        assert abs(float(found[i] @ vectors[:, i])) == pytest.approx(1, abs=1e-9)
        assert float(found[i] @ rows.T @ rows @ found[i]) == pytest.approx(float(values[i]))


def test_extending_drops_what_is_there_already():
    generator = torch.Generator().manual_seed(1)
    V = torch.linalg.qr(torch.randn(20, 4, generator=generator, dtype=torch.float64)).Q.T
    new = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    added = extended(V, torch.cat([V[:2] * 1e6, new, new[:1] - 3 * V[1:2], torch.zeros(1, 20)]))
    assert added.shape == (2, 20)
    both = torch.cat([V, added])
    torch.testing.assert_close(both @ both.T, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close((new @ both.T) @ both, new)
    assert not len(extended(V, V * 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("kind", ["random", "decaying"])
def test_a_flat_prediction_costs_few_passes_and_says_what_they_reached(kind, k, dtype, monkeypatch):
    """Random columns have leading eigenvalues that are hardly told apart; trained ones are found."""
    generator = torch.Generator().manual_seed(0)
    W = 0.1 * torch.randn(256, 12_000, generator=generator, dtype=torch.float64)
    if kind == "decaying":
        W *= 4 * torch.arange(1, 257, dtype=torch.float64)[:, None] ** -0.5
    found = Unembedding(W.to(dtype), torch.zeros(12_000, dtype=dtype))
    raw = 0.5 * torch.randn(12_000, generator=generator, dtype=torch.float64)
    F = textbook(found, raw.float())
    exact = torch.linalg.eigvalsh(F).flip(0)
    passes = []
    apply = FisherGeometry.apply

    def counted(self, V, tokens=None):
        passes.append(V.shape[1])
        return apply(self, V, tokens)

    monkeypatch.setattr(FisherGeometry, "apply", counted)
    monkeypatch.setattr(FisherGeometry, "eigenpairs", lambda *_: pytest.fail("forms F"))
    geometry = FisherGeometry.at(found, raw.float())
    values, vectors, residual = geometry.estimate(k, 1e-4)
    assert len(passes) <= (3 if kind == "random" else 6)
    values, vectors = values.double(), vectors.double()
    true = torch.linalg.vector_norm(F @ vectors.T - vectors.T * values, dim=0).max() / exact[0]
    assert float(true) == pytest.approx(residual, rel=0.05, abs=3e-6)
    if kind == "random":
        assert 1e-3 < residual < 0.1
    else:
        assert residual <= (2e-6 if dtype == torch.float32 else 1e-4)
    # An eigenvalue lies within the residual of each one found, which none exceeds.
    assert (values <= exact[:k] * (1 + 1e-5)).all()
    assert (exact[:k] - values <= residual * exact[0] + 1e-5 * exact[0]).all()
