"""Methods that explain a whole answer, against autograd through the model, and loops over plain hooks."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.reference import HEADS, TOKENS, close, norms
from tl_scopes import errors
from tl_scopes.baselines import (
    InputXGradient,
    IntegratedGradients,
    LeaveOneOut,
    SemanticPath,
    SmoothGrad,
)

C = ts.ContinuationScope
AFTER, OTHER, N = (9, 5, 30), (12, 7), len(TOKENS)
# Both classes; a soft-cap with an embedding scale, and learned positions.
NAMES = zoo.known("hooked/gemma2", "bridge/gemma2", "bridge/gpt2")
SITES = {"embed": "embed", "resid(2)": 2, HEADS: HEADS}


def found(name: str, method, sites="embed") -> ts.Attribution:
    with zoo.exact_float64():
        return method.attribute(zoo.shared(name), TOKENS, sites=sites)


def at_reads(logits: torch.Tensor, after) -> torch.Tensor:
    """Log-probabilities, [row, read, d_vocab]."""
    return logits[:, N - 1 : N - 1 + len(after)].log_softmax(-1)


def total(logits: torch.Tensor, after) -> torch.Tensor:
    return at_reads(logits, after)[:, range(len(after)), list(after)].sum(1)


def activation(name: str, site, after) -> torch.Tensor:
    ref = reference.Reference(name, [*TOKENS, *after])
    with torch.no_grad():
        return ref.forward({}, [site])[site][0]


def gradients(name: str, site, after, shares=(1.0,)) -> torch.Tensor:
    """Of the log-probability of `after`, with the activation at shares of itself: [share, pos, ...]."""
    x = activation(name, site, after)
    moves = torch.stack([(share - 1) * x for share in shares]).requires_grad_()
    ref = reference.Reference(name, [*TOKENS, *after])
    logits = ref.forward({site: moves}, copies=len(shares))["logits"]
    return torch.autograd.grad(total(logits, after).sum(), moves)[0]


def rows(values: torch.Tensor) -> torch.Tensor:
    """[row, pos]: heads have a row each."""
    return values.reshape(len(values), -1).T


@pytest.mark.parametrize("name", NAMES)
def test_input_x_gradient_at_every_kind_of_site(name):
    signed = found(name, InputXGradient(C(AFTER), reduce="sum"), list(SITES))
    normed = found(name, InputXGradient(C(AFTER)), list(SITES))
    against = found(name, InputXGradient(C(AFTER, OTHER, reduce="mean")), list(SITES))
    wanted: dict[str, list] = {"signed": [], "normed": [], "against": []}
    for site in SITES.values():
        x, g = activation(name, site, AFTER), gradients(name, site, AFTER)[0]
        other = gradients(name, site, OTHER)[0]
        wanted["signed"].append(rows((x * g).sum(-1)))
        wanted["normed"].append(rows(norms(x * g)))
        wanted["against"].append(rows(norms(x[:N] * (g[:N] / 3 - other[:N] / 2))))
    for result, own in zip((signed, normed, against), wanted.values()):
        close(result.scores, torch.cat(own))
    assert signed.tokens.tolist() == [*TOKENS, *AFTER] and against.tokens.tolist() == TOKENS
    logits = zoo.shared(name)(torch.tensor([[*TOKENS, *OTHER]])).detach()
    of_other = sum(against.continuation.versus_log_probs)
    assert of_other == pytest.approx(float(total(logits, OTHER)), abs=1e-6)
    assert signed.continuation.reads == against.continuation.reads == (N - 1, N, N + 1)


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_means_of_gradients_along_them(name):
    x, steps = activation(name, 2, AFTER), 4
    points, weights = np.polynomial.legendre.leggauss(steps)
    shares = (points + 1) / 2
    mean = {
        after: torch.einsum(
            "s,s...->...", torch.from_numpy(weights / 2), gradients(name, 2, after, shares)
        )
        for after in (AFTER, OTHER)
    }
    ig = functools.partial(IntegratedGradients, steps=steps, reduce="sum")
    one = found(name, ig(C(AFTER)), 2)
    # captum holds weights of the quadrature in float32.
    close(one.scores[0], (mean[AFTER] * x).sum(-1), 1e-7)
    both = found(name, ig(C(AFTER, OTHER)), 2)
    products = {after: mean[after] * activation(name, 2, after) for after in mean}
    close(both.scores[0], (products[AFTER][:N] - products[OTHER][:N]).sum(-1), 1e-7)
    misses = []
    for after in (AFTER, OTHER):
        own = activation(name, 2, after)
        ref = reference.Reference(name, [*TOKENS, *after])
        with torch.no_grad():
            ends = [total(ref.forward({2: k * own[None]})["logits"], after) for k in (0, -1)]
        misses.append(float((mean[after] * own).sum() - (ends[0] - ends[1])))
    assert one.scope.parameters["convergence_delta"] == pytest.approx(misses[0], abs=1e-6)
    delta = both.scope.parameters["convergence_delta"]
    assert delta == pytest.approx(misses[0] - misses[1], abs=1e-6)
    path = found(name, SemanticPath(C(AFTER), steps=steps), 2)
    even = gradients(name, 2, AFTER, [(i + 1) / steps for i in range(steps)]).mean(0)
    close(path.scores[0], norms(even * (1 - 1 / steps) * x))


@pytest.mark.parametrize("name", NAMES)
def test_leave_one_out_is_a_loop_over_tokens(name):
    x = activation(name, "embed", AFTER)
    ref = reference.Reference(name, [*TOKENS, *AFTER])
    moves = torch.zeros(len(x), *x.shape, dtype=torch.float64)
    moves[range(len(x)), range(len(x))] = -x
    with torch.no_grad():
        before = at_reads(ref.forward({})["logits"], AFTER)
        after = at_reads(ref.forward({"embed": moves}, copies=len(x))["logits"], AFTER)
    falls = (before - after)[:, range(3), list(AFTER)].sum(1)
    kl = (before.exp() * (before - after)).sum(-1)
    log_prob = found(name, LeaveOneOut(C(AFTER), measure="log_prob"))
    close(log_prob.scores[0], falls)
    close(found(name, LeaveOneOut(C(AFTER))).scores[0], kl.sum(1))
    mean = found(name, LeaveOneOut(C(AFTER, reduce="mean")))
    close(mean.scores[0], kl.mean(1))
    against = found(name, LeaveOneOut(C(AFTER, OTHER), measure="log_prob")).scores[0]
    alone = found(name, LeaveOneOut(C(OTHER), measure="log_prob")).scores[0]
    close(against, (log_prob.scores[0] - torch.nn.functional.pad(alone, (0, 1)))[:N])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "make",
    [
        InputXGradient,
        functools.partial(IntegratedGradients, steps=3, rule="published"),
        functools.partial(SemanticPath, of="log_prob"),
        functools.partial(SmoothGrad, draws=3),
        functools.partial(LeaveOneOut, measure="log_prob", replacement="mean"),
        functools.partial(LeaveOneOut, replacement="bos"),
    ],
    ids=["ixg", "published", "path", "smooth", "out", "kl"],
)
def test_one_token_is_a_target(name, make):
    whole, single = (found(name, make(target)) for target in (C([7]), 7))
    close(whole.scores[:, :N], single.scores)
    assert not whole.scores[:, N:].any()


REFUSED = [
    (errors.ScopeParameterError, "of='logit' to the", lambda: InputXGradient(C([3]), of="logit")),
    (errors.ScopeParameterError, "measure is 'logit'", lambda: LeaveOneOut(C([3]), measure="logit")),
    (errors.ScopeParameterError, "one continuation", lambda: LeaveOneOut(C([3], [4]))),
    (errors.TargetError, "empty", lambda: InputXGradient(C(""))),
    (errors.TargetError, "is None", lambda: InputXGradient(C())),
    (errors.PromptTooLongError, "context", lambda: LeaveOneOut(C([3] * 500))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "message", "make"), REFUSED, ids=["of", "measure", "kl", "empty", "none", "long"]
)
def test_what_is_refused(kind, message, make):
    with pytest.raises(kind, match=message):
        make().attribute(zoo.shared(NAMES[0]), TOKENS)
    with pytest.raises(errors.PositionError, match="follows the prompt's"):
        InputXGradient(C([3])).attribute(zoo.shared(NAMES[0]), TOKENS, position=2)


def test_results_say_what_they_are_of_and_are_kept(tmp_path, capsys):
    scope = C(" on the mat", " cat", of="logit")
    result = InputXGradient(scope, reduce="sum").attribute(zoo.shared(NAMES[0]), "The cat sat")
    assert result.units == "logit" and result.scope.parameters["over_reads"] == "sum"
    again = ts.Attribution.load(result.save(tmp_path / "a.safetensors"))
    assert again.continuation == result.continuation and again.continuation.versus == " cat"
    again.print()
    said = " ".join(capsys.readouterr().out.split())
    assert "Input × gradient of the logits of “·on·the·mat” against that of “·cat”" in said
