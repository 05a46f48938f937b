"""What holds for every prompt, site, position and scope (hypothesis; the same examples on every run)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tl_scopes as ts
from support import zoo
from tl_scopes.errors import SiteError

BOS = 0
MODELS = st.sampled_from(zoo.names())
PAD = 2  # which ids without a mask neither begin with nor are read at
PROMPTS = st.lists(
    st.integers(1, zoo.D_VOCAB - 1).filter(lambda i: i != PAD), min_size=1, max_size=9
).map(lambda ids: [BOS, *ids])
TOKEN = st.integers(0, zoo.D_VOCAB - 1)
FISHER = st.one_of(
    st.builds(
        ts.FisherScope, rank=st.one_of(st.integers(1, 16), st.floats(0.05, 1), st.just("full"))
    ),
    st.builds(
        ts.FisherScope,
        rank=st.one_of(st.none(), st.integers(1, 16)),
        samples=st.integers(1, 6),
        seed=st.integers(0, 99),
        distribution=st.sampled_from(["rademacher", "normal"]),
    ),
)


def log_probability(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits, -1)[3]


VECTORS = st.integers(0, 99).map(
    lambda seed: torch.randn(16, generator=torch.Generator().manual_seed(seed))
)
AT_THE_END = st.one_of(
    st.builds(ts.SemanticScope, st.one_of(st.none(), TOKEN)),
    st.just(ts.TemperatureScope()),
    st.just(ts.FunctionScope(log_probability)),
    VECTORS.map(ts.DirectionScope),
    st.tuples(TOKEN, TOKEN)
    .filter(lambda ab: ab[0] != ab[1])
    .map(lambda ab: ts.LogitDifferenceScope(*ab)),
    FISHER,
)
INSIDE = st.builds(
    ts.DirectionScope, VECTORS, site=st.sampled_from([2, "resid(2)", "blocks.2.hook_resid_pre"])
)
SCOPES = st.one_of(AT_THE_END, INSIDE)
SITES = st.lists(
    st.sampled_from(["embed", 0, 1, "resid(1)", "blocks.1.attn.hook_z"]), min_size=1, unique=True
)


def close(got: torch.Tensor | None, wanted: torch.Tensor | None, tolerance: float = 2e-6) -> None:
    assert (got is None) == (wanted is None)
    if got is not None:
        torch.testing.assert_close(
            got, wanted, rtol=0, atol=tolerance * max(1e-6, float(wanted.abs().max()))
        )


def same(one: ts.Attribution, other: ts.Attribution, tolerance: float = 2e-6) -> None:
    close(one.scores, other.scores, tolerance)
    close(one.standard_error, other.standard_error, tolerance)
    for name in ("sites", "str_tokens", "has_bos", "position", "target", "units", "provenance"):
        assert getattr(one, name) == getattr(other, name)
    assert torch.equal(one.tokens, other.tokens)
    assert [c.id for c in one.prediction] == [c.id for c in other.prediction]


@settings(max_examples=60)
@given(MODELS, PROMPTS, SCOPES, SITES, st.data())
def test_scores_are_finite_non_negative_causal_labelled_and_repeatable(
    name, ids, scope, sites, data
):
    position = data.draw(st.integers(-len(ids), len(ids) - 1))
    p = position % len(ids)
    model = zoo.shared(name)
    result = ts.attribute(model, ids, scope, sites=sites, position=position)
    heads = model.cfg.n_heads
    rows = [f"blocks.1.attn.hook_z[{h}]" for h in range(heads)]
    labels = [f"resid({s})" if isinstance(s, int) else s for s in sites]
    labels = [
        r for label in dict.fromkeys(labels) for r in (rows if "hook_z" in label else [label])
    ]
    assert list(result.sites) == labels
    assert result.scores.shape == (len(labels), len(ids)) and result.scores.dtype == torch.float32
    assert (
        result.tokens.tolist() == ids
        and len(result.str_tokens) == len(ids)
        and result.position == p
    )
    assert result.scores.isfinite().all() and (result.scores >= 0).all()
    assert (result.scores[:, p + 1 :] == 0).all()
    assert (result.scores[:, p] > 0).any()
    assert (result.standard_error is not None) == ((getattr(scope, "samples", None) or 0) > 1)
    assert not result.scores.requires_grad
    again = ts.attribute(model, ids, scope, sites=sites, position=position)
    assert torch.equal(result.scores, again.scores), "two calls differ"


@settings(max_examples=30)
@given(MODELS, PROMPTS, PROMPTS, AT_THE_END)
def test_tokens_after_the_read_position_change_nothing(name, ids, more, scope):
    model = zoo.shared(name)
    short = ts.attribute(model, ids, scope, sites=["embed", 1])
    long = ts.attribute(model, ids + more, scope, sites=["embed", 1], position=len(ids) - 1)
    assert torch.equal(long.scores[:, : len(ids)], short.scores)
    assert (long.scores[:, len(ids) :] == 0).all()
    assert long.prediction == short.prediction and long.target == short.target


@settings(max_examples=25)
@given(MODELS, st.lists(st.tuples(PROMPTS, AT_THE_END), min_size=2, max_size=4), SITES, st.data())
def test_a_batch_equals_a_loop(name, jobs, sites, data):
    model = zoo.shared(name)
    prompts, scopes = [ids for ids, _ in jobs], [scope for _, scope in jobs]
    positions = [data.draw(st.integers(-len(ids), len(ids) - 1)) for ids in prompts]
    batch_tokens = data.draw(st.sampled_from([1, 12, 4096]))
    together = ts.attribute_batch(
        model, prompts, scopes, sites=sites, position=positions, batch_tokens=batch_tokens
    )
    for result, ids, scope, position in zip(together, prompts, scopes, positions):
        same(result, ts.attribute(model, ids, scope, sites=sites, position=position))


@settings(max_examples=20)
@given(MODELS, st.lists(PROMPTS, min_size=1, max_size=3), FISHER)
def test_chunks_of_directions_make_no_difference(name, prompts, scope):
    model = zoo.shared(name)
    whole = ts.attribute_batch(model, prompts, scope)
    for size in (1, 2, 5):
        for a, b in zip(ts.attribute_batch(model, prompts, scope, chunk_size=size), whole):
            same(a, b)


@settings(max_examples=20)
@given(MODELS, PROMPTS, AT_THE_END, st.sampled_from([None, 1, 3]), st.data())
def test_a_sequence_equals_separate_calls(name, ids, scope, chunk_size, data):
    model = zoo.shared(name)
    reads = data.draw(
        st.lists(st.integers(-len(ids), len(ids) - 1), min_size=1, max_size=4) | st.just("all")
    )
    sequence = ts.attribute_sequence(
        model, ids, scope, positions=reads, sites=["embed", 2], chunk_size=chunk_size
    )
    expected = list(range(len(ids))) if reads == "all" else [p % len(ids) for p in reads]
    assert list(sequence.positions) == expected and len(sequence) == len(expected)
    assert sequence.scores.shape == (len(expected), 2, len(ids))
    for r, p in enumerate(expected):
        alone = ts.attribute(model, ids, scope, sites=["embed", 2], position=p)
        close(sequence.scores[r], alone.scores)
        same(sequence.at(p), alone)


@settings(max_examples=20)
@given(
    MODELS,
    PROMPTS,
    AT_THE_END,
    st.lists(st.sampled_from(["embed", 0, 1, 2, 3]), min_size=1, unique=True),
)
def test_chosen_sites_are_rows_of_all(name, ids, scope, sites):
    model = zoo.shared(name)
    everything = ts.attribute(model, ids, scope, sites="all")
    assert everything.sites == ("embed", "resid(0)", "resid(1)", "resid(2)", "resid(3)")
    chosen = ts.attribute(model, ids, scope, sites=sites)
    rows = [everything.sites.index(label) for label in chosen.sites]
    close(chosen.scores, everything.scores[rows])


@settings(max_examples=15)
@given(MODELS, PROMPTS, st.integers(2, 16), st.floats(0.1, 10))
def test_scores_scale_with_what_is_explained(name, ids, k, factor):
    """Linear in a direction's length; Fisher ranks add up eigenvalue by eigenvalue."""
    model = zoo.shared(name)
    v = torch.linspace(-1, 1, 16)
    one = ts.attribute(model, ids, ts.DirectionScope(v)).scores
    close(ts.attribute(model, ids, ts.DirectionScope(factor * v)).scores, factor * one)
    lower, upper = (ts.attribute(model, ids, ts.FisherScope(rank=r)).scores for r in (k - 1, k))
    assert (upper >= lower - 1e-6 * upper.max()).all()


@pytest.mark.parametrize("name", zoo.kinds())
def test_text_and_ids_of_every_kind_are_one_prompt(name):
    model = zoo.shared(name)
    text = ts.attribute(model, zoo.TEXT, ts.SemanticScope(zoo.ONE_TOKEN), prepend_bos=True)
    ids = text.tokens.tolist()
    assert text.has_bos and text.str_tokens == ("<bos>", "The", " capital", " of", " France", " is")
    assert text.target.text == zoo.ONE_TOKEN
    for prompt in (ids, torch.tensor(ids), torch.tensor([ids])):
        same(ts.attribute(model, prompt, ts.SemanticScope(text.target.id)), text, 0)
    bare = ts.attribute(model, zoo.TEXT, ts.SemanticScope(zoo.ONE_TOKEN), prepend_bos=False)
    assert not bare.has_bos and bare.tokens.tolist() == ids[1:]


def test_tiny_directions_do_not_vanish():
    model = zoo.shared(zoo.names()[0])
    v = torch.randn(int(model.cfg.d_model), generator=torch.Generator().manual_seed(0))
    large, tiny = (
        ts.attribute(model, [1, 5, 9], ts.DirectionScope(v * scale)).scores for scale in (1, 1e-24)
    )
    torch.testing.assert_close(tiny / 1e-24, large, rtol=1e-4, atol=0)


def test_every_next_token_of_a_prompt():
    model = zoo.shared(zoo.names()[0])
    found = ts.attribute_sequence(model, [1, 5, 9, 7], ts.SemanticScope(ts.NEXT_TOKEN))
    assert found.positions == (0, 1, 2)
    assert [target.id for target in found.targets] == [5, 9, 7]


@pytest.mark.parametrize("name", [n for n in ("bridge/gemma3", "bridge/qwen3") if n in zoo.names()])
def test_heads_before_positions_are_refused_at_every_length(name):
    """[batch, head, pos, d] has the right shape by coincidence when the prompt is as long as there are heads."""
    model = zoo.shared(name)
    for length in (3, int(model.cfg.n_heads), 6):
        with pytest.raises(SiteError, match="shape"):
            ts.attribute(
                model,
                [1, 5, 9, 7, 3, 4][:length],
                ts.SemanticScope(7),
                sites="blocks.1.attn.hook_q_normed",
            )
    n_heads = int(model.cfg.n_heads)
    found = ts.attribute(
        model, [1, 5, 9, 7, 3, 4][:n_heads], ts.SemanticScope(7), sites="blocks.1.attn.hook_z"
    )
    assert found.scores.shape == (n_heads, n_heads)
