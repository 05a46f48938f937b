"""Components: completeness, finite differences, sums of parts, and the numbers of TransformerLens's own tools."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch

import tl_scopes as ts
from support import chosen, reference, zoo
from support.exact import close, exactly
from support.reference import POSITION, TOKENS
from tl_scopes.circuits import components, scope_metric
from tl_scopes.errors import NonAdditiveError, ProcessedWeightsWarning, UnsupportedModelError

A = 7
# On 3.x its hooks show by-products: sublayers' outputs are scaled on their way into the stream.
REFUSED = {"bridge/granite"} if zoo.HookedTransformer is not None else set()
EVERY = [n for n in zoo.names() if n not in REFUSED]
ADDITIVE = [n for n in zoo.kinds() if n not in REFUSED]
LINEAR = [n for n in ADDITIVE if not n.endswith(("gemma2", "gemma3", "olmo2"))]  # no post-norm
WITH_MLP = [n for n in ADDITIVE if "attn_only" not in zoo.traits(n) and "moe" not in zoo.traits(n)]
SCOPES = {"semantic": ts.SemanticScope(A), "fisher": ts.FisherScope(rank=3)}


# One of each class and kind of norm: what several vectors add is the same on every architecture.
FISHER = zoo.known(
    "hooked/parallel", "hooked/gemma2", "bridge/gpt2", "bridge/gemma3", "bridge/mixtral"
)
CLASSES = zoo.known("hooked/llama", "bridge/llama")
BYS = ["head", "mlp", "layer"]
# Heads are the finest parts: by them every architecture is added up.
WHOLE = [
    *((n, "semantic", "head") for n in EVERY),
    *((n, "semantic", by) for n, by in chosen.each(ADDITIVE, BYS[1:])),
    *((n, "fisher", by) for n, by in chosen.each(FISHER, BYS)),
]
BOTH_SCOPES = [*((n, "semantic") for n in ADDITIVE), *((n, "fisher") for n in FISHER)]


@functools.cache
def found(name: str, by: str = "head", kind: str = "semantic", **options):
    return exactly(components, name, SCOPES[kind], by, **options)


def sums(result, *kinds: str, what: str = "total") -> torch.Tensor:
    """Effects by vector of the rows of some kinds, added up for each layer: [layer, vector, pos]."""
    values = {"total": result.total_vectors, "direct": result.direct_vectors}[what]
    layers = sorted({layer for layer, kind in zip(result.layers, result.kinds) if kind in kinds})
    own = [
        [i for i, kind in enumerate(result.kinds) if kind in kinds and result.layers[i] == layer]
        for layer in layers
    ]
    return torch.stack([values[:, rows].sum(1) for rows in own])


@pytest.mark.parametrize(("name", "kind", "by"), WHOLE)
def test_direct_effects_of_all_that_is_written_sum_to_gradient_times_stream(name, by, kind):
    result = found(name, by, kind)
    # A norm ignores the length of its input: the sum is about zero, so errors are shares of the parts.
    scale = float(result.direct_vectors.abs().max())
    assert scale > 1e-2
    error = (result.direct_vectors.sum((1, 2)) - result.whole).abs().max()
    assert float(error) < 1e-9 * scale
    if kind == "semantic":
        ref = reference.of(name)
        v = zoo.shared(name).W_U[:, A].detach()
        wanted = v @ ref.jacobian(3)[:, POSITION] @ ref.at_read(3)
        assert abs(float(result.whole - wanted)) < 1e-9 * scale


@pytest.mark.parametrize("name", ADDITIVE)
def test_with_norms_held_direct_effects_are_shares_of_the_logit(name):
    result = found(name, frozen="norms")
    model = zoo.shared(name)
    v, y = model.W_U[:, A].detach(), reference.of(name).at_read("final")
    bias = dict(getattr(model, "ln_final", torch.nn.Module()).named_parameters())
    offset = next((b.detach() @ v for n, b in bias.items() if n.split(".")[-1] in ("b", "bias")), 0)
    close(result.direct.sum()[None], (y @ v - offset)[None])


@pytest.mark.parametrize("name", WITH_MLP)
def test_direct_effects_of_neurons_sum_too(name):
    result = found(name, "neuron", frozen="norms")
    close(result.direct_vectors.sum((1, 2)), result.whole)
    assert "neuron" in result.kinds and result.labels[2].startswith("L0N")


@pytest.mark.parametrize("name", ADDITIVE)
def test_only_the_read_position_writes_directly(name):
    result = found(name)
    others = [t for t in range(len(TOKENS)) if t != POSITION]
    assert not result.direct[:, others].any()
    assert not result.total[:, POSITION + 1 :].any()


@pytest.mark.parametrize("name", ADDITIVE)
def test_total_effects_of_heads_are_finite_differences(name):
    ref, result = reference.of(name), found(name)
    v = zoo.shared(name).W_U[:, A].detach()
    hook = "blocks.1.attn.hook_z"
    with torch.no_grad():
        z = ref.forward({}, [hook])[hook]
        n_heads, step = z.shape[2], 1e-4
        wanted = []
        for head in range(n_heads):
            delta = torch.zeros_like(z)
            delta[:, :, head] = z[:, :, head]
            ys = [ref.forward({hook: s * delta})["final"][0, POSITION] @ v
                  for s in (-2 * step, -step, step, 2 * step)]  # fmt: skip
            wanted.append((8 * (ys[2] - ys[1]) - (ys[3] - ys[0])) / (12 * step))
    close(result.heads()[1].sum(-1), torch.stack(wanted), 1e-7)


@pytest.mark.parametrize("what", ["total", "direct"])
@pytest.mark.parametrize("name", LINEAR)
def test_heads_and_biases_add_up_to_attention(name, what):
    close(sums(found(name), "head", "bias", what=what), sums(found(name, "mlp"), "attn", what=what))


@pytest.mark.parametrize("name", sorted({*WITH_MLP} & {*LINEAR}))
def test_neurons_and_biases_add_up_to_the_mlp(name):
    parts = sums(found(name, "neuron"), "neuron", "bias")
    close(parts, sums(found(name, "mlp"), "mlp"))


@pytest.mark.parametrize(("name", "kind"), BOTH_SCOPES)
def test_sensitivity_is_what_attribute_gives(name, kind):
    sites = [f"blocks.{i}.attn.hook_z" for i in range(3)]
    wanted = exactly(ts.attribute, name, SCOPES[kind], sites=sites).scores
    close(found(name, "head", kind).heads("sensitivity").flatten(0, 1), wanted)


@pytest.mark.parametrize("name", zoo.known("hooked/gqa", "bridge/gemma3", "bridge/native"))
def test_several_vectors_are_squared_and_weighted(name):
    result = found(name, "head", "fisher")
    by_hand = sum(w * e**2 for w, e in zip(result.weights, result.total_vectors))
    close(result.total, by_hand)
    at_once = sum(w * e.sum(-1) ** 2 for w, e in zip(result.weights, result.total_vectors))
    close(result.summed(), at_once)
    assert result.squared and result.units.startswith("nats")


@pytest.mark.parametrize(
    "name", zoo.known("hooked/ln", "hooked/gemma2", "bridge/gpt2", "bridge/gemma2")
)
def test_baselines(name):
    other = [TOKENS[0], *reversed(TOKENS[1:])]
    hook = "blocks.1.attn.hook_z"
    z, z_other = (
        reference.Reference(name, ids).forward({}, [hook])[hook][0].detach()
        for ids in (TOKENS[: POSITION + 1], other[: POSITION + 1])
    )
    zero = found(name)
    W = reference.Reference(name)
    leaf = torch.zeros_like(W.forward({}, [hook])[hook])[:, : POSITION + 2].requires_grad_()
    y = W.forward({hook: leaf})["final"][0, POSITION] @ zoo.shared(name).W_U[:, A].detach()
    (g,) = torch.autograd.grad(y, leaf)
    g = g[0, : POSITION + 1]
    for options, base in (
        ({"baseline": "zero"}, torch.zeros_like(z)),
        ({"baseline": "mean"}, z[1:].mean(0)),
        ({"reference": (tuple(TOKENS[: POSITION + 1]), tuple(other[: POSITION + 1]))},
         torch.cat([z[1:], z_other[1:]]).mean(0)),
        ({"corrupted": tuple(other)}, z_other),
    ):  # fmt: skip
        result = found(name, **options)
        wanted = (g * (z - base)).sum(-1).T
        close(result.heads()[1][:, : POSITION + 1], wanted)
        close(result.direct, zero.direct)
        if result.baseline != "zero" and "bias" in result.kinds:
            assert not result.total[result.kinds.index("bias")].any()


@pytest.mark.parametrize("site", ["resid(2)", "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_direction_inside_the_model(name, site):
    v = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scope = ts.DirectionScope(v, site=site)
    result = exactly(components, name, scope, frozen="norms")
    last = {"head": 1, "mlp": 0 if site.endswith("mlp_out") else 1}
    for kind, layer in last.items():
        assert max(n for n, k in zip(result.layers, result.kinds) if k == kind) == layer
    close(result.direct_vectors.sum((1, 2)), result.whole)
    if "mlp_out" not in site:  # the stream itself: a write's direct effect is its product with v
        ref = reference.of(name)
        close(result.whole, (ref.at_read(2) @ v)[None])


@pytest.mark.parametrize("name", zoo.known("hooked/gemma2", "bridge/gemma2"))
def test_half_precision_adds_up_coarsely(name):
    model = zoo.shared(name, torch.bfloat16)
    result = components(model, TOKENS, ts.SemanticScope(A))
    error = (result.direct_vectors.sum((1, 2)) - result.whole).abs() / result.direct.abs().max()
    assert float(error) < 0.05


# ------------------------------------------------------------------------------------ TransformerLens's own tools
@pytest.mark.parametrize("name", ["gpt2", "llama", "pythia"])
def test_totals_are_transformer_lens_attribution_patching(name):
    tools = pytest.importorskip("transformer_lens.tools.analysis.attribution_patching")
    model = zoo.build(f"bridge/{name}")
    clean, corrupt = TOKENS, [TOKENS[0], *reversed(TOKENS[1:])]
    scope = ts.SemanticScope(A)
    metric = scope_metric(model, corrupt, scope)
    prompts = (torch.tensor([ids]) for ids in (clean, corrupt))
    theirs = tools.attribution_patch(model, *prompts, lambda z: metric(z))
    # Theirs takes the gradient on the corrupt run and points to the clean one.
    ours = components(model, corrupt, scope, corrupted=clean)
    for node, score in theirs.node_scores.items():
        if node.kind == "attn_head_out":
            value = -ours.heads()[node.layer, node.head, node.position]
        elif node.kind == "mlp_out":
            value = -ours.total[ours.labels.index(f"{node.layer}_mlp_out"), node.position]
        else:
            continue
        assert float(value) == pytest.approx(float(score), rel=2e-4, abs=2e-5)
    assert sum(node.kind == "attn_head_out" for node in theirs.node_scores) > 10


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_direct_effects_are_transformer_lens_direct_logit_attribution(name):
    tools = pytest.importorskip("transformer_lens.tools.analysis.direct_logit_attribution")
    model = zoo.build(f"bridge/{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.enable_compatibility_mode()
    theirs = tools.direct_logit_attribution(model, torch.tensor([TOKENS]), A, unit="component")
    with pytest.warns(ProcessedWeightsWarning):
        ours = components(model, TOKENS, ts.SemanticScope(A), by="mlp", frozen="norms")
    values = dict(zip(theirs.labels, theirs.attribution.flatten().tolist()))
    shared = [label for label in ours.labels if label in values and label != "embed"]
    assert len(shared) == 6
    for label in shared:
        got = float(ours.direct[ours.labels.index(label), -1])
        assert got == pytest.approx(values[label], rel=1e-3, abs=1e-4)


# ----------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("name", sorted(REFUSED & {*zoo.names()}))
def test_parts_that_do_not_add_up_are_refused(name):
    for by in ("head", "mlp"):
        with pytest.raises(UnsupportedModelError):
            found(name, by)
    assert found(name, "layer").kinds.count("layer") == 3


@pytest.mark.parametrize("name", CLASSES)
def test_a_hook_that_writes_into_the_stream_is_refused(name):
    model = zoo.build(name)
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda a, hook: a + 1.0)]),
        pytest.raises(NonAdditiveError, match="hook of yours"),
    ):
        components(model, TOKENS, ts.SemanticScope(A))


@pytest.mark.parametrize("name", zoo.known("bridge/mixtral"))
def test_neurons_of_experts_are_refused(name):
    with pytest.raises(NonAdditiveError, match="W_out"):
        found(name, "neuron")
