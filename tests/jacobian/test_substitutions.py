"""Other tokens in the place of a prompt's own: effects against small steps towards them, and against real swaps.

Small steps are those of the second implementation in `support.reference`: the embedding of one token is moved a
share of the way to that of another one, which is read off a forward pass over a text that holds it.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.exact import exactly
from support.reference import POSITION, TOKENS, Reference
from support.refusals import refused
from tl_scopes.errors import (
    NumericalError,
    PositionError,
    ScopeParameterError,
    SiteError,
    TargetError,
    UnsupportedModelError,
)

# An embedding scale, an embedding norm, learned positions; both classes.
NAMES = zoo.known("bridge/gemma2", "hooked/embed-norm", "bridge/bloom", "hooked/gpt2")
A, STEP, V = 7, 1e-3, zoo.D_VOCAB
AFTER, OTHER = [7, 8], [9]
each_name = pytest.mark.parametrize("name", NAMES)
needs_hooked = pytest.mark.skipif(zoo.HookedTransformer is None, reason="transformer-lens >= 4")


@functools.cache
def embedding(name: str) -> torch.Tensor:
    """What the model writes for every token: [d_vocab, d_model], before positions and norms."""
    ids = torch.arange(V)[:, None].repeat(1, 2)
    ids[:, 0] = 0
    rows = [Reference(name, row, 1).forward({}, ["embed"])["embed"][0, 1] for row in ids.tolist()]
    return torch.stack(rows).detach()


def slopes(name: str, tokens: list[int], place: int, watch: str) -> torch.Tensor:
    """How what is watched, at every position, begins to move when the token at `place` is moved towards each
    other token: [d_vocab, pos, d], by central differences whose error is of order STEP**4."""
    ref = Reference(name, tokens, len(tokens) - 1)
    moves = torch.zeros(V, *ref.shape("embed"), dtype=torch.float64)
    moves[:, place] = embedding(name) - embedding(name)[tokens[place]]
    with torch.no_grad():
        far_down, down, up, far_up = (
            ref.forward({"embed": share * STEP * moves}, copies=V)[watch]
            for share in (-2, -1, 1, 2)
        )
    return (8 * (up - down) - (far_up - far_down)) / (12 * STEP)


def log_prob_slopes(name: str, after: list[int], place: int) -> torch.Tensor:
    """Of the log-probability of what follows the prompt: [d_vocab]."""
    tokens = [*TOKENS, *after]
    moved = slopes(name, tokens, place, "logits")
    p = Reference(name, tokens, 0).forward({})["logits"][0].softmax(-1)
    reads = range(len(TOKENS) - 1, len(tokens) - 1)
    return sum(moved[:, r, c] - moved[:, r] @ p[r] for r, c in zip(reads, after))


def wanted(name: str, kind: str, place: int) -> torch.Tensor:
    """The effect of every token in the place of one: [d_vocab]."""
    if kind == "continuation":
        return log_prob_slopes(name, AFTER, place)
    if kind == "versus":
        return log_prob_slopes(name, AFTER, place) - log_prob_slopes(name, OTHER, place)
    moved = slopes(name, TOKENS, place, "final")[:, POSITION]
    if kind == "semantic":
        return moved @ zoo.shared(name).W_U[:, A].detach()
    if kind == "temperature":
        y = reference.of(name).at_read("final")
        return moved @ (y / y.norm())
    values, vectors = torch.linalg.eigh(reference.fisher_matrix(reference.of(name)).detach())
    return (moved @ vectors[:, -2:]).square() @ values[-2:]


SCOPES = {
    "semantic": ts.SemanticScope(A), "temperature": ts.TemperatureScope(), "fisher": ts.FisherScope(rank=2),
    "continuation": ts.ContinuationScope(AFTER), "versus": ts.ContinuationScope(AFTER, versus=OTHER),
}  # fmt: skip


def asked(name: str, kind: str, **options) -> ts.Substitutions:
    where = {"position": -1} if kind in ("continuation", "versus") else {}
    return exactly(ts.substitutions, name, SCOPES[kind], **{**where, **options})


@each_name
@pytest.mark.parametrize("kind", SCOPES)
def test_effects_are_what_small_steps_towards_a_token_move(name, kind):
    """Of every token of the vocabulary, at two places: none is missing, none has another sign."""
    found = asked(name, kind, at=[2, 4], k=V, among="all")
    for place, up, down in zip(found.positions, found.up, found.down):
        effects = wanted(name, kind, place)
        got = {each.id: each.effect for each in (*up, *down)}
        assert TOKENS[place] not in got and len(got) == V - 1
        ids = sorted(got)
        torch.testing.assert_close(
            torch.tensor([got[i] for i in ids], dtype=torch.float64), effects[ids],
            rtol=0, atol=1e-8 * float(effects.detach().abs().max()),
        )  # fmt: skip
        assert [each.effect for each in up] == sorted((each.effect for each in up), reverse=True)
        assert [each.effect for each in down] == sorted(each.effect for each in down)
        assert all(each.effect < 0 for each in down) and not (kind == "fisher" and down)
    assert found.units == {"semantic": "logit", "temperature": "norm of y"}.get(kind, "nats")


@each_name
@pytest.mark.parametrize("kind", ["semantic", "fisher"])
def test_fewer_are_the_strongest_of_all(name, kind):
    few, every = (asked(name, kind, at=[2, 4], k=k, among="all") for k in (3, V))
    for i in range(2):
        assert few.up[i] == every.up[i][:3] and few.down[i] == every.down[i][:3]
    some = asked(name, kind, at=4, k=V, among=[9, " Paris", 9, TOKENS[4], 40])
    paris = zoo.tokenizer().convert_tokens_to_ids(" Paris")
    assert {each.id for each in some.at(4)} == {9, 40, paris}
    effects = {each.id: each.effect for each in every.at(4)}
    for each in some.at(4):
        assert each.effect == pytest.approx(effects[each.id], rel=1e-9)


@each_name
def test_likely_tokens_are_those_that_the_model_predicts_there(name):
    found = asked(name, "semantic", k=V, n_likely=6)
    assert found.positions == tuple(range(1, POSITION + 1))
    logits = reference.of(name).forward({})["logits"][0]
    for place in found.positions:
        p, ids = logits[place - 1].softmax(-1).topk(6)
        got = {each.id: each.probability for each in found.at(place)}
        chances = dict(zip(ids.tolist(), p.tolist()))
        chances.pop(TOKENS[place], None)
        assert got == pytest.approx(chances, rel=1e-9)


def scalar(name: str, kind: str, tokens: list[int]) -> float:
    """What is explained, of a whole text."""
    if kind == "semantic":
        seen = Reference(name, tokens, POSITION).forward({})["final"][0, POSITION]
        return float(seen @ zoo.shared(name).W_U[:, A])

    def log_prob(after: list[int]) -> float:
        rows = Reference(name, [*tokens, *after], 0).forward({})["logits"][0].log_softmax(-1)
        return sum(float(rows[len(tokens) - 1 + i, c]) for i, c in enumerate(after))

    return log_prob(AFTER) - (log_prob(OTHER) if kind == "versus" else 0.0)


@each_name
@pytest.mark.parametrize("kind", ["semantic", "continuation", "versus"])
def test_measured_changes_are_those_of_texts_with_another_token(name, kind):
    found = asked(name, kind, at=[1, 4], k=2, verified=True)
    start, signs, pairs = scalar(name, kind, TOKENS), [], []
    for place in found.positions:
        for each in found.at(place):
            text = [*TOKENS[:place], each.id, *TOKENS[place + 1 :]]
            real = scalar(name, kind, text) - start
            assert each.measured == pytest.approx(real, rel=1e-9, abs=1e-9)
            signs.append((real > 0) == (each.effect > 0))
            pairs.append((each.effect, real))
    assert found.sign_agreement == sum(signs) / len(signs)
    from scipy.stats import spearmanr

    assert found.rank_agreement == pytest.approx(spearmanr(*zip(*pairs)).statistic)


@each_name
def test_measured_change_of_a_distribution_is_the_quadratic_form_of_the_change_of_y(name):
    found = asked(name, "fisher", at=4, k=3, among="all", verified=True)
    values, vectors = torch.linalg.eigh(reference.fisher_matrix(reference.of(name)).detach())
    y = reference.of(name).at_read("final")
    for each in found.up[0]:
        text = [*TOKENS[:4], each.id, *TOKENS[5:]]
        moved = Reference(name, text, POSITION).at_read("final") - y
        assert each.measured == pytest.approx(
            float((moved @ vectors[:, -2:]).square() @ values[-2:]), rel=1e-7
        )
    assert math.isnan(found.sign_agreement) and found.down == ((),)


# ---------------------------------------------------------------------------------------- scores over likely tokens
@each_name
@pytest.mark.parametrize("kind", SCOPES)
def test_scores_over_tokens_are_those_of_a_plain_loop(name, kind):
    """The root of the mean square over the five tokens that the model expected most; of Fisher the mean square."""
    where = {"position": -1} if kind in ("continuation", "versus") else {}
    given = {"measure": "tokens", "n_likely": 5, **where}
    found = exactly(ts.attribute, name, SCOPES[kind], **given)
    logits = reference.of(name).forward({})["logits"][0]
    assert found.scores[0, 0] == 0
    for place in (1, 3, POSITION):
        p, ids = logits[place - 1].softmax(-1).topk(5)
        effects = wanted(name, kind, place)
        total = 0.0
        for chance, i in zip((p / p.sum()).tolist(), ids.tolist()):
            total += chance * float(effects[i]) ** (1 if kind == "fisher" else 2)
        score = total if kind == "fisher" else math.sqrt(total)
        assert float(found.scores[0, place]) == pytest.approx(score, rel=1e-5, abs=1e-7)
    assert found.units == {"semantic": "logit", "temperature": "norm of y"}.get(kind, "nats")
    assert found.scope.parameters["measure"] == "tokens" and "likely" in found.scope.title


@each_name
def test_batches_sequences_and_spans_score_over_tokens_as_single_calls_do(name):
    model, scope = zoo.shared(name), ts.FisherScope(rank=2)
    given = {"measure": "tokens", "n_likely": 5}
    prompts = [TOKENS, TOKENS[:4], [*TOKENS, 9, 11]]
    for prompt, one in zip(prompts, ts.attribute_batch(model, prompts, scope, **given)):
        alone = ts.attribute(model, prompt, scope, **given)
        torch.testing.assert_close(one.scores, alone.scores, rtol=1e-4, atol=1e-6)
    sequence = ts.attribute_sequence(model, TOKENS, scope, positions=[2, 4], **given)
    each = [ts.attribute(model, TOKENS, scope, position=p, **given) for p in (2, 4)]
    torch.testing.assert_close(
        sequence.scores, torch.stack([a.scores for a in each]), rtol=1e-4, atol=1e-6
    )
    assert sequence.units == "nats" and sequence.scope == each[0].scope
    span = ts.attribute(model, TOKENS, scope, span=(3, 4), **given)
    torch.testing.assert_close(span.scores, each[0].scores, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------- worked by hand
def without_attention():
    """The final state is the token's own embedding, so that the logit of token j after token i is E[i, j]."""
    model = zoo.raw_hooked("attn-only-no-norm", torch.float64, d_vocab=16, d_vocab_out=16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E.copy_(torch.arange(256).reshape(16, 16) % 17 - 8.0)
        model.unembed.W_U.copy_(torch.eye(16))
    return model


@needs_hooked
def test_a_model_whose_logits_are_the_embedding():
    """Nothing is of second order: every prediction is exact, and all but the read token moves nothing."""
    model, ids = without_attention(), [3, 5, 6]
    E = model.W_E.detach()
    found = ts.substitutions(model, ids, ts.SemanticScope(2), k=16, among="all", verified=True)
    assert found.positions == (0, 1, 2)
    assert found.up[:2] == found.down[:2] == ((), ())
    for each in found.at(2):
        assert each.effect == each.measured == float(E[each.id, 2] - E[6, 2]) != 0
    # Others have the logit of the token itself, and change nothing.
    same = int((E[:, 2] == E[6, 2]).sum())
    assert len(found.at(2)) == 16 - same
    assert found.rank_agreement == pytest.approx(1) and found.sign_agreement == 1
    scores = ts.attribute(model, ids, ts.SemanticScope(2), measure="tokens", n_likely=16).scores[0]
    q = E[5].softmax(-1)
    assert float(scores[2]) == pytest.approx(float((q @ (E[:, 2] - E[6, 2]) ** 2).sqrt()), rel=1e-6)
    assert scores[:2].tolist() == [0, 0]


# ------------------------------------------------------------------------------------------------------- refusals
@each_name
@pytest.mark.wrong_types
def test_refusals(name):
    model, scope = zoo.shared(name), ts.SemanticScope(A)
    ask = functools.partial(ts.substitutions, model, TOKENS, scope)
    for error, words, given in [
        (PositionError, "nothing predicts the first token", {"at": 0}),
        (PositionError, "comes after the last read", {"at": 5, "position": 3}),
        (PositionError, "out of range", {"at": 99}),
        (PositionError, "is empty", {"at": []}),
        (PositionError, "allowed: a position", {"at": 1.5}),
        (TargetError, "outside the vocabulary", {"among": [V]}),
        (TargetError, "tokens", {"among": [zoo.SPLIT_WORD]}),
        (ScopeParameterError, "among is", {"among": []}),
        (ScopeParameterError, "a list of token ids or texts", {"among": "some"}),
        (ScopeParameterError, "k is 0", {"k": 0}),
        (ScopeParameterError, "n_likely is 0", {"n_likely": 0}),
        (ScopeParameterError, "verified is", {"verified": "yes"}),
    ]:
        refused(functools.partial(ask, **given), error, words)
    tokens = functools.partial(ts.attribute, model, TOKENS, scope, measure="tokens")
    refused(functools.partial(tokens, sites=["embed", 1]), SiteError, "embedding", r"resid\(1\)")
    refused(functools.partial(tokens, n_likely=0), ScopeParameterError, "n_likely is 0")
    refused(functools.partial(tokens, measure="words"), ScopeParameterError, "measure is 'words'")
    sequence = functools.partial(ts.attribute_sequence, model, TOKENS, scope, measure="tokens")
    refused(functools.partial(sequence, sites="all"), SiteError, "embedding")
    refused(lambda: ts.substitutions(model, [0], scope), PositionError, "one token")


@pytest.mark.parametrize("name", zoo.known("hooked/gpt2", "bridge/gemma2"))
def test_hooks_that_edit_one_place_of_the_embedding(name):
    model = zoo.build(name)
    point = "embed.hook_out" if "embed.hook_out" in model.hook_dict else "hook_embed"

    def edit(activation, hook):
        activation = activation.clone()
        activation[:, 3] = 0
        return activation

    for call in (
        functools.partial(ts.substitutions, model, TOKENS, ts.SemanticScope(A)),
        functools.partial(ts.attribute, model, TOKENS, ts.SemanticScope(A), measure="tokens"),
    ):
        with model.hooks(fwd_hooks=[(point, edit)]):
            refused(call, UnsupportedModelError, "where it stands")
        # The same everywhere: part of what is explained.
        with model.hooks(fwd_hooks=[(point, lambda a, hook: a * 2)]):
            call()


@needs_hooked
def test_an_embedding_that_is_no_number():
    model = zoo.build("hooked/gpt2")
    with torch.no_grad():
        model.embed.W_E[40] = math.nan
    refused(
        lambda: ts.substitutions(model, TOKENS, ts.SemanticScope(A), among="all"),
        NumericalError, "token 40",
    )  # fmt: skip
    ts.substitutions(model, TOKENS, ts.SemanticScope(A), among=[5, 6])


@needs_hooked
def test_predictions_of_other_things_than_tokens():
    model = zoo.raw_hooked("ln", torch.float64, d_vocab_out=3)
    refused(
        lambda: ts.substitutions(model, TOKENS, ts.SemanticScope(1)),
        ScopeParameterError,
        "one of 3",
    )
    assert ts.substitutions(model, TOKENS, ts.SemanticScope(1), among="all", k=2).up


# --------------------------------------------------------------------------------------------------------- results
def test_a_result_is_saved_and_tabled(tmp_path):
    found = asked(NAMES[0], "semantic", at=[2, 4], k=2, verified=True)
    again = ts.Substitutions.load(found.save(tmp_path / "found.safetensors"))
    assert (again.up, again.down, again.positions) == (found.up, found.down, found.positions)
    assert repr(again) == repr(found)
    frame = found.to_frame()
    assert len(frame) == sum(len(found.at(p)) for p in (2, 4))
    first = frame.iloc[0]
    assert (first.position, first.other_id) == (2, found.up[0][0].id)
    assert (first.effect, first.measured) == (found.up[0][0].effect, found.up[0][0].measured)
    refused(lambda: found.at(3), PositionError, r"\[2, 4\]")
