"""Gradient rules: modified functions inside the Hugging Face model, closed forms, and agreement of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.exact import close
from support.reference import TOKENS
from support.ruled_by_hand import gradients
from tl_scopes import baselines, evaluation
from tl_scopes.errors import ScopeParameterError, UnsupportedModelError
from tl_scopes.jacobian.ruled import _Softened
from tl_scopes.rules import GIM, Rules

A = 7
SCOPE = ts.SemanticScope(A)
# What each rule is by hand.
EACH = {
    "temperature": (Rules(softmax_temperature=2), dict(temperature=2)),
    "attention": (Rules(split_products="attention"), dict(attention=0.5)),
    "mlp": (Rules(split_products=["mlp"]), dict(mlp=0.5)),
    "norms": (Rules(frozen="norms"), dict(norms=True)),
    "GIM": (GIM(), dict(temperature=2, attention=0.5, mlp=0.5, norms=True)),
}
# Grouped queries; norms behind each part and capped scores; one fused matrix, biases, no gate.
BOTH = zoo.known(
    *(f"{kind}/{n}" for n in ("mistral", "gemma2", "gpt2") for kind in ("bridge", "hooked"))
)


def scores(model, rules=None, scope=SCOPE, **options) -> torch.Tensor:
    with zoo.exact_float64():
        return ts.attribute(model, TOKENS, scope, rules=rules, **options).scores


@pytest.mark.parametrize("rule", EACH)
@pytest.mark.parametrize("name", BOTH)
def test_rules_are_modified_functions_of_the_hugging_face_model(name, rule):
    rules, by_hand = EACH[rule]
    architecture = name.split("/")[1]
    wanted = gradients(architecture, TOKENS, A, **by_hand)[""].norm(dim=-1)
    plain = gradients(architecture, TOKENS, A)[""].norm(dim=-1)
    without = architecture == "gpt2" and rule == "mlp"  # its MLP has no gate
    assert ((wanted - plain).abs().max() < 1e-3 * plain.max()) == without
    close(scores(zoo.shared(name), rules)[0], wanted, 1e-6)


@pytest.mark.parametrize("name", [n for n in BOTH if "gemma2" in n])
def test_sites_inside_show_the_share_of_their_factor(name):
    """At queries, values, gate and up, as at the outputs of the wrapped model's projections."""
    inside = {
        "attn.hook_q": "self_attn.q_proj", "attn.hook_v": "self_attn.v_proj",
        "mlp.hook_pre": "mlp.gate_proj", "mlp.hook_pre_linear": "mlp.up_proj",
    }  # fmt: skip
    paths = [f"model.layers.1.{path}" for path in inside.values()]
    by_hand = gradients("gemma2", TOKENS, A, **EACH["GIM"][1], inside=tuple(paths))
    for hook, path in zip(inside, paths):
        wanted = by_hand[path]
        got = scores(zoo.shared(name), GIM(), sites=f"blocks.1.{hook}")
        heads = wanted.unflatten(-1, (len(got), -1)).norm(dim=-1).T
        close(got, heads, 1e-6)


@pytest.mark.parametrize("name", zoo.pairs())
def test_classes_agree(name):
    one, other = (scores(zoo.shared(f"{kind}/{name}"), GIM()) for kind in ("hooked", "bridge"))
    close(one, other, 1e-7)


@pytest.mark.parametrize("name", zoo.names())
def test_values_stay_and_rules_that_change_nothing_give_the_same_bits(name):
    model = zoo.shared(name)
    with zoo.exact_float64():
        plain = ts.attribute(model, TOKENS, SCOPE)
        idle = ts.attribute(model, TOKENS, SCOPE, rules=Rules())
        try:
            ruled = ts.attribute(model, TOKENS, SCOPE, rules=GIM())
        except UnsupportedModelError:
            assert "moe" in zoo.traits(name) or "mixtral" in name
            return
    assert torch.equal(plain.scores, idle.scores)
    assert plain.provenance.rules is idle.provenance.rules is None
    assert plain.prediction == ruled.prediction and ruled.provenance.rules == GIM()
    assert (ruled.scores - plain.scores).abs().max() > 1e-3 * plain.scores.max()


def test_a_softmax_at_temperature_one_has_its_own_gradient_and_others_their_closed_form():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    x[0, 3:] = -torch.inf
    g = torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def softmax(scores):
        return scores.softmax(-1)

    for temperature, share in ((1.0, 1.0), (2.0, 1.0), (0.5, 0.25)):
        leaf = x.clone().requires_grad_()
        pattern = _Softened.apply(leaf, softmax, temperature, share)
        assert torch.equal(pattern, x.softmax(-1))
        (got,) = torch.autograd.grad(pattern, leaf, g)
        other = x.clone().requires_grad_()
        # d softmax(x / T) / dx without its factor 1 / T.
        (wanted,) = torch.autograd.grad((other / temperature).softmax(-1), other, g)
        torch.testing.assert_close(got, share * temperature * wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [n for n in BOTH if "mistral" in n])
def test_blocks_that_run_again_follow_the_same_rules(name):
    model, fisher = zoo.shared(name), ts.FisherScope(rank=2)
    for rules in (GIM(), Rules(frozen="both")):
        once, again = (
            ts.attribute(model, TOKENS, fisher, rules=rules, checkpoint_blocks=again).scores
            for again in (False, True)
        )
        assert torch.equal(once, again)


@pytest.mark.parametrize("name", zoo.known("bridge/mixtral"))
def test_gate_and_up_of_experts_are_refused(name):
    model = zoo.shared(name)
    assert scores(model, Rules(2, "attention", "norms")).max() > 0
    with pytest.raises(UnsupportedModelError, match=r'hook_pre_linear.*use "attention"'):
        scores(model, GIM())


def _fused(query_input, **_):
    queries = query_input[:, None]
    return torch.nn.functional.scaled_dot_product_attention(*[queries] * 3, is_causal=True)[:, 0]


@pytest.mark.parametrize("name", zoo.known("hooked/mistral"))
@pytest.mark.parametrize(
    ("forward", "why"),
    [(_fused, "one fused kernel"), (lambda query_input, **_: query_input / 2, "shows no softmax")],
)
def test_attention_that_shows_no_softmax_is_refused(name, forward, why):
    model = zoo.build(name)
    model.blocks[1].attn.forward = forward
    for rules in (Rules(softmax_temperature=2), Rules(split_products="attention")):
        with pytest.raises(UnsupportedModelError, match=why):
            scores(model, rules)


@pytest.mark.parametrize("name", zoo.known("hooked/mistral"))
def test_hooks_that_a_pass_goes_around_are_refused(name):
    model = zoo.build(name)
    model.blocks[1].mlp.forward = lambda x: x / 2
    assert scores(model, Rules(frozen="patterns")).max() > 0
    with pytest.raises(UnsupportedModelError, match=r"mlp.hook_pre'.* does not reach"):
        scores(model, GIM())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (dict(softmax_temperature=0), "softmax_temperature is 0; allowed: a number above 0"),
        (dict(softmax_temperature=float("nan")), "softmax_temperature is nan"),
        (dict(softmax_temperature="2"), "softmax_temperature is '2'"),
        (dict(split_products="heads"), 'split_products is \'heads\'; allowed: None, "attention", "mlp"'),
        (dict(split_products=3), "split_products is 3"),
        (dict(frozen="all"), 'frozen is \'all\'; allowed: None, "patterns", "norms"'),
    ],
)  # fmt: skip
@pytest.mark.wrong_types
def test_wrong_rules_are_named(arguments, what):
    with pytest.raises(ScopeParameterError, match=what):
        Rules(**arguments)


@pytest.mark.wrong_types
def test_what_is_no_rule_is_refused_wherever_rules_go():
    model = zoo.shared(BOTH[0])
    wrong: Any = "GIM"
    asks: list[Any] = [
        lambda: ts.attribute(model, TOKENS, ts.SemanticScope(A, rules=wrong)),
        lambda: baselines.InputXGradient(rules=wrong),
    ]
    for ask in asks:
        with pytest.raises(ScopeParameterError, match=r"allowed: Rules\(...\), GIM\(\)"):
            ask()
    for method in (baselines.Random(), ts.SemanticScope, "semantic"):
        with pytest.raises(ScopeParameterError, match="takes no gradient rules"):
            GIM().on(method)


@dataclass(frozen=True)
class Own(ts.Scope):
    """One without a field for rules."""

    target: Any = None
    name, units = "own", "logit"

    def parameters(self):
        return {}

    def explain(self, read):
        token = read.resolve(self.target)
        return ts.Explained.single(read.head.column(token.id), token)


def test_scopes_and_baselines_carry_rules():
    model = zoo.shared(BOTH[0])
    wanted = scores(model, GIM())
    carried = [ts.SemanticScope(A, rules=GIM()), GIM().on(Own(A))]
    carried += [baselines.GradientNorm(A, of="logit", rules=GIM())]
    for scope in carried:
        assert torch.equal(scores(model, scope=scope), wanted)
    # The call's come before the scope's.
    assert torch.equal(scores(model, Rules(), carried[0]), scores(model))
    with zoo.exact_float64():
        sequence = ts.attribute_sequence(model, TOKENS, carried[0], positions=[len(TOKENS) - 1])
        batch = ts.attribute_batch(model, [TOKENS] * 3, [SCOPE, carried[0], carried[1]])
        product = baselines.InputXGradient(A, of="logit", reduce="sum", rules=GIM())
        by_sum = product.attribute(model, TOKENS)
        integral = baselines.IntegratedGradients(
            A, steps=1, rule="published", of="logit", rules=GIM()
        )
        once = baselines.InputXGradient(A, of="logit", rules=GIM())
        twice = [m.attribute(model, TOKENS) for m in (integral, once)]
    close(sequence.scores[0], wanted, 1e-12)
    for got, plain in zip(batch, (scores(model), wanted, wanted)):
        close(got.scores, plain, 1e-12)
    assert by_sum.provenance.rules == GIM() and "rules" not in by_sum.scope.parameters
    x = model.run_with_cache(torch.tensor([TOKENS]))[1]["blocks.0.hook_resid_pre"][0]
    by_hand = gradients(BOTH[0].split("/")[1], TOKENS, A, **EACH["GIM"][1])[""]
    close(by_sum.scores[0], (x * by_hand).sum(-1), 1e-6)
    close(twice[0].scores, twice[1].scores, 1e-12)


@pytest.mark.parametrize("options", [dict(samples=200), {}], ids=["sampled", "each"])
def test_spans_and_reruns_in_a_wider_precision_follow_rules(options):
    """The squares of the reads' scores add up, and a sampled sum is near."""
    model, scope, span = zoo.shared(BOTH[0]), ts.SemanticScope(ts.NEXT_TOKEN), (3, 6)
    with zoo.exact_float64():
        found = ts.attribute(model, TOKENS, scope, span=span, rules=GIM(), **options)
        each = ts.attribute_sequence(model, TOKENS, scope, positions=[2, 3, 4], rules=GIM()).scores
    assert found.provenance.rules == GIM()
    wanted = each.square().sum(0).sqrt()
    close(found.scores, wanted, 0.25 if options else 1e-12)
    half = zoo.shared(BOTH[0], torch.float32)
    rerun = ts.attribute(half, TOKENS, SCOPE, stability=True, rules=GIM()).stability
    assert rerun is not None and rerun.largest_error[0] < 1e-4  # of plain gradients it would be far


def test_a_target_made_fixed_keeps_the_rules():
    from tl_scopes.scopes.pinning import pinned

    for scope in (GIM().on(Own()), ts.SemanticScope(rules=GIM())):
        assert pinned(scope, A).rules == GIM() and pinned(scope, A).target == A


def test_evaluation_tells_methods_with_rules_apart():
    model = zoo.shared(BOTH[0])
    halves = Rules(split_products="attention")
    methods = [
        SCOPE, ts.SemanticScope(A, rules=GIM()), ts.SemanticScope(A, rules=halves),
        baselines.InputXGradient(A), baselines.InputXGradient(A, rules=GIM()),
    ]  # fmt: skip
    labels = list(evaluation.labelled(methods))
    assert labels[1:3] == [
        f"semantic(target={A}, rules=GIM)",
        f"semantic(target={A}, rules=split_products=attention)",
    ]
    from tl_scopes.adapter.view import view_of
    from tl_scopes.evaluation.methods import score

    with zoo.exact_float64():
        (found,) = score(view_of(model), [TOKENS], methods, -1)
        alone = [m.attribute(model, TOKENS).scores[0] for m in methods[3:]]
    wanted = [scores(model)[0], scores(model, GIM())[0], scores(model, halves)[0], *alone]
    for got, one in zip(found, wanted):
        close(got, one, 1e-12)


def test_files_and_generated_answers_name_the_rules(tmp_path):
    model = zoo.shared(BOTH[0], torch.float32)
    rules = Rules(2, frozen=["norms"])
    answer = ts.attribute_generation(model, TOKENS, max_new_tokens=2, rules=rules)
    kept = ts.SequenceAttribution.load(answer.save(tmp_path / "answer.safetensors"))
    assert kept.provenance == answer.provenance and kept.provenance.rules == rules
    assert str(rules) == "softmax_temperature=2.0, frozen=norms" and str(GIM()) == "GIM"
