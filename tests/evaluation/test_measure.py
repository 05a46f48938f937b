"""Comprehensiveness, sufficiency and leave-one-out agreement, against passes and sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import tl_scopes as ts
from support import zoo
from support.rankings import Failing, Given, embedding, log_probs
from support.traces import PLAIN, model_state
from tl_scopes import baselines
from tl_scopes.errors import ScopeParameterError, TargetError
from tl_scopes.evaluation import Settings, measure
from tl_scopes.evaluation.ablations import COLUMNS, agreement, area

IDS = zoo.tokenizer()(zoo.LONG_TEXT).input_ids
N = len(IDS) - 1  # tokens after BOS
SCORES = tuple(float((7 * t) % 11) for t in range(len(IDS)))
GIVEN = Given(SCORES)


def ranked(upto: int) -> list[int]:
    """Positions after BOS by score: those that the method leaves at 0 come last, in order."""
    known = [SCORES[t] if t <= upto else 0.0 for t in range(len(IDS))]
    return sorted(range(1, len(IDS)), key=lambda t: (-known[t], t))


def table(rows) -> dict[tuple, float]:
    """By method, metric, replacement and, where there is one, fraction."""
    keys = ("method", "metric", "replacement", "fraction")
    return {tuple(r[k] for k in keys if r[k] == r[k]): r["value"] for r in rows}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("target", ["predicted", "gold"])
def test_every_row_is_what_plain_hooks_give(name, target):
    model = zoo.shared(name)
    fractions, position = (0.1, 0.3), len(IDS) - 2
    kinds = ("zero", "pad")
    settings = Settings(fractions, kinds, target=target, leave_one_out="zero", position=-2)
    with zoo.exact_float64():
        log_probs(model, IDS, position)  # a bridge wires hooks of its own in its first pass
        untouched = model_state(model)
        found = table(measure(model, [IDS], {"given": GIVEN}, settings))
        assert model_state(model) == untouched
        before = log_probs(model, IDS, position)
        top = int(before.argmax())
        token = IDS[-1] if target == "gold" else top
        order = ranked(position)
        assert found["", "correct", ""] == (top == IDS[-1])
        assert found["", "log_prob", ""] == pytest.approx(float(before[token]), abs=1e-9)
        for kind in kinds:
            by = 0.0 if kind == "zero" else embedding(model, model.tokenizer.pad_token_id)
            for what in ("comprehensiveness", "sufficiency"):
                falls = []
                for fraction in fractions:
                    k = max(1, int(N * fraction))
                    chosen = order[:k] if what == "comprehensiveness" else order[k:]
                    after = log_probs(model, IDS, position, chosen, by)
                    falls.append(float(before[token] - after[token]))
                    kl = float((before.exp() * (before - after)).sum())
                    flipped = float(int(after.argmax()) != top)
                    wanted = {what: falls[-1], f"{what}_kl": kl, f"{what}_flip": flipped}
                    got = {name: found["given", name, kind, fraction] for name in wanted}
                    assert got == pytest.approx(wanted, abs=1e-8)
                expected = 0.2 * sum(falls) / 2
                assert found["given", f"aopc_{what}", kind] == pytest.approx(expected, abs=1e-8)
        left_out = []
        for t in range(1, position + 1):
            after = log_probs(model, IDS, position, [t])
            left_out.append(float((before.exp() * (before - after)).sum()))
    own = SCORES[1 : position + 1]
    rho = stats.spearmanr(own, left_out).statistic
    tau = stats.kendalltau(own, left_out, variant="b").statistic
    best = int(np.argmax(own))
    above = sum(v > left_out[best] for v in left_out) / len(left_out)
    wanted = {"loo_spearman": rho, "loo_kendall": tau, "loo_top_rank": above}
    assert {name: found["given", name, "zero"] for name in wanted} == pytest.approx(
        wanted, abs=1e-9
    )


def test_agreement_by_hand():
    found = agreement(np.array([4.0, 3, 2, 1]), np.array([1.0, 4, 3, 2]), 0.5)
    # Ranks 4 3 2 1 and 1 4 3 2: differences 3 1 1 1, so 1 - 6 * 12 / (4 * 15).
    assert found["loo_spearman"] == pytest.approx(-0.2)
    assert found["loo_kendall"] == pytest.approx(0)  # three pairs agree, three do not
    assert found["loo_jaccard"] == pytest.approx(1 / 3)  # {0, 1} and {1, 2}
    assert found["loo_top_rank"] == 3 / 4
    assert agreement(np.arange(20.0), np.arange(20.0), 0.11)["loo_jaccard"] == 1
    flat = agreement(np.ones(4), np.arange(4.0), 1)
    assert math.isnan(flat["loo_spearman"]) and math.isnan(flat["loo_kendall"])


def test_area_by_hand():
    # The published weights: 0.025, 0.075, 0.05.
    assert area([1.0, 2.0, 4.0], Settings()) == pytest.approx(0.025 + 0.15 + 0.2)
    assert area([1.0, 2.0, 4.0], Settings(area="mean")) == pytest.approx(7 / 3)
    assert area([3.0], Settings(fractions=[0.2], area="mean")) == 3


def test_leave_one_out_agrees_with_itself():
    model = zoo.shared(PLAIN[-1])
    for kind in ("zero", "pad", "hide"):
        settings = Settings(leave_one_out=kind, top=3)
        found = table(measure(model, [IDS], [baselines.LeaveOneOut(replacement=kind)], settings))
        (name,) = {key[0] for key in found} - {""}
        wanted = {"loo_spearman": 1, "loo_kendall": 1, "loo_jaccard": 1, "loo_top_rank": 0}
        assert {key: found[name, key, kind] for key in wanted} == pytest.approx(wanted)


def test_random_scores_are_no_better_than_chance():
    model = zoo.shared(PLAIN[-1])
    settings = Settings(fractions=(0.05, 0.1), leave_one_out="zero", sufficiency=False)
    draws = {str(seed): baselines.Random(seed) for seed in range(150)}
    rows = [r for r in measure(model, [IDS], draws, settings) if r["method"]]
    before = log_probs(model, IDS, len(IDS) - 1)
    top = int(before.argmax())
    without = [log_probs(model, IDS, len(IDS) - 1, [t]) for t in range(1, len(IDS))]
    each = [float(before[top] - after[top]) for after in without]
    for metric, chance in (("comprehensiveness", np.mean(each)), ("loo_spearman", 0.0)):
        values = [r["value"] for r in rows if r["metric"] == metric]
        half = 3 * np.std(values) / math.sqrt(len(draws))  # three standard errors
        assert abs(np.mean(values) - chance) < half
    # Scores of a real method are not: leave-one-out's first token costs most.
    best = table(measure(model, [IDS], [baselines.LeaveOneOut(measure="log_prob")], settings))
    got = best["leave_one_out(measure=log_prob)", "comprehensiveness", "zero", 0.05]
    assert got == pytest.approx(max(each), rel=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_prompts_together_are_prompts_alone(name):
    model = zoo.shared(name)
    prompts = [IDS, IDS[:5], IDS[:9], zoo.TEXT]
    methods = [ts.SemanticScope(), ts.FisherScope(rank=2), baselines.InputXGradient(), GIVEN]
    settings = Settings(leave_one_out="mean", replacements=("bos", "mean", "hide"))
    together = measure(model, prompts, methods, settings)
    assert list(together[0]) == list(COLUMNS)
    assert [r["index"] for r in together] == sorted(r["index"] for r in together)
    for i, prompt in enumerate(prompts):
        own = [r for r in together if r["index"] == i]
        alone = measure(model, [prompt], methods, settings)
        assert [r["metric"] for r in own] == [r["metric"] for r in alone]
        got, wanted = ([r["value"] for r in rows] for rows in (own, alone))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_one_attribution_pass_serves_all_scopes(monkeypatch):
    model = zoo.shared(PLAIN[-1])
    scopes = [ts.SemanticScope(), ts.TemperatureScope(), ts.FisherScope(), ts.FisherScope(rank=4)]
    measure(model, [IDS], scopes)
    rows: list[int] = []
    forward = type(model.blocks[0]).forward

    def noted(self, *args, **kwargs):
        if self is model.blocks[0]:
            rows.append(len((args or tuple(kwargs.values()))[0]))
        return forward(self, *args, **kwargs)

    # No hook: under those of the user's every prompt is run alone.
    monkeypatch.setattr(type(model.blocks[0]), "forward", noted)
    measure(model, [IDS, IDS[:12]], scopes)
    # Both prompts' scopes, then each prompt's ablations, with the intact one among them.
    assert len(rows) == 3 and rows[0] == 2
    assert all(n <= 1 + 4 * 3 * 2 for n in rows[1:])


def test_a_prompt_that_fails_is_told_and_stops_no_other():
    model = zoo.shared(PLAIN[-1])
    prompts = [IDS, "", IDS[:4], [10**6], IDS[:6]]
    rows = measure(model, prompts, [Failing(4), ts.SemanticScope()], Settings())
    errors = {r["index"]: r["error"] for r in rows if r["error"]}
    assert set(errors) == {1, 2, 3}
    assert errors[1].startswith("EmptyPromptError") and errors[3].startswith("PromptError")
    assert errors[2] == "RuntimeError: no scores for <this> length"
    assert {r["index"] for r in rows if r["metric"] == "aopc_comprehensiveness"} == {0, 4}
    wrong = [r for r in rows if r["error"]]
    assert {(r["method"], r["metric"]) for r in wrong} == {("", "error")}
    assert all(math.isnan(r["value"]) for r in wrong)


def test_gold_needs_a_token_that_follows():
    model = zoo.shared(PLAIN[-1])
    (row,) = measure(model, [IDS], [GIVEN], Settings(target="gold"))
    assert row["error"].startswith(TargetError.__name__)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    "bad",
    [
        {"fractions": ()},
        {"fractions": (0.2, 0.1)},
        {"fractions": (0.1, 1.0)},
        {"fractions": "abc"},
        {"fractions": (0.2,)},
        {"replacements": ()},
        {"replacements": ("zero", "zero")},
        {"replacements": ("nothing",)},
        {"target": "best"},
        {"area": "sum"},
        {"leave_one_out": "none"},
        {"top": 0},
        {"top": 1.5},
        {"top": True},
        {"seed": -1},
        {"sufficiency": 1},
    ],
    ids=str,
)
def test_bad_settings_are_named(bad):
    with pytest.raises(ScopeParameterError, match=next(iter(bad)).split("_")[0][:5]):
        Settings(**bad)


def test_settings_survive_a_manifest():
    settings = Settings(fractions=[0.1, 0.2], replacements="pad", leave_one_out="hide", top=5)
    assert Settings.from_dict(settings.to_dict()) == settings


def test_tokens_after_the_read_position_are_never_chosen():
    """They score 0, which is more than a negative score; they cannot matter."""
    below = Given(tuple(-1.0 - t for t in range(len(IDS))))
    above = Given(tuple(99.0 - t for t in range(len(IDS))))  # the same order
    settings = Settings(fractions=(0.1, 0.3), sufficiency=True, position=4)
    with zoo.exact_float64():
        found = table(measure(zoo.shared(PLAIN[0]), [IDS], {"b": below, "a": above}, settings))
    ours = {key[1:]: value for key, value in found.items() if key[0] == "b"}
    assert ours == {key[1:]: value for key, value in found.items() if key[0] == "a"}
    assert ours["comprehensiveness", "zero", 0.1] != 0


def test_a_prompt_of_which_nothing_can_be_replaced_is_an_error():
    (row,) = measure(zoo.shared(PLAIN[0]), [IDS[:2]], [GIVEN], Settings(position=-2))
    assert row["metric"] == "error" and "position 0 is BOS" in row["error"]
