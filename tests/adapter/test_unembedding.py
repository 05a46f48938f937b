"""The unembedding in pieces equals the unembedding whole, in every dtype."""

from __future__ import annotations

import functools

import pytest
import torch

from tl_scopes.adapter import unembedding
from tl_scopes.adapter.unembedding import Unembedding, working_dtype

D_MODEL, D_VOCAB = 6, 23
PIECES = [1, 5, 23, 100]  # columns


def soft_cap(raw: torch.Tensor) -> torch.Tensor:
    return 2 * torch.tanh(raw / 2)


@pytest.fixture(params=[torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def head(request) -> Unembedding:
    generator = torch.Generator().manual_seed(0)
    W_U = torch.randn(D_MODEL, D_VOCAB, generator=generator, dtype=torch.float64)
    b_U = torch.randn(D_VOCAB, generator=generator, dtype=torch.float64)
    return Unembedding(W_U.to(request.param), b_U.to(request.param), soft_cap)


@pytest.fixture(params=PIECES)
def pieces(request, monkeypatch):
    monkeypatch.setattr(unembedding, "CHUNK", request.param * D_MODEL)
    monkeypatch.setattr(unembedding, "SPAN", request.param * D_MODEL)


def close(got: torch.Tensor, wanted: torch.Tensor, head: Unembedding) -> None:
    """To the rounding of the working dtype, whatever the dtype of the weights: nothing is rounded to half."""
    assert got.dtype == working_dtype(head.W_U.dtype)
    tolerance = 1e-12 if got.dtype == torch.float64 else 2e-6
    torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


def test_sizes(head):
    assert (head.d_model, head.d_vocab) == (D_MODEL, D_VOCAB)


def test_logits(head, pieces):
    y = torch.linspace(-1, 1, 2 * D_MODEL).reshape(2, D_MODEL).to(head.W_U.dtype)
    wanted = y.double() @ head.W_U.double() + head.b_U.double()
    raw = head.raw_logits(y)
    close(raw, wanted, head)
    close(head.logits(raw), soft_cap(wanted), head)
    plain = Unembedding(head.W_U, head.b_U)
    assert plain.logits(raw) is raw


def test_gradients_keep_no_copy_of_the_columns(head, pieces):
    y = torch.linspace(-1, 1, 2 * D_MODEL).reshape(2, D_MODEL).to(head.W_U.dtype).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda a: kept.append(a) or a, lambda a: a):
        raw = head.raw_logits(y)
    own = head.W_U.untyped_storage().data_ptr()
    assert all(a.untyped_storage().data_ptr() == own for a in kept)
    back = torch.randn(2, D_VOCAB, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(raw, y, back.to(raw.dtype))
    wanted = back.to(raw.dtype).double() @ head.W_U.double().T
    torch.testing.assert_close(gradient, wanted.to(y.dtype))


def test_pull(head, pieces):
    coefficients = torch.randn(D_VOCAB, 3, dtype=torch.float64).to(working_dtype(head.W_U.dtype))
    close(head.pull(coefficients), (head.W_U.double() @ coefficients.double()).T, head)


def test_slopes_of_log_probabilities(head, pieces):
    """By autograd; the largest logit comes in any piece, and a token may be impossible."""
    precise = working_dtype(head.W_U.dtype)
    b_U = head.b_U.clone()
    b_U[:6] = -torch.inf
    y = torch.randn(4, D_MODEL, generator=torch.Generator().manual_seed(1)).to(precise)
    tokens = torch.tensor([7, D_VOCAB - 1, 9, 7])
    for own in (head, Unembedding(head.W_U, b_U)):
        leaf = y.double().requires_grad_()
        logits = own.logits(leaf @ own.W_U.double() + own.b_U.double())
        wanted = logits.log_softmax(-1)[range(4), tokens]
        log_probs, slopes = own.log_prob_slopes(y, tokens)
        close(log_probs, wanted.detach(), head)
        close(slopes, torch.autograd.grad(wanted.sum(), leaf)[0], head)


def test_columns_come_in_the_order_asked_for(head, pieces):
    tokens = torch.tensor([22, 0, 5, 4, 6, 5, 7])
    ids, rows = zip(*head.columns(tokens))
    assert torch.cat(ids).equal(tokens)
    close(torch.cat(rows), head.W_U.double().T[tokens], head)
    close(head.column(5), head.W_U.double()[:, 5], head)


@pytest.mark.parametrize("sloped", [False, True])
def test_spans_and_distances(head, pieces, sloped):
    slope = torch.linspace(0.1, 1, D_VOCAB).to(working_dtype(head.W_U.dtype)) if sloped else None
    wanted = head.W_U.double().T * (1 if slope is None else slope.double()[:, None])
    spans, rows = zip(*head.spans(slope))
    close(torch.cat(rows), wanted, head)
    assert [i for span in spans for i in range(D_VOCAB)[span]] == list(range(D_VOCAB))
    centre = torch.linspace(-1, 2, D_MODEL).to(working_dtype(head.W_U.dtype))
    close(head.square_distances(centre, slope), (wanted - centre.double()).square().sum(1), head)


def test_slope_is_the_derivative_of_the_transform(head):
    raw = torch.linspace(-5, 5, D_VOCAB).to(working_dtype(head.W_U.dtype))
    with torch.no_grad():
        slope = head.slope(raw)
    close(slope, 1 - torch.tanh(raw.double() / 2) ** 2, head)
    assert not slope.requires_grad and not raw.requires_grad
    assert Unembedding(head.W_U, head.b_U).slope(raw) is None


def test_distances_do_not_cancel():
    """Rows that differ from the centre in the sixth digit: `||w||^2 - 2 w.c + ||c||^2` would lose them."""
    centre = torch.full((D_MODEL,), 1.0)
    W_U = centre[:, None] + 1e-4 * torch.randn(
        D_MODEL, D_VOCAB, generator=torch.Generator().manual_seed(1)
    )
    head = Unembedding(W_U, torch.zeros(D_VOCAB))
    wanted = (W_U.double().T - centre.double()).square().sum(1)
    torch.testing.assert_close(
        head.square_distances(centre, None).double(), wanted, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(
    "dtype, working",
    [
        (torch.float64, torch.float64),
        *((d, torch.float32) for d in (torch.float32, torch.bfloat16, torch.float16)),
    ],
)
def test_working_dtype(dtype, working):
    assert working_dtype(dtype) == working


def test_blocks_are_the_columns_asked_for(head, pieces):
    slope = torch.linspace(0.1, 1, D_VOCAB).to(working_dtype(head.W_U.dtype))
    wanted = head.W_U.double().T * slope.double()[:, None]
    tokens = torch.tensor([22, 0, 5, 4, 6, 7])
    found = [(ids.clone(), rows.clone()) for ids, rows in head.blocks(tokens, slope)]
    assert torch.cat([ids for ids, _ in found]).equal(tokens)
    close(torch.cat([rows for _, rows in found]), wanted[tokens], head)
    close(torch.cat([rows.clone() for _, rows in head.blocks(None, slope)]), wanted, head)
    assert not list(head.blocks(tokens[:0], None))


def test_distances_follow_weights_edited_where_no_version_counter_sees_it(head):
    centre = torch.zeros(head.d_model, dtype=working_dtype(head.W_U.dtype))
    for _ in range(2):
        wanted = head.W_U.double().square().sum(0)
        close(head.square_distances(centre, None), wanted, head)
        head.W_U.data[:, 3] *= 4


@pytest.mark.parametrize("layout", ["columns", "rows"])
@pytest.mark.parametrize("reads", [1, 7])
def test_pull_keeps_what_is_left_where_columns_cancel(layout, reads):
    """Slopes of a log-probability sum to zero; what columns have in common must not leave its rounding."""
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator)
    W_U = (0.02 * draw(30_000, 512) + draw(512)).T
    head = Unembedding(W_U if layout == "rows" else W_U.contiguous(), torch.zeros(30_000))
    y = draw(reads, 512).requires_grad_()
    log_p = head.raw_logits(y).log_softmax(-1)
    slopes = -log_p.detach().exp()
    slopes[range(reads), range(reads)] += 1
    wanted = (W_U.double() @ slopes.double().T).T
    (gradient,) = torch.autograd.grad(log_p[range(reads), range(reads)].sum(), y)
    for found in (head.pull(slopes.T), gradient):
        assert (found.double() - wanted).norm() <= 6e-5 * wanted.norm()
    exact = y.detach().double().requires_grad_()
    log_p = (exact @ W_U.double()).log_softmax(-1)
    (wanted,) = torch.autograd.grad(log_p[range(reads), range(reads)].sum(), exact)
    _, found = head.log_prob_slopes(y.detach(), torch.arange(reads))
    assert (found.double() - wanted).norm() <= 6e-5 * wanted.norm()
