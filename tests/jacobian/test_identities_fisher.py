"""Float64 identities of the Fisher scope on every zoo model: three definitions of it, ranks, shares, samples."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.reference import HEADS, POSITION, TOKENS, close

# One model with soft-capped logits and one with an unembedding bias, of each class.
SAMPLED = [
    name
    for kind in ("hooked", "bridge")
    for trait in ("softcap", "unembed_bias")
    for name in zoo.names(kind, trait)[:1]
]
N_SEEDS = 120


def square(jacobian: torch.Tensor) -> torch.Tensor:
    return jacobian.square().sum(-1)


def batch(name: str, scopes: list[ts.FisherScope], sites="embed") -> list[ts.Attribution]:
    with zoo.exact_float64():
        return ts.attribute_batch(
            zoo.shared(name), [TOKENS] * len(scopes), scopes, sites=sites, position=POSITION
        )


@functools.cache
def full(name: str) -> torch.Tensor:
    """The full Fisher score at the embedding, from the model's own logits: [pos]."""
    p, rows = reference.centred_rows(reference.of(name), "embed")
    return torch.tensordot(p, square(rows), dims=1)


@pytest.mark.parametrize("name", zoo.names())
def test_full_is_the_variance_of_the_logits_gradients(name):
    """Identity (2), first form: `sum_v p_v ||J_t^T (w_v - mu)||^2`, at the input, inside, and at heads."""
    sites = ["embed", 2, HEADS]
    (result,) = batch(name, [ts.FisherScope(rank="full", tail=0)], sites)
    wanted = []
    for site in sites:
        p, rows = reference.centred_rows(reference.of(name), site)
        score = torch.tensordot(p, square(rows), dims=1)
        wanted.append(score.T if score.ndim == 2 else score[None])
    close(result.scores, torch.cat(wanted))
    assert result.fisher.share == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", zoo.kinds())
def test_full_is_the_trace_of_the_hessian_of_the_divergence(name):
    """Identity (2), second form: twice the second-order KL of moving a token's embedding."""
    ref = reference.of(name)
    p = torch.softmax(ref.at_read("logits"), -1)

    def divergence(logits: torch.Tensor) -> torch.Tensor:
        return (p * (p.log() - torch.log_softmax(logits, -1))).sum(-1)

    (result,) = batch(name, [ts.FisherScope(rank="full", tail=0)])
    close(result.scores[0], ref.hessian_diagonal("embed", divergence).sum(-1))


@pytest.mark.parametrize("name", zoo.kinds())
def test_ranks_rise_to_full_and_their_gap_is_bounded(name):
    """Identity (4)."""
    ref = reference.of(name)
    F = reference.fisher_matrix(ref)
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(F))
    jacobian = ref.jacobian("embed")
    each = values[:, None] * square(torch.einsum("yk,ytd->ktd", vectors, jacobian))
    largest_stretch = torch.linalg.matrix_norm(jacobian.transpose(0, 1), ord=2) ** 2
    d_model = len(values)
    results = batch(name, [*(ts.FisherScope(rank=k, tail=0) for k in range(1, d_model + 1))])
    scores = torch.stack([r.scores[0] for r in results])
    assert (scores.diff(dim=0) >= 0).all()
    close(scores, each.cumsum(0), 1e-8)
    close(scores[-1], full(name))
    for result, score in zip(results, scores):
        info = result.fisher
        assert info.trace == pytest.approx(float(F.trace()), rel=1e-10)
        kept = torch.tensor(info.eigenvalues, dtype=torch.float64)
        torch.testing.assert_close(kept, values[: len(kept)], rtol=1e-8, atol=1e-12)
        assert info.share == pytest.approx(
            float(values[: len(kept)].sum() / values.sum()), abs=1e-9
        )
        discarded = (1 - info.share) * info.trace
        assert (full(name) - score <= discarded * largest_stretch + 1e-12).all()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_share_is_the_smallest_rank_that_holds_it(name, share):
    values = torch.linalg.eigvalsh(reference.fisher_matrix(reference.of(name))).flip(0)
    held = values.cumsum(0) / values.sum()
    k = int((held < share - 1e-12).sum()) + 1
    result, at_rank = batch(
        name, [ts.FisherScope(rank=share), ts.FisherScope(rank=min(k, len(values)))]
    )
    assert len(result.fisher.eigenvalues) == min(k, len(values)) or share == 1.0
    assert result.fisher.share >= share - 1e-12
    close(result.scores, at_rank.scores)


@pytest.mark.parametrize("name", SAMPLED)
def test_the_tail_left_out_only_lowers_scores_and_by_no_more_than_its_share(name):
    jacobian = reference.of(name).jacobian("embed")
    stretch = torch.linalg.matrix_norm(jacobian.transpose(0, 1), ord=2) ** 2
    tails = [0.3, 0.01, 1e-6]
    results = batch(name, [ts.FisherScope(rank="full", tail=tail) for tail in tails])
    gaps = [full(name) - r.scores[0] for r in results]
    for tail, result, gap in zip(tails, results, gaps):
        assert (gap >= -1e-12).all()
        assert (gap <= tail * result.fisher.trace * stretch + 1e-12).all()
        assert 1 - tail - 1e-12 <= result.fisher.share <= 1
    assert gaps[0].max() > gaps[1].max() > 0, "these tails leave something out"


@functools.cache
def sampled(name: str, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and standard errors over many seeds, [seed, pos], up to the read position."""
    results = batch(name, [ts.FisherScope(seed=seed, **options) for seed in range(N_SEEDS)])
    upto = POSITION + 1
    errors = torch.stack([r.standard_error[0, :upto] for r in results])
    return torch.stack([r.scores[0, :upto] for r in results]), errors


@pytest.mark.parametrize(
    "options",
    [dict(samples=16), dict(samples=16, distribution="normal"), dict(rank=4, samples=12)],
    ids=["rademacher", "normal", "head-and-tail"],
)
@pytest.mark.parametrize("name", SAMPLED)
def test_samples_are_unbiased_and_know_their_error(name, options):
    scores, errors = sampled(name, **options)
    truth = full(name)[: POSITION + 1]
    of_mean = scores.std(0) / N_SEEDS**0.5
    assert ((scores.mean(0) - truth).abs() < 4 * of_mean).all()
    assert (of_mean < 0.1 * truth).all(), "too few seeds to see a bias"
    ratio = errors.square().mean(0) / scores.var(0)
    assert (ratio > 0.5).all() and (ratio < 1.8).all()
    inside = ((scores - truth).abs() <= 2 * errors).double().mean()
    assert (
        0.8 < inside < 0.99
    )  # 0.95 for many samples; fewer leave their variance uncertain, and skewed


@pytest.mark.parametrize("name", SAMPLED)
def test_an_exact_head_leaves_less_to_the_samples(name):
    """The same number of backward passes: 4 exact and 12 random ones against 16 random ones."""
    _, plain = sampled(name, samples=16)
    _, split = sampled(name, rank=4, samples=12)
    assert (split.square().mean(0) < 0.8 * plain.square().mean(0)).all()


@pytest.mark.parametrize("name", SAMPLED[:1])
def test_samples_depend_on_their_seed_alone(name):
    torch.manual_seed(1)
    first, other = batch(name, [ts.FisherScope(samples=3), ts.FisherScope(samples=3, seed=1)])
    state = torch.random.get_rng_state()
    (again,) = batch(name, [ts.FisherScope(samples=3)])
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(first.scores, again.scores, rtol=1e-12, atol=0)
    assert not torch.allclose(first.scores, other.scores, rtol=1e-2)
