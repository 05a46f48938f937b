"""Frozen gradients: a hand-made linear model, TransformerLens's own hooks detached, and agreement of the classes."""

from __future__ import annotations

import numpy
import pytest
import torch
import zoo
from by_hand import by_hand
from reference import TOKENS

import tl_scopes as ts
from tl_scopes.circuits import components, flow, head_paths
from tl_scopes.errors import ScopeParameterError, UnsupportedModelError
from tl_scopes.frozen import find_norms, fit_norm, parse_frozen

A = 7
SCOPE = ts.SemanticScope(A)
HOOKED = [n for n in zoo.names("hooked") if not zoo.traits(n) & {"embed_norm"}]


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-9) -> None:
    assert wanted.abs().max() > 1e-4, "nothing to compare"
    wanted = wanted.to(got)
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def frozen_scores(model, frozen) -> torch.Tensor:
    with zoo.exact_float64():
        return flow(model, TOKENS, SCOPE, 2, frozen=frozen).scores


@pytest.mark.parametrize("name", zoo.names("hooked", "attn_only"))
def test_both_frozen_is_a_linear_model_made_by_hand(name):
    """Attention only: given patterns and scales, every block is one matrix over positions and widths."""
    model = zoo.shared(name)
    _, cache = model.run_with_cache(torch.tensor([TOKENS]))
    n, d = len(TOKENS), 16
    total = numpy.eye(n * d)
    centring = numpy.eye(d) - 1 / d

    def norm(ln, scale) -> numpy.ndarray:
        if model.cfg.normalization_type is None:
            return numpy.eye(n * d)
        gain = numpy.diag(ln.w.detach().numpy())
        rows = [centring @ gain / float(s) for s in scale.flatten()]
        out = numpy.zeros((n * d, n * d))
        for q, row in enumerate(rows):  # acting on rows, hence transposed
            out[q * d : (q + 1) * d, q * d : (q + 1) * d] = row.T
        return out

    for layer, block in enumerate(model.blocks):
        scale = cache.cache_dict.get(f"blocks.{layer}.ln1.hook_scale")
        # hook_scale of queries, keys and values is one and the same.
        into = norm(block.ln1, scale[0] if scale is not None else None)
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0].numpy()
        W = [(v @ o).detach().numpy() for v, o in zip(block.attn.W_V, block.attn.W_O)]
        heads = sum(numpy.kron(a, w.T) for a, w in zip(pattern, W))
        total = (numpy.eye(n * d) + heads @ into) @ total
    final = cache.cache_dict.get("ln_final.hook_scale")
    total = norm(getattr(model, "ln_final", None), final[0] if final is not None else None) @ total
    v = numpy.zeros(n * d)
    v[-d:] = model.W_U[:, A].detach().numpy()
    wanted = numpy.linalg.norm((v @ total).reshape(n, d), axis=1)
    close(frozen_scores(model, "both"), torch.tensor(wanted))


@pytest.mark.parametrize("frozen", ["patterns", "norms", "both"])
@pytest.mark.parametrize("name", HOOKED)
def test_hooked_transformers_are_as_with_their_own_hooks_detached(name, frozen):
    model = zoo.shared(name)
    ends = {"patterns": ("hook_pattern",), "norms": ("hook_scale",)}
    ends = ends.get(frozen, (*ends["patterns"], *ends["norms"]))
    held = [h for h in model.hook_dict if h.endswith(ends)]
    tokens = torch.tensor([TOKENS])
    with (
        zoo.exact_float64(),
        model.hooks(fwd_hooks=[(h, lambda a, hook: a.detach()) for h in held]),
    ):
        wanted = by_hand(model, tokens, target=A)
    close(frozen_scores(model, frozen), wanted)


@pytest.mark.parametrize("frozen", ["patterns", "norms", "both"])
@pytest.mark.parametrize("name", zoo.pairs())
def test_classes_agree(name, frozen):
    hooked, bridge = zoo.shared(f"hooked/{name}"), zoo.shared(f"bridge/{name}")
    one, other = frozen_scores(hooked, frozen), frozen_scores(bridge, frozen)
    close(one, other, 1e-7)
    assert (one - frozen_scores(hooked, None)).abs().max() > 1e-3 * one.max()


@pytest.mark.parametrize("name", zoo.names())
def test_values_stay_as_they_are(name):
    model = zoo.shared(name)
    with zoo.exact_float64():
        plain, held = (head_paths(model, TOKENS, SCOPE, frozen=frozen) for frozen in (None, "both"))
    assert plain.prediction[0].id == held.prediction[0].id
    assert plain.prediction[0].probability == pytest.approx(
        held.prediction[0].probability, abs=1e-9
    )
    assert held.frozen == ("patterns", "norms")


@pytest.mark.parametrize("name", zoo.names())
def test_every_norm_is_fitted(name):
    model = zoo.shared(name)
    seen: dict = {}
    norms = find_norms(model.modules())

    def note(norm, args, out) -> None:
        seen[norm] = (args[0], out)

    handles = [norm.register_forward_hook(note) for norm in norms]
    try:
        with torch.no_grad(), zoo.exact_float64():
            model(torch.tensor([TOKENS]))
    finally:
        for handle in handles:
            handle.remove()
    assert bool(norms) == ("no_norm" not in zoo.traits(name))
    for norm, (x, y) in seen.items():
        fit = fit_norm(norm, x.reshape(y.shape), y)
        assert fit is not None and fit.error < 1e-10
        assert fit.centred == ("layernorm" in zoo.traits(name) or "Layer" in type(norm).__name__)


def test_a_norm_that_is_none_is_refused():
    name = zoo.names("", "rms")[0]
    model = zoo.build(name)
    norm = find_norms(model.modules())[0]
    handle = norm.register_forward_hook(lambda m, args, out: out + 1.0)
    hook = getattr(norm, "hook_out", None)
    if hook is not None:
        hook.add_hook(lambda a, hook: a + 1.0)
    try:
        with pytest.raises(UnsupportedModelError, match='frozen="patterns"'):
            components(model, TOKENS, SCOPE, frozen="norms")
    finally:
        handle.remove()
        model.reset_hooks()


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [(None, ()), ("norms", ("norms",)), ("both", ("patterns", "norms")),
     (["norms", "patterns"], ("patterns", "norms")), ([], ())],
)  # fmt: skip
def test_what_may_be_asked(asked, wanted):
    assert parse_frozen(asked) == wanted


@pytest.mark.wrong_types
@pytest.mark.parametrize("asked", ["pattern", ["norms", "mlp"], True, 3, [1]])
def test_what_may_not(asked):
    with pytest.raises(ScopeParameterError, match="allowed"):
        parse_frozen(asked)
