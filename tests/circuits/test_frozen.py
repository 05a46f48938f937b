"""Frozen gradients: a hand-made linear model, TransformerLens's own hooks detached, and agreement of the classes."""

from __future__ import annotations

import numpy
import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.by_hand import by_hand
from support.exact import close
from support.reference import TOKENS
from support.zoo_tables import UNUSUAL
from tl_scopes.circuits import flow, head_paths
from tl_scopes.errors import ScopeParameterError, UnsupportedModelError
from tl_scopes.jacobian.denominators import HeldScales
from tl_scopes.jacobian.held_norms import find_norms, fit_norm
from tl_scopes.rules import parse_frozen

A = 7
SCOPE = ts.SemanticScope(A)
FROZEN = ("patterns", "norms", "both")
HOOKED = [n for n in zoo.names("hooked") if not zoo.traits(n) & {"embed_norm"}]


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


@pytest.mark.parametrize(("name", "frozen"), chosen.each(HOOKED, FROZEN))
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


@pytest.mark.parametrize(("name", "frozen"), chosen.each(zoo.pairs(), FROZEN))
def test_classes_agree(name, frozen):
    hooked, bridge = zoo.shared(f"hooked/{name}"), zoo.shared(f"bridge/{name}")
    one, other = frozen_scores(hooked, frozen), frozen_scores(bridge, frozen)
    close(one, other, 1e-7)
    assert (one - frozen_scores(hooked, None)).abs().max() > 1e-3 * one.max()


@pytest.mark.parametrize("name", zoo.kinds())
def test_values_stay_as_they_are(name):
    model = zoo.shared(name)
    with zoo.exact_float64():
        plain, held = (head_paths(model, TOKENS, SCOPE, frozen=frozen) for frozen in (None, "both"))
    assert plain.prediction[0].id == held.prediction[0].id
    before, after = (result.prediction[0].probability for result in (plain, held))
    assert before == pytest.approx(after, abs=1e-9)
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


ONE_MORE = ("RecurrentGemmaRMSNorm", "Qwen3NextRMSNorm")  # they multiply by 1 + gain


def detached(norm: torch.nn.Module):
    """The norm worked out by hand, with what it divides by detached."""
    kind, gain = type(norm).__name__, getattr(norm, "weight", None)
    eps = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 1e-5)

    def forward(x, *_):
        x = x - x.mean(-1, keepdim=True) if "LayerNorm" in kind else x
        y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt().detach()
        y = y if gain is None else y * (gain + (kind in ONE_MORE))
        bias = getattr(norm, "bias", None)
        return y if bias is None else y + bias

    return forward


def by_hugging_face(hf) -> torch.Tensor:
    """Gradient norms of the logit of A at the embedding, [pos]."""
    leaf: list[torch.Tensor] = []
    final: list[torch.Tensor] = []

    def root(module, args, out):
        leaf.append(out.detach().requires_grad_())
        return leaf[0]

    hf.get_input_embeddings().register_forward_hook(root)
    hf.get_output_embeddings().register_forward_pre_hook(lambda _, args: final.append(args[0]))
    with zoo.exact_float64():
        hf(torch.tensor([TOKENS]), use_cache=False)
    logit = final[0][0, -1] @ hf.get_output_embeddings().weight[A]
    return torch.autograd.grad(logit, leaf[0])[0][0].norm(dim=-1)


@pytest.mark.parametrize("name", [n for n in UNUSUAL if zoo.TransformerBridge])
def test_norms_of_the_wrapped_model_are_held(name):
    """As in a Hugging Face model that no bridge has touched, with every norm's denominator detached."""
    hf, bridge = zoo.hf_model(name), zoo.boot(zoo.hf_model(name))
    for module in hf.modules():
        if "Norm" in type(module).__name__ and not list(module.children()):
            module.forward = detached(module)
    found = frozen_scores(bridge, "norms")
    assert (found - frozen_scores(bridge, None)).abs().max() > 1e-2 * found.max()
    # Embeddings are scaled by 4 there, before the stream that scores are in the unit of.
    close(found, by_hugging_face(hf) / (4 if name == "recurrent-gemma" else 1))


@pytest.mark.skipif(zoo.TransformerBridge is None, reason="no bridge")
def test_a_norm_in_which_no_scale_is_seen_is_held_or_refused():
    def changed(forward) -> torch.nn.Module:
        hf = zoo.hf_model("llama")
        norm = hf.model.layers[1].post_attention_layernorm
        norm.forward = lambda x: forward(x) * norm.weight
        return hf

    of_absolutes = changed(lambda x: x / x.abs().mean(-1, keepdim=True))
    wanted = changed(lambda x: x / x.abs().mean(-1, keepdim=True).detach())
    for module in wanted.modules():
        if "Norm" in type(module).__name__ and "forward" not in vars(module):
            module.forward = detached(module)
    close(frozen_scores(zoo.boot(of_absolutes), "norms"), by_hugging_face(wanted))
    with pytest.raises(UnsupportedModelError, match=r'LlamaRMSNorm.*frozen="patterns"'):
        frozen_scores(zoo.boot(changed(torch.tanh)), "norms")
    assert torch.ones(1, requires_grad=True).rsqrt().requires_grad, "what is the user's is held too"


def normalised(x: torch.Tensor) -> dict[str, torch.Tensor]:
    one = x.new_ones(x.shape[-1])
    return {
        "layer_norm": torch.nn.functional.layer_norm(x, [4], one * 3, one, 1e-3),
        "rms_norm": torch.nn.functional.rms_norm(x, [4], one * 3),
        "normalize": torch.nn.functional.normalize(x, dim=-1),
        "power": x * (x.square().mean(-1, keepdim=True) + 1) ** -0.5,
        "norm": x / x.norm(dim=-1, keepdim=True),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", normalised(torch.ones(4)))
def test_each_operation_is_linear_for_a_given_scale(kind, dtype):
    """Then values are as before, and the derivative along x itself is the output, less its bias."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    plain = normalised(x)[kind].detach()
    with HeldScales():
        held = normalised(x)[kind]
    assert torch.equal(held, plain)
    (g,) = torch.autograd.grad(held.sum(), x)
    along = (g.double() * x.double()).sum(-1).detach()
    wanted = (plain.double() - float(kind == "layer_norm")).sum(-1)
    torch.testing.assert_close(along, wanted, rtol=0, atol=1e-9 if dtype == torch.float64 else 0.1)


def test_norms_over_several_axes_are_refused():
    for norm in (torch.nn.LayerNorm([3, 4]), torch.nn.GroupNorm(2, 4)):
        with HeldScales(), pytest.raises(UnsupportedModelError, match='frozen="patterns"'):
            norm(torch.randn(2, 4, 3, 4))


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
