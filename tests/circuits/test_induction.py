"""A known circuit, found without being told: scopes, components, head paths and flows name its two heads."""

from __future__ import annotations

import functools

import pytest
import torch
from scipy.stats import spearmanr

import tl_scopes as ts
from benchmarks.prompts import repeated
from support import induction, real_models
from tl_scopes.circuits import components, flow, head_paths, scope_metric, verify

PROMPTS = induction.prompts(20, seed=100)
each_kind = pytest.mark.parametrize("kind", induction.kinds())


def answer(prompt: induction.Prompt) -> ts.SemanticScope:
    return ts.SemanticScope(prompt.targets[-1])


SCOPES = {
    "semantic": answer,
    "temperature": lambda prompt: ts.TemperatureScope(),
    "fisher": lambda prompt: ts.FisherScope(rank=4),
}


@functools.cache
def circuit(kind: str) -> tuple[induction.Head, induction.Head]:
    """(previous-token head, induction head) by the standard measures of their attention patterns."""
    return induction.circuit(induction.shared(kind))


def places(prompt: induction.Prompt) -> tuple[int, int]:
    """Where the word that is read stood before, and where the one to be copied did."""
    before = prompt.reads[-1] - prompt.period
    return before, before + 1


@functools.cache
def grid(kind: str, scope: str) -> torch.Tensor:
    """Mean size of total effects [layer, head], against the prompt's mean, over all prompts.

    Sizes by position: the previous-token head's effects have opposite signs where it is needed and elsewhere.
    """
    model = induction.shared(kind)
    options = {"baseline": "mean", "frozen": "norms"}
    found = [components(model, p.tokens, SCOPES[scope](p), **options).heads() for p in PROMPTS]
    return torch.stack([effects.abs().sum(-1) for effects in found]).mean(0)


@pytest.mark.parametrize("scope", SCOPES)
@each_kind
def test_components_name_both_heads(kind, scope):
    previous, induct = circuit(kind)
    found = grid(kind, scope)
    for layer, head in (previous, induct):
        others = torch.cat([found[layer, :head], found[layer, head + 1 :]])
        assert found[layer, head] > 2 * others.max()


@each_kind
def test_head_paths_name_both_heads(kind):
    previous, induct = circuit(kind)
    model = induction.shared(kind)
    right = []
    for prompt in PROMPTS:
        paths = head_paths(model, prompt.tokens, answer(prompt))
        before, key = places(prompt)
        right.append(
            paths.top(1, source=key)[0][0] == f"L{induct[0]}H{induct[1]}"
            and int(paths.norms[0, :, before].argmax()) == previous[1]
            and int(paths.norms[1, :, key].argmax()) == induct[1]
        )
    assert sum(right) >= 18


@each_kind
def test_values_copy_and_patterns_look(kind):
    """What the copied word gives goes by the induction head's values, what the word before gives by its pattern."""
    _, (layer, head) = circuit(kind)
    model = induction.shared(kind)
    copied, looked = [], []
    for prompt in PROMPTS:
        paths = head_paths(model, prompt.tokens, answer(prompt), split=True)
        before, key = places(prompt)
        copied.append(paths.value_norms[layer, head, key] / paths.norms[layer, head, key])
        looked.append(paths.pattern_norms[layer, head, before] / paths.norms[layer, head, before])
    assert torch.stack(copied).median() > 0.8
    assert torch.stack(looked).median() > 0.8


@each_kind
def test_scopes_point_at_the_pair_that_is_copied(kind):
    """Of about 22 words, those two: by chance one would be among the first two in four prompts of twenty."""
    model = induction.shared(kind)
    best, both = 0, 0
    for prompt in PROMPTS:
        scores = ts.attribute(model, prompt.tokens, answer(prompt)).scores[0].clone()
        scores[[0, -1]] = 0  # BOS, and the word that is read
        order = scores.argsort(descending=True).tolist()
        ranks = sorted(order.index(t) for t in places(prompt))
        best += ranks[0] < 2
        both += ranks[1] < 5
    assert best >= 17 and both >= 17


@each_kind
def test_the_word_before_acts_by_way_of_the_word_to_copy(kind):
    model = induction.shared(kind)
    for prompt in PROMPTS[:5]:
        before, key = places(prompt)
        through = flow(model, prompt.tokens, answer(prompt), 1).share[:, before]
        assert int(through.argmax()) == key


@each_kind
def test_verification_agrees(kind):
    model = induction.shared(kind)
    wanted = [f"L{layer}H{head}" for layer, head in circuit(kind)]
    for prompt in PROMPTS[:5]:
        parts = components(model, prompt.tokens, answer(prompt), baseline="mean", frozen="norms")
        checked = verify(model, prompt.tokens, parts, by="head", intervention="mean")
        assert {label for label, *_ in checked.top(2)} == {*wanted}
        assert all(measured < -1 for _, _, measured in checked.top(2))
        exact = components(model, prompt.tokens, answer(prompt), baseline="mean")
        checked = verify(model, prompt.tokens, exact, by="head", intervention="mean")
        assert checked.first_order_until(0.2) >= 0.1


@each_kind
def test_confidence_is_carried_by_the_same_heads(kind):
    """Activation patching with TransformerLens's own tools and the temperature scope's metric."""
    model = induction.shared(kind)
    prompt = PROMPTS[0]
    metric = scope_metric(model, prompt.tokens, ts.TemperatureScope())
    tokens = torch.tensor([prompt.tokens])
    mean = {}

    def note(z, hook, layer):
        mean[layer] = z[:, 1:].mean(1, keepdim=True)
        return z

    def drop(z, hook, layer, head):
        out = z.clone()
        out[:, :, head] = mean[layer][:, :, head]
        return out

    hooks = [f"blocks.{layer}.attn.hook_z" for layer in range(2)]
    with torch.no_grad():
        notes = [(h, functools.partial(note, layer=i)) for i, h in enumerate(hooks)]
        with model.hooks(fwd_hooks=notes):
            clean = float(metric(model(tokens)))
        lost = torch.zeros(2, 4)
        for layer, head in induction.all_heads():
            edit = functools.partial(drop, layer=layer, head=head)
            with model.hooks(fwd_hooks=[(hooks[layer], edit)]):
                lost[layer, head] = clean - float(metric(model(tokens)))
    assert clean == pytest.approx(metric.clean, rel=1e-4)
    assert [(layer, int(lost[layer].argmax())) for layer in range(2)] == list(circuit(kind))


@pytest.mark.real("gemma-3-270m")
@pytest.mark.slow
def test_on_a_real_model_predictions_rank_heads_as_ablation_does():
    """Every head of Gemma. The page on circuits has another list; `python -m benchmarks ablation` does twenty."""
    model = real_models.shared("gemma-3-270m")
    ((prompt, target),) = repeated(1)
    parts = components(model, prompt, ts.SemanticScope(target), baseline="mean")
    checked = verify(model, prompt, parts, "head", "mean", top=72, random=0, steps=(0.1,))
    assert checked.prediction_agreement.low > 0.7
    assert checked.step_errors[0] < 0.1
    assert checked.labels[int(checked.measured.argmin())] == "L11H2", "the one that copies"
    assert float(spearmanr(checked.measured, checked.predicted).statistic) > 0.8
