"""Directions made elsewhere: linear probes, steering vectors, Jacobian-lens vectors.

Each is checked against the code it comes from, which is handed activations of the model: scikit-learn's decision
functions by finite differences, TransformerLens's lens against a Jacobian of its own. SAEs: `test_targets_sae`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.ci import in_ci
from support.marks import each_class
from support.reference import HEADS, POSITION, TOKENS, norms
from support.targets import STREAM, by_autograd, check_heads, close, pulled, scores, zeros
from tl_scopes.errors import ScopeParameterError

try:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError:
    if in_ci():
        raise
    pytest.skip("scikit-learn is not installed", allow_module_level=True)

NEW_LINE = int(metadata.version("transformer-lens").split(".")[0]) >= 4


def activations(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The stream entering block 2 after many tokens, [n, d_model], and those tokens, [n]."""
    model, found = zoo.shared(name), []
    tokens = torch.randint(4, zoo.D_VOCAB, (60, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), zoo.exact_float64():
        model.run_with_hooks(tokens, fwd_hooks=[(STREAM, lambda a, hook: found.append(a))])
    return found[0][:, 2:].flatten(0, 1), tokens[:, 2:].flatten()


# Estimator, number of classes, the output that is linear in the activation, and its direction.
PROBES: dict[str, tuple[Callable[[], Any], int, Callable, Callable]] = {
    "logistic": (
        LogisticRegression,
        2,
        lambda probe, x: probe.decision_function(x),
        lambda probe: probe.coef_[0],
    ),
    "one of three classes": (
        LogisticRegression,
        3,
        lambda probe, x: probe.decision_function(x)[:, 1],
        lambda probe: probe.coef_[1],
    ),
    "standardised": (
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        2,
        lambda probe, x: probe.decision_function(x),
        lambda probe: probe[1].coef_[0] / probe[0].scale_,
    ),
    "whitened": (
        lambda: make_pipeline(PCA(8, whiten=True), Ridge()),
        2,
        lambda probe, x: probe.predict(x),
        lambda probe: probe[1].coef_ / np.sqrt(probe[0].explained_variance_) @ probe[0].components_,
    ),
}


@each_class
@pytest.mark.parametrize("kind", PROBES)
def test_a_linear_probe(name, kind):
    """Finite differences of what scikit-learn says of the activation, through the whole model."""
    make, classes, output, direction = PROBES[kind]
    x, tokens = activations(name)
    probe = make().fit(x.numpy(), tokens.numpy() % classes)
    v = torch.from_numpy(direction(probe))

    def said(h: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(output(probe, h.numpy()))

    wanted = norms(reference.of(name).finite_difference("embed", said, of=2))
    close(scores(zoo.shared(name), ts.DirectionScope(v, site=2)), wanted, 1e-7)
    if kind == "standardised":
        unscaled = ts.DirectionScope(torch.from_numpy(probe[1].coef_[0]), site=2)
        raw = scores(zoo.shared(name), unscaled)
        assert not torch.allclose(raw / raw.sum(), wanted / wanted.sum(), rtol=1e-2)
    if kind == "logistic":
        value = said(reference.of(name).at_read(2)[None])[0]
        check_heads(name, v, value, constant=probe.intercept_[0])


@each_class
@pytest.mark.wrong_types  # checked annotations would say Tensor before the scope can convert it
def test_a_probe_s_own_array_will_do(name):
    array = np.linspace(-1, 1, 16)
    tensor = ts.DirectionScope(torch.from_numpy(array), site=2)
    for v in (array, array.tolist()):
        close(
            scores(zoo.shared(name), ts.DirectionScope(v, site=2)),
            scores(zoo.shared(name), tensor),
            1e-6,
        )


@each_class
def test_a_steering_vector(name):
    """A difference of means: what moves it, in the plain model and while the model is steered along it."""
    x, tokens = activations(name)
    v = x[tokens % 2 == 1].mean(0) - x[tokens % 2 == 0].mean(0)
    scope, model = ts.DirectionScope(v, site=2), zoo.shared(name)
    plain = scores(model, scope)
    close(plain, norms(reference.of(name).finite_difference("embed", lambda h: h @ v, of=2)), 1e-7)
    # Where it is added, a step along it is felt in full, at the read position alone.
    at_site = scores(model, scope, sites=STREAM)
    close(at_site[POSITION], v.norm())
    assert at_site.count_nonzero() == 1

    with model.hooks([("blocks.1.hook_resid_pre", lambda a, hook: a + 4 * v)]):
        steered = scores(model, scope)
    deltas = {"embed": zeros(name, "embed"), 1: 4 * v}
    close(steered, norms(pulled(name, lambda h: h @ v, deltas, 2)[0][0]))
    assert not torch.allclose(steered, plain, rtol=1e-2)
    check_heads(name, v, reference.of(name).at_read(2) @ v)


@pytest.fixture(scope="module", params=["bridge/gpt2", "bridge/llama"])
def lens(request):
    if not NEW_LINE:
        pytest.skip("transformer-lens has the Jacobian lens from 4.0 on")
    from transformer_lens.tools.analysis import JacobianLens

    model = zoo.shared(request.param)
    options = dict(corpus="tests", skip_first_positions=0, show_progress=False)
    with zoo.exact_float64():
        fitted = JacobianLens.fit(model, [zoo.LONG_TEXT, zoo.TEXT], **options)
        one_token = JacobianLens.fit(model, ["a"], **options)
    return request.param, fitted, one_token


@pytest.mark.parametrize("layer", [0, 1])
def test_jacobian_lens_vectors(lens, layer):
    """Read at the output of block `layer`, which is the stream that enters the next one."""
    name, fitted, _ = lens
    model = zoo.shared(name)
    with zoo.exact_float64():
        (v,) = fitted.lens_vectors(model, zoo.ONE_TOKEN, layer)
    wanted = by_autograd(name, layer + 1, lambda h: h @ v.double())
    for site in (layer + 1, f"blocks.{layer}.hook_out"):
        close(scores(model, ts.DirectionScope(v, site=site)), wanted)
    if layer == 1:
        check_heads(name, v, reference.of(name).at_read(2) @ v.double())


def test_a_jacobian_lens_of_one_token_is_a_scope(lens):
    """With one source position, whose one target it is, the lens holds the Jacobian that a scope pulls through."""
    name, _, one_token = lens
    model = zoo.shared(name)
    target, n_layers = model.to_single_token(zoo.ONE_TOKEN), model.cfg.n_layers
    last = ts.DirectionScope(model.W_U[:, target], site=n_layers, position=0)
    assert len(model.to_tokens("a")[0]) == 2
    with zoo.exact_float64():
        got = ts.attribute(model, "a", last, sites=list(range(1, n_layers))).scores[:, 0]
        vectors = [one_token.lens_vectors(model, target, layer)[0] for layer in range(n_layers - 1)]
    close(got, norms(torch.stack(vectors)).double(), 1e-6)


@each_class
@pytest.mark.parametrize(
    "shape, site, words",
    [
        ((24,), STREAM, r"shape \(24,\).*has \(16,\)"),
        ((16,), HEADS, r"shape \(16,\).*has \(4, 4\)"),
        ((1, 16), STREAM, r"shape \(1, 16\).*has \(16,\)"),
    ],
    ids=["an SAE of another model", "a flat SAE of heads", "all of coef_ or lens_vectors"],
)
def test_directions_of_a_wrong_shape(name, shape, site, words):
    scope = ts.DirectionScope(torch.ones(shape), site=site)
    with pytest.raises(ScopeParameterError, match=words):
        ts.attribute(zoo.shared(name), TOKENS, scope)
