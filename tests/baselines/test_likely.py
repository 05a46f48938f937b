"""Tokens replaced by those that the model expects in their place, against whole texts run one by one."""

from __future__ import annotations

import pytest
import torch

from support import zoo
from support.marks import each_class
from support.rankings import Given
from support.refusals import refused
from tl_scopes.baselines import LeaveOneOut
from tl_scopes.baselines.replacements import likely_tokens
from tl_scopes.errors import ScopeParameterError
from tl_scopes.evaluation import Settings, measure
from tl_scopes.jacobian.prompt_run import PromptRun

IDS = zoo.tokenizer()("The cat sat on the mat and the dog").input_ids
N, LAST, SEED = len(IDS), len(IDS) - 1, 3
UNIFORM = torch.rand(8, N, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)


def log_probs(model, ids: list[int]) -> torch.Tensor:
    with zoo.exact_float64(), torch.no_grad():
        return model(torch.tensor([ids]))[0].double().log_softmax(-1)


def texts(model, draws: int) -> list[list[int]]:
    """What is drawn, place by place: the first token below whose sum of probabilities the number lies."""
    p = log_probs(model, IDS).exp()
    found = []
    for draw in range(draws):
        sums = [p[t - 1].cumsum(0) / p[t - 1].sum() for t in range(1, N)]
        found.append([IDS[0], *(int((s <= UNIFORM[draw, t]).sum()) for t, s in enumerate(sums, 1))])
    return found


def replaced(drawn: list[int], positions) -> list[int]:
    return [drawn[t] if t in positions else own for t, own in enumerate(IDS)]


@each_class
def test_leave_one_out_is_a_plain_loop_over_texts(name):
    model = zoo.shared(name)
    before = log_probs(model, IDS)[LAST]
    expected = torch.zeros(N, dtype=torch.float64)
    for drawn in texts(model, 3):
        for t in range(N):
            after = log_probs(model, replaced(drawn, {t}))[LAST]
            expected[t] += (before.exp() * (before - after)).sum() / 3
    method = LeaveOneOut(replacement="likely", draws=3, seed=SEED)
    with zoo.exact_float64():
        found = method.attribute(model, IDS)
        again = method.attribute(model, IDS)
        others = [
            LeaveOneOut(replacement="likely", draws=d, seed=s).attribute(model, IDS).scores
            for d, s in ((3, 4), (2, SEED))
        ]
    torch.testing.assert_close(found.scores[0].double(), expected, rtol=1e-6, atol=1e-7)
    assert found.scores[0, 0].abs() < 1e-12 and (found.scores[0, 1:] > 0).any()
    assert torch.equal(found.scores, again.scores)
    assert not any(torch.allclose(found.scores, scores) for scores in others)
    assert found.scope.parameters["draws"] == 3 and found.scope.parameters["seed"] == SEED
    assert "draws" not in LeaveOneOut().parameters()


@each_class
def test_measures_are_means_over_draws(name):
    model = zoo.shared(name)
    given = Given(tuple(float((7 * t) % 5) for t in range(N)))
    settings = Settings((0.2, 0.5), "likely", leave_one_out="likely", seed=SEED, draws=4)
    with zoo.exact_float64():
        rows = measure(model, [IDS], {"given": given}, settings)
        others = measure(model, [IDS[:4], IDS], {"given": given}, settings)
    among_others = [r["value"] for r in others if r["index"] == 1]
    assert among_others == pytest.approx([r["value"] for r in rows], abs=1e-9, nan_ok=True)
    order = sorted(range(1, N), key=lambda t: (-given.values[t], t))
    before = log_probs(model, IDS)[LAST]
    top = int(before.argmax())
    compared = 0
    for row in rows:
        kind, _, end = row["metric"].partition("_")
        if kind not in ("comprehensiveness", "sufficiency"):
            continue
        k = int((N - 1) * row["fraction"] + 1e-9)
        chosen = set(order[:k] if kind == "comprehensiveness" else order[k:])
        values = []
        for drawn in texts(model, 4):
            after = log_probs(model, replaced(drawn, chosen))[LAST]
            values.append(
                {
                    "": float(before[top] - after[top]),
                    "kl": float((before.exp() * (before - after)).sum()),
                    "flip": float(int(after.argmax()) != top),
                }[end]
            )
        assert row["value"] == pytest.approx(sum(values) / 4, abs=1e-7)
        compared += 1
    assert compared == 12


@each_class
def test_tokens_come_as_often_as_the_model_expects_them(name):
    model = zoo.shared(name)
    run, blocks = PromptRun.ask(model, IDS), 100
    with run.locked(gradients=False):
        drawn = torch.cat([likely_tokens(run, 0, block) for block in range(blocks)])
    assert drawn.shape == (8 * blocks, N) and (drawn[:, 0] == IDS[0]).all()
    p = log_probs(model, IDS).exp()
    for t in (1, 4, LAST):
        counts = torch.bincount(drawn[:, t], minlength=p.shape[1]).double()
        expected = len(drawn) * p[t - 1]
        often = expected > 5
        rest = [(~often).double() @ x for x in (counts, expected)]
        chi = ((counts - expected)[often] ** 2 / expected[often]).sum()
        chi += (rest[0] - rest[1]) ** 2 / max(float(rest[1]), 1.0)
        degrees = int(often.sum())
        assert chi < degrees + 4 * (2 * degrees) ** 0.5 + 8


@pytest.mark.wrong_types
@each_class
def test_likely_tokens_stand_at_the_embedding_only(name):
    method = LeaveOneOut(replacement="likely")
    refused(
        lambda: method.attribute(zoo.shared(name), IDS, sites=1),
        ScopeParameterError,
        "'likely'",
        '"embed" only',
    )
    for bad in (dict(draws=0), dict(seed=-1)):
        refused(lambda b=bad: LeaveOneOut(**b), ScopeParameterError, next(iter(bad)))
