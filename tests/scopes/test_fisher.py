"""The Fisher information of a next-token distribution against its textbook formula in float64."""

from __future__ import annotations

import pytest
import torch

from tl_scopes.adapter.unembedding import Unembedding
from tl_scopes.scopes.fisher import FisherGeometry, smallest_rank

D_MODEL, D_VOCAB = 64, 3000
TRANSFORMS = {"none": None, "soft-cap": lambda z: 3 * torch.tanh(z / 3), "scale": lambda z: z / 4}


def weights(seed: int = 0, d_vocab: int = D_VOCAB) -> torch.Tensor:
    """Columns with a common mean and a decaying spectrum, as unembeddings have."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.linspace(0, -2, D_MODEL, dtype=torch.float64).exp()[:, None]
    turn = torch.linalg.qr(
        torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
    ).Q
    return (
        turn @ (spectrum * torch.randn(D_MODEL, d_vocab, generator=generator, dtype=torch.float64))
        + 1.0
    )


def logits(kind: str, d_vocab: int = D_VOCAB) -> torch.Tensor:
    raw = torch.randn(d_vocab, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if kind == "confident":
        raw[17] = torch.logsumexp(raw, 0) + 12.0
    return raw * {"flat": 0.1, "peaked": 3.0, "confident": 1.0}[kind]


def geometry(
    kind: str, dtype=torch.float64, transform=None, W_U: torch.Tensor | None = None
) -> FisherGeometry:
    W_U = weights() if W_U is None else W_U
    head = Unembedding(W_U.to(dtype), torch.zeros(W_U.shape[1], dtype=dtype), transform)
    return FisherGeometry.at(head, logits(kind, W_U.shape[1]).to(dtype))


def textbook(found: FisherGeometry, kind: str) -> torch.Tensor:
    """`W_U D (diag(p) - p p^T) D W_U^T` in float64, from the same rounded weights and logits."""
    W_U, dtype = found.head.W_U, found.head.W_U.dtype
    raw = logits(kind, W_U.shape[1]).to(dtype).double().requires_grad_()
    z = raw if found.head.transform is None else found.head.transform(raw)
    (slope,) = torch.autograd.grad(z.sum(), raw)
    p = torch.softmax(z.detach(), 0)
    w = W_U.double() * slope
    mu = w @ p
    return (w - mu[:, None]) * p @ (w - mu[:, None]).T


KINDS = pytest.mark.parametrize("kind", ["flat", "peaked", "confident"])


@KINDS
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_matrix_trace_and_product(kind, transform):
    found = geometry(kind, transform=TRANSFORMS[transform])
    F = textbook(found, kind)
    raw = logits(kind)
    z = raw if found.head.transform is None else found.head.transform(raw)
    p = torch.softmax(z, 0)
    second = (found.head.W_U * (1 if found.slope is None else found.slope)).double()
    uncentred = second * p @ second.T - torch.outer(second @ p, second @ p)
    scale = float(F.abs().max())
    torch.testing.assert_close(
        F, uncentred, rtol=0, atol=1e-12 * float((second * p @ second.T).abs().max())
    )
    torch.testing.assert_close(found.matrix(0.0), F, rtol=0, atol=1e-12 * scale)
    assert found.trace == pytest.approx(float(F.trace()), rel=1e-12)
    V = torch.randn(D_MODEL, 3, dtype=torch.float64)
    torch.testing.assert_close(found.apply(V), F @ V, rtol=0, atol=1e-10 * scale)


def test_confident_predictions_keep_their_digits_in_float32():
    """Where `S - mu mu^T` loses them: the reason why rows are centred first."""
    found = geometry("confident", torch.float32)
    assert found.p.max() > 0.9999
    F = textbook(found, "confident")
    exact = torch.linalg.eigvalsh(F).flip(0)
    w, p = found.head.W_U, found.p
    naive = w * p @ w.T - torch.outer(w @ p, w @ p)
    naive_error = (torch.linalg.eigvalsh(naive.double()).flip(0) / exact - 1).abs()
    assert naive_error[0] > 1e-4 and naive_error[:8].max() > 1e-3, (
        "these weights would not show the cancellation"
    )
    for values, _ in (found.leading(8), found.eigenpairs(0.0)):
        assert ((values[:8].double() / exact[:8] - 1).abs() < 1e-4).all()
    assert found.trace == pytest.approx(float(F.trace()), rel=1e-4)


@KINDS
@pytest.mark.parametrize("tail", [0.0, 1e-6, 1e-3, 0.1, 0.5])
def test_the_share_left_out_is_known_exactly(kind, tail):
    found = geometry(kind)
    tokens = found.heaviest(tail)
    F, part = textbook(found, kind), found.matrix(tail)
    left_out = float((F - part).trace()) / float(F.trace())
    assert left_out <= tail + 1e-12
    assert float(part.trace()) == pytest.approx(float(found.contributions[tokens].sum()), rel=1e-12)
    assert torch.linalg.eigvalsh(F - part)[0] > -1e-12 * float(F.trace())
    if tail > 0:  # the fewest tokens: one less would leave out too much
        assert left_out + float(found.contributions[tokens[-1]]) / found.trace > tail - 1e-12
        assert tail < 1e-3 or len(tokens) < D_VOCAB
    assert (found.contributions[tokens].diff() <= 0).all()


@KINDS
@pytest.mark.parametrize("tail", [0.0, 1e-3, 0.1])
def test_eigenpairs_are_those_of_the_matrix(kind, tail):
    found = geometry(kind)
    values, vectors = found.eigenpairs(tail)
    F = found.matrix(tail)
    assert (values.diff() <= 0).all() and (values > 0).all()
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(len(values), dtype=torch.float64))
    torch.testing.assert_close(
        vectors.T @ (values[:, None] * vectors), F, rtol=0, atol=1e-12 * float(values[0])
    )


def check_leading(found: FisherGeometry, F: torch.Tensor, k: int) -> None:
    """The k largest eigenvalues, and orthonormal vectors that belong to them, to the dtype's resolution."""
    exact, exact_vectors = (x.flip(-1) for x in torch.linalg.eigh(F))
    values, vectors = (x.double() for x in found.leading(k))
    tolerance = 1e-5 if found.p.dtype == torch.float32 else 1e-9
    assert values.shape == (k,) and vectors.shape == (k, D_MODEL)
    torch.testing.assert_close(values, exact[:k], rtol=0, atol=tolerance * float(exact[0]))
    torch.testing.assert_close(
        vectors @ vectors.T, torch.eye(k, dtype=torch.float64), rtol=0, atol=tolerance
    )
    residual = F @ vectors.T - vectors.T * values
    assert torch.linalg.vector_norm(residual, dim=0).max() < tolerance * exact[0]
    # What scores are made of, wherever the rank does not cut through nearly equal eigenvalues.
    if exact[k - 1] - exact[min(k, D_MODEL - 1)] > 1e-2 * exact[0] or k == D_MODEL:
        kept = exact_vectors[:, :k] * exact[:k] @ exact_vectors[:, :k].T
        got = vectors.T @ (values[:, None] * vectors)
        torch.testing.assert_close(got, kept, rtol=0, atol=200 * tolerance * float(exact[0]))


@KINDS
@pytest.mark.parametrize("k", [1, 2, 4, 12, 13, 40, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("transform", [None, "soft-cap"])
def test_leading_eigenpairs(kind, k, dtype, transform):
    found = geometry(kind, dtype, TRANSFORMS.get(transform))
    check_leading(found, textbook(found, kind), k)


def uniform(spectrum: torch.Tensor, dtype: torch.dtype) -> FisherGeometry:
    """All tokens equally likely, and an `F` with exactly these eigenvalues."""
    generator = torch.Generator().manual_seed(4)
    columns = torch.randn(D_VOCAB, D_MODEL, generator=generator, dtype=torch.float64)
    columns = torch.linalg.qr(columns - columns.mean(0)).Q
    turn = torch.linalg.qr(
        torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
    ).Q
    W_U = turn @ ((D_VOCAB * spectrum)[:, None].sqrt() * columns.T)
    head = Unembedding(W_U.to(dtype), torch.zeros(D_VOCAB, dtype=dtype))
    return FisherGeometry.at(head, torch.zeros(D_VOCAB, dtype=dtype))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-4, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nearly_equal_eigenvalues(k, gap, dtype):
    spectrum = 1 - gap * torch.arange(D_MODEL, dtype=torch.float64)
    spectrum[8:] *= 0.3
    found = uniform(spectrum, dtype)
    w = found.head.W_U.double()
    w = w - w.mean(1, keepdim=True)
    check_leading(found, w @ w.T / D_VOCAB, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("k", [1, 4, 8, 12])
def test_a_direction_of_unlikely_tokens_alone_is_found(k, dtype):
    """Many unlikely tokens share a direction that no likely token has, and hold less than 1% of the trace."""
    generator = torch.Generator().manual_seed(6)
    W_U = torch.zeros(D_MODEL, D_VOCAB, dtype=torch.float64)
    spectrum = 0.5 ** torch.arange(60, dtype=torch.float64).clamp_max(9) - 1e-5 * torch.arange(60)
    half = spectrum[:, None].sqrt() * torch.randn(60, 250, generator=generator, dtype=torch.float64)
    W_U[:60, :500] = torch.cat(
        [half, -half], 1
    )  # the mean is zero, so that nothing ties the two groups together
    W_U[62, 500:] = 3.0 * (-1.0) ** torch.arange(D_VOCAB - 500)
    raw = torch.zeros(D_VOCAB, dtype=torch.float64)
    raw[500:] -= torch.tensor(5 * 2500 / 500 * 200.0).log()
    head = Unembedding(W_U.to(dtype), torch.zeros(D_VOCAB, dtype=dtype))
    found = FisherGeometry.at(head, raw.to(dtype))
    p = torch.softmax(raw, 0)
    w = W_U - (W_U @ p)[:, None]
    F = w * p @ w.T
    assert F[62, 62] > torch.linalg.eigvalsh(F[:62, :62])[-9]
    check_leading(found, F, k)


def test_a_certain_prediction_has_no_information():
    head = Unembedding(weights(), torch.zeros(D_VOCAB, dtype=torch.float64))
    raw = torch.zeros(D_VOCAB, dtype=torch.float64)
    raw[5] = 1e4
    found = FisherGeometry.at(head, raw)
    assert found.trace == 0
    values, vectors = found.leading(3)
    assert values.abs().max() == 0 and vectors.isfinite().all()
    assert found.eigenpairs(1e-6)[0].numel() == 0
    assert found.sample(2, torch.Generator().manual_seed(0), "normal").abs().max() == 0


@KINDS
@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
@pytest.mark.parametrize("transform", [None, "soft-cap"])
def test_samples_have_covariance_f(kind, distribution, transform):
    n = 6000
    W_U = weights(d_vocab=200)
    found = geometry(kind, transform=TRANSFORMS.get(transform), W_U=W_U)
    g = found.sample(n, torch.Generator().manual_seed(2), distribution)
    F = textbook(found, kind)
    assert g.shape == (n, D_MODEL)
    if kind == "confident" and distribution == "normal":
        return  # a single token's square carries it: the mean of 6,000 is no test
    error = torch.linalg.matrix_norm(g.T @ g / n - F) / torch.linalg.matrix_norm(F)
    assert error < 0.15
    again = found.sample(n, torch.Generator().manual_seed(2), distribution)
    assert torch.equal(g, again)


def test_smallest_rank():
    values = torch.tensor([4.0, 3.0, 2.0, 1.0])
    shares = [0.1, 0.4, 0.41, 0.7, 0.71, 0.9, 0.95, 1.0]
    assert [smallest_rank(values, 10.0, share) for share in shares] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert smallest_rank(values, 20.0, 0.9) == 4, "all of them where none of the shares is reached"
