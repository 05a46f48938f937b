"""Spans in float64 on every kind of zoo model: autograd by hand, single tokens, two continuations, several reads.

The references are gradients of the model's own logits by `support.reference`, which uses no code of tl_scopes.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch

import tl_scopes as ts
from support import real_models, reference, zoo
from support.reference import TOKENS, close, norms
from tl_scopes import errors
from tl_scopes.adapter.view import view_of

NAMES = zoo.kinds()
PROMPT, AFTER, OTHER = TOKENS, [9, 5, 30], [12, 7]
N = len(PROMPT)
PLACES = ["embed", 0, 1, 2, 3, reference.HEADS]
FEW = [*zoo.names("hooked")[:2], *zoo.names("bridge")[:2]]


def log_prob(logits: torch.Tensor, after: list[int]) -> torch.Tensor:
    rows = logits[0, N - 1 : N - 1 + len(after)].log_softmax(-1)
    return rows[range(len(after)), after].sum()


def logit(logits: torch.Tensor, after: list[int]) -> torch.Tensor:
    return logits[0, N - 1 : N - 1 + len(after)][range(len(after)), after].sum()


@functools.cache
def gradients(name: str, after: tuple[int, ...], scalar) -> list[torch.Tensor]:
    """Of a scalar of the logits after the prompt and `after`, at all of `PLACES`."""
    ref = reference.Reference(name, [*PROMPT, *after])
    deltas = {
        site: torch.zeros(1, *ref.shape(site), dtype=torch.float64, requires_grad=True)
        for site in PLACES
    }
    value = scalar(ref.forward(deltas)["logits"], list(after))
    return [g[0] for g in torch.autograd.grad(value, list(deltas.values()))]


def scores(name: str, scope: ts.Scope, **more) -> ts.Attribution:
    with zoo.exact_float64():
        return ts.attribute(
            zoo.shared(name), more.pop("prompt", PROMPT), scope, sites=PLACES, **more
        )


def by_row(gradient: torch.Tensor) -> torch.Tensor:
    """[row, pos]: a hook with heads has a row each."""
    return norms(gradient).reshape(len(gradient), -1).T


@pytest.mark.parametrize("name", NAMES)
def test_a_span_is_the_gradient_of_its_log_probability(name):
    found = scores(name, ts.ContinuationScope(AFTER))
    close(found.scores, torch.cat([by_row(g) for g in gradients(name, tuple(AFTER), log_prob)]))
    assert found.tokens.tolist() == [*PROMPT, *AFTER]
    with zoo.exact_float64(), torch.no_grad():
        logits = zoo.shared(name)(torch.tensor([[*PROMPT, *AFTER]]))
    assert found.continuation.total == pytest.approx(float(log_prob(logits, AFTER)), rel=1e-9)
    assert [token.id for token in found.continuation.tokens] == AFTER
    assert found.continuation.reads == (N - 1, N, N + 1)


@pytest.mark.parametrize("name", NAMES)
def test_two_continuations_are_subtracted_before_the_norm(name):
    """Of any lengths; of equal ones nothing would be left."""
    found = scores(name, ts.ContinuationScope(AFTER, versus=OTHER))
    both = [gradients(name, tuple(after), log_prob) for after in (AFTER, OTHER)]
    wanted = torch.cat([by_row(a[:N] - b[:N]) for a, b in zip(*both)])
    close(found.scores, wanted)
    assert found.tokens.tolist() == PROMPT
    single = scores(name, ts.ContinuationScope(AFTER[:1], versus=OTHER[:1]))
    if view_of(zoo.shared(name)).unembedding().transform is None:
        pair = scores(name, ts.LogitDifferenceScope(AFTER[0], OTHER[0]))
        close(single.scores, pair.scores)


@pytest.mark.parametrize("name", FEW)
def test_one_token_logits_and_means(name):
    one = scores(name, ts.ContinuationScope(AFTER[:1]))
    alone = scores(name, ts.FunctionScope(lambda z: z.log_softmax(-1)[AFTER[0]]))
    close(one.scores[:, :N], alone.scores)
    of_logits = scores(name, ts.ContinuationScope(AFTER, of="logit")).scores
    close(of_logits, torch.cat([by_row(g) for g in gradients(name, tuple(AFTER), logit)]))
    mean = scores(name, ts.ContinuationScope(AFTER, versus=OTHER, reduce="mean"))
    both = [gradients(name, tuple(after), log_prob) for after in (AFTER, OTHER)]
    close(mean.scores, torch.cat([by_row(a[:N] / 3 - b[:N] / 2) for a, b in zip(*both)]))


@pytest.mark.parametrize("name", FEW)
def test_a_batch_equals_single_calls(name):
    scopes = [
        ts.ContinuationScope(AFTER, versus=OTHER),
        ts.SemanticScope(3),
        ts.ContinuationScope(OTHER),
    ]
    prompts = [PROMPT, PROMPT[:4], PROMPT[:5]]
    with zoo.exact_float64():
        model = zoo.shared(name)
        together = ts.attribute_batch(model, prompts, scopes, sites=PLACES)
        alone = [ts.attribute(model, p, s, sites=PLACES) for p, s in zip(prompts, scopes)]
    for a, b in zip(together, alone):
        close(a.scores, b.scores)
        assert a.continuation == b.continuation or a.continuation.total == pytest.approx(
            b.continuation.total
        )


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(
    "scope", [ts.TemperatureScope(), ts.FisherScope(rank=2)], ids=lambda s: s.name
)
def test_squares_of_several_reads_add_up(name, scope):
    """As a loop over single reads; with random signs to within their standard errors."""
    whole = [*PROMPT, *AFTER]
    model = zoo.shared(name)
    with zoo.exact_float64():
        each = [ts.attribute(model, whole, scope, position=p).scores for p in range(N - 1, N + 2)]
        power = 1 if scope.name == "fisher" else 2
        wanted = torch.stack(each).pow(power).sum(0).pow(1 / power)
        exact = ts.attribute(model, whole, scope, span=(N, N + 3))
        drawn = ts.attribute(model, whole, scope, span=(N, N + 3), samples=200)
    close(exact.scores, wanted)
    assert exact.continuation.reads == (N - 1, N, N + 1)
    assert [token.id for token in exact.continuation.tokens] == AFTER
    far = (drawn.scores - wanted).abs() / drawn.standard_error.clamp_min(1e-9)
    assert far.max() < 4.5 and (far < 3).double().mean() > 0.9
    assert (drawn.standard_error.max() / wanted.max()) < 0.2


@pytest.mark.parametrize("name", FEW)
def test_draws_of_a_sampled_scope_are_independent_at_every_read(name):
    """With equal draws at two reads, cross terms would stay in the mean."""
    whole, model = [*PROMPT, *AFTER], zoo.shared(name)
    scope = ts.FisherScope(samples=8, seed=3)
    with zoo.exact_float64():
        loop = ts.attribute(model, whole, scope, span=(N, N + 3)).scores
        drawn = ts.attribute(model, whole, scope, span=(N, N + 3), samples=400)
    far = (drawn.scores - loop).abs() / drawn.standard_error.clamp_min(1e-9)
    assert far.max() < 4.5 and drawn.standard_error.max() < 0.2 * loop.max()


def test_over_reads_of_a_part_and_of_what_cannot_add():
    model = zoo.shared(FEW[0])
    sequence = ts.attribute_sequence(model, PROMPT, ts.TemperatureScope())
    part = sequence.over_reads([2, 4])
    wanted = (sequence.at(2).scores ** 2 + sequence.at(4).scores ** 2).sqrt()
    close(part.scores.double(), wanted.double(), 1e-6)
    assert part.position == 4 and part.continuation.reads == (2, 4)
    logits = model(torch.tensor([PROMPT])).detach().log_softmax(-1)[0]
    for position, found in zip(sequence.positions[:-1], sequence.log_probs):
        assert found == pytest.approx(float(logits[position, PROMPT[position + 1]]), abs=1e-5)
    assert sequence.log_probs[-1] is None and sequence.over_reads().continuation is None
    with pytest.raises(errors.PositionError, match="empty"):
        sequence.over_reads([])
    with pytest.raises(errors.PositionError, match="not in this result"):
        sequence.over_reads([99])


C, T = ts.ContinuationScope, ts.TemperatureScope()
REFUSED = [
    (errors.TargetError, "continuation is empty", C(""), {}),
    (errors.TargetError, "versus is empty", C([3], ()), {}),
    (errors.TargetError, "same as", C(" cat", zoo.tokenizer()(" cat", add_special_tokens=False)["input_ids"]), {}),
    (errors.TargetError, "outside the vocab", C([10**6]), {}),
    (errors.TargetError, "makes", C(" zzz"), {}),
    (errors.PromptTooLongError, "context", C([3] * 500), {}),
    (errors.PositionError, "follows the prompt's", C([3]), {"position": 2}),
    (errors.ScopeParameterError, "by itself", C([3]), {"span": (2, 4)}),
    (errors.ScopeParameterError, "samples is for", T, {"samples": 3}),
    (errors.ScopeParameterError, "samples", T, {"span": (2, 4), "samples": 0}),
    (errors.ScopeParameterError, "in place of position", T, {"span": (2, 4), "position": 3}),
    (errors.PositionError, "first token", T, {"span": (0, 2)}),
    (errors.PositionError, "not a range", T, {"span": (5, 99)}),
    (errors.ScopeParameterError, "allowed", T, {"span": [1, 2]}),
    (errors.ScopeParameterError, "does not stand", T, {"span": "dog"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "message", "scope", "given"), REFUSED, ids=lambda value: str(value)[:20]
)
def test_what_is_refused(kind, message, scope, given):
    with pytest.raises(kind, match=message):
        ts.attribute(zoo.shared(FEW[0]), PROMPT, scope, **given)


def test_a_sequence_is_refused():
    with pytest.raises(errors.ScopeParameterError, match="by itself"):
        ts.attribute_sequence(zoo.shared(FEW[0]), PROMPT, C([3]))


def test_versus_under_hooks_is_refused_and_one_continuation_is_not():
    model = zoo.shared(FEW[0])
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: x * 1.5)]):
        ts.attribute(model, PROMPT, ts.ContinuationScope(AFTER))
        with pytest.raises(errors.ScopeParameterError, match="two rows"):
            ts.attribute(model, PROMPT, ts.ContinuationScope(AFTER, versus=OTHER))


def test_text_goes_on_from_the_prompt_and_results_are_kept(tmp_path):
    model = zoo.shared(FEW[0])
    found = ts.attribute(model, "The cat sat", ts.ContinuationScope(" on the mat"))
    ids = zoo.tokenizer()(" on the mat", add_special_tokens=False)["input_ids"]
    assert found.tokens.tolist()[-3:] == ids and found.continuation.text == " on the mat"
    again = ts.Attribution.load(found.save(tmp_path / "a.safetensors"))
    assert again.continuation == found.continuation
    assert "log-probability of  on the mat" in again.print.__self__.scope.explains.format(
        **again.scope.parameters
    )


@pytest.mark.real
@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_on_bundled_models_as_autograd_on_hugging_face(name):
    """Sum of log-probabilities, gradient on the embedding module's output; 1e-5 in float32.

    The reference is in float64: in float32 its own sum over 262,144 columns misses 2e-5.
    """
    model = real_models.shared(name)
    original = getattr(model, "original_model", None)
    if original is None:
        pytest.skip("a HookedTransformer holds no Hugging Face model")
    original = copy.deepcopy(original).double()
    prompt, after = "The capital of France is", " Paris, the city of light."
    found = ts.attribute(model, prompt, ts.ContinuationScope(after))
    ids = found.tokens[None]
    outputs = []

    def keep(module, args, output):
        outputs.append(output.detach().requires_grad_())
        return outputs[-1]

    handle = original.get_input_embeddings().register_forward_hook(keep)
    try:
        logits = original(ids).logits.log_softmax(-1)[0]
    finally:
        handle.remove()
    reads = torch.tensor(found.continuation.reads)
    total = logits[reads, found.tokens[reads + 1]].sum()
    (gradient,) = torch.autograd.grad(total, outputs[0])
    wanted = norms(gradient[0])
    assert found.continuation.total == pytest.approx(float(total), abs=1e-3)
    assert (found.scores[0] - wanted).abs().max() <= 1e-5 * wanted.max()
