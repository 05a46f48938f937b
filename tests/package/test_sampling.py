"""The benchmark of samples: variances against every choice of signs, or many draws."""

import itertools

import pytest
import torch

from benchmarks import sampling

D, K = 7, 2


@pytest.fixture(scope="module")
def m():
    """Two tokens' matrices, on axes along which F is diagonal, and rows whose outer products make F."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0]
    X = torch.randn(2, D, D, generator=generator, dtype=torch.float64)
    M = X @ X.mT
    values = torch.arange(D, 0, -1.0, dtype=torch.float64)
    score = torch.diagonal(M, dim1=1, dim2=2).sum(1)
    mean = (M / score[:, None, None]).mean(0)
    return {"M": M, "rows": rows, "values": values, "score": score, "mean": mean}


def every_sign(n: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)), dtype=torch.float64)


def spread(M: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Variance of `g M g` over the rows g."""
    return torch.einsum("si,tij,sj->ts", g, M, g).var(1, correction=0)


def test_signs_of_eigenvectors_and_of_tokens(m):
    tail = m["M"][:, K:, K:]
    torch.testing.assert_close(sampling._signs(m["M"], K), spread(tail, every_sign(D - K)))
    of_tokens = (every_sign(D) @ m["rows"])[:, K:]
    torch.testing.assert_close(sampling._token_signs(m, K), spread(tail, of_tokens))


@pytest.mark.parametrize("s", [1, 2, D - K])
def test_each_eigenvector_in_one_sample(m, s):
    estimates = torch.zeros(2, 2 ** (D - K), dtype=torch.float64)
    e = every_sign(D - K)
    for i in range(s):
        hand = e[:, i::s]
        estimates += torch.einsum("si,tij,sj->ts", hand, m["M"][:, K + i :: s, K + i :: s], hand)
    torch.testing.assert_close(
        sampling._grouped(m["M"], K, s).double(),
        estimates.var(1, correction=0),
        rtol=1e-5,
        atol=1e-9,
    )


@pytest.mark.parametrize("s", [1, 3, D - K])
def test_directions_at_right_angles_and_a_control(m, s):
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(40000, D - K, s, generator=generator, dtype=torch.float64)
    tail, Q = m["M"][:, K:, K:], torch.linalg.qr(g)[0]
    drawn = (D - K) / s * torch.einsum("nis,tij,njs->tn", Q, tail, Q)
    told = sampling._orthogonal(m["M"], K, s)
    torch.testing.assert_close(told, drawn.var(1), rtol=0.05, atol=1e-9)
    plain = torch.einsum("ni,tij,nj->tn", g[..., 0], tail, g[..., 0])
    control = g[..., 0].square() @ m["values"][K:]
    rest = (
        plain.var(1)
        - torch.stack([torch.cov(torch.stack([x, control]))[0, 1] for x in plain]) ** 2
        / control.var()
    )
    torch.testing.assert_close(sampling._controlled(m, K), rest, rtol=0.05, atol=0)
    torch.testing.assert_close(sampling._normal(m["M"], K), plain.var(1), rtol=0.05, atol=0)


def test_a_head_that_spans_all_leaves_no_error(m):
    flat = {**m, "M": torch.zeros_like(m["M"])}
    flat["M"][:, :2, :2] = m["M"][:, :2, :2]
    flat["score"] = torch.diagonal(flat["M"], dim1=1, dim2=2).sum(1)
    flat["mean"] = (flat["M"] / flat["score"][:, None, None]).mean(0)
    assert sampling._nudged(flat, 8).abs().max() < 1e-6
    assert sampling._xtrace(flat, 12).abs().max() < 1e-12
