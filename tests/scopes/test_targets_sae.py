"""Features of SAELens's SAEs as directions, against SAELens's own encoder differentiated through the model."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.ci import required
from support.marks import each_class
from support.reference import HEADS, POSITION, TOKENS
from support.targets import D_MODEL, STREAM, by_autograd, check_heads, close, scores
from tl_scopes.circuits import components
from tl_scopes.errors import SiteError

D_SAE = 48


@pytest.fixture(scope="module")
def sae_lens():
    if int(metadata.version("transformer-lens").split(".")[0]) >= 4:
        pytest.skip("SAELens needs transformer-lens below 4")
    with zoo.building():  # importing it warns of what it uses of transformer-lens
        return required("sae_lens")


def column(sae, i: int, x: torch.Tensor) -> torch.Tensor:
    return sae.W_enc[:, i]


def pulled_back(sae, i: int, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(sae.encode(x[None])[0, i], x)[0]


# Class, fields of its configuration, hook, and the direction of feature i's activation where it is active.
SAES = {
    "standard": ("StandardSAE", {}, STREAM, column),
    "b_dec not subtracted": ("StandardSAE", {"apply_b_dec_to_input": False}, STREAM, column),
    "jumprelu": ("JumpReLUSAE", {}, STREAM, column),
    "topk": ("TopKSAE", {"k": 8}, STREAM, column),
    "topk by decoder norm": (
        "TopKSAE",
        {"k": 8, "rescale_acts_by_decoder_norm": True},
        STREAM,
        lambda sae, i, x: sae.W_enc[:, i] * sae.W_dec[i].norm(),
    ),
    "gated": ("GatedSAE", {}, STREAM, lambda sae, i, x: sae.W_enc[:, i] * sae.r_mag[i].exp()),
    "transcoder": (
        "Transcoder",
        {"apply_b_dec_to_input": False, "d_out": 8},
        "blocks.1.ln2.hook_normalized",
        column,
    ),
    "heads": (
        "StandardSAE",
        {"reshape_activations": "hook_z"},
        HEADS,
        lambda sae, i, x: sae.W_enc[:, i].unflatten(0, tuple(x.shape)),
    ),
    "layer norm": ("StandardSAE", {"normalize_activations": "layer_norm"}, STREAM, pulled_back),
}


def make(sae_lens, kind: str) -> Any:
    """A small SAE in float64 with random weights and biases far from zero."""
    name, fields, hook, _ = SAES[kind]
    made_for = sae_lens.saes.sae.SAEMetadata(hook_name=hook)
    config = getattr(sae_lens, f"{name}Config")(
        d_in=D_MODEL, d_sae=D_SAE, dtype="float64", metadata=made_for, **fields
    )
    sae = getattr(sae_lens, name)(config)
    zoo.randomise(sae, kind)
    return sae


def pre_activation(sae, i: int):
    """SAELens's own number before its non-linearity, as a function of the activation."""

    def readout(x: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        with sae.hooks([("hook_sae_acts_pre", lambda a, hook: found.append(a))]):
            sae.encode(x[None])
        return found[0][0, i]

    return readout


@each_class
@pytest.mark.parametrize("kind", SAES)
def test_an_active_feature(name, kind, sae_lens):
    """The gradient of what `encode` gives for it, through the model to the tokens."""
    sae, (*_, hook, direction) = make(sae_lens, kind), SAES[kind]
    x = reference.of(name).at_read(hook)
    feature = int(sae.encode(x[None])[0].argmax())
    scope = ts.DirectionScope(direction(sae, feature, x), site=hook, position=POSITION)
    wanted = by_autograd(name, hook, lambda x: sae.encode(x[None])[0, feature])
    close(scores(zoo.shared(name), scope, position=-1), wanted)


@each_class
def test_a_silent_feature_still_has_a_pre_activation(name, sae_lens):
    sae = make(sae_lens, "standard")
    x = reference.of(name).at_read(STREAM)
    silent = int((sae.encode(x[None])[0] == 0).nonzero()[0])
    wanted = by_autograd(name, STREAM, pre_activation(sae, silent))
    close(scores(zoo.shared(name), ts.DirectionScope(sae.W_enc[:, silent], site=STREAM)), wanted)


@each_class
def test_an_average_norm_that_is_not_folded_scales_every_score(name, sae_lens):
    sae, model = make(sae_lens, "standard"), zoo.shared(name)
    before = scores(model, ts.DirectionScope(sae.W_enc[:, 3], site=STREAM))
    sae.fold_activation_norm_scaling_factor(2.5)
    folded = scores(model, ts.DirectionScope(sae.W_enc[:, 3], site=STREAM))
    close(folded, by_autograd(name, STREAM, pre_activation(sae, 3)))
    close(folded, 2.5 * before)


def with_sae(sae_lens, name: str, sae) -> tuple[Any, str]:
    """SAELens's own model with the SAE in its place, and the name of its pre-activations there."""
    if name.startswith("hooked"):
        plain = zoo.shared(name)
        model = sae_lens.HookedSAETransformer(plain.cfg, tokenizer=plain.tokenizer)
        model.load_state_dict(plain.state_dict())
        model.add_sae(sae)
        return model.eval(), f"{sae.cfg.metadata.hook_name}.hook_sae_acts_pre"
    with zoo.building():
        model = sae_lens.SAETransformerBridge.boot_transformers(
            f"tiny/{name}",
            hf_model=zoo.hf_model(name.split("/")[1]),
            tokenizer=zoo.tokenizer(),
            dtype=torch.float64,
            device="cpu",
        )
    model.add_sae(sae)
    return model.eval(), model.get_sae_hook_name(sae, "hook_sae_acts_pre")


@each_class
@pytest.mark.parametrize("kind", [k for k in SAES if k != "transcoder"])
def test_an_attached_sae_is_read_feature_by_feature(name, kind, sae_lens):
    """Whatever the SAE does to its input first: no direction to work out."""
    sae = make(sae_lens, kind)
    wanted = by_autograd(name, SAES[kind][2], pre_activation(sae, 7))
    model, site = with_sae(sae_lens, name, sae)
    close(scores(model, ts.DirectionScope(torch.eye(D_SAE)[7], site=site)), wanted)


@each_class
def test_heads_that_write_a_feature(name, sae_lens):
    """Embedding, heads, MLPs and the SAE's biases add up to the pre-activation that SAELens gives."""
    sae = make(sae_lens, "standard")
    v = sae.W_enc[:, 3]
    value = pre_activation(sae, 3)(reference.of(name).at_read(STREAM))
    check_heads(name, v, value, constant=sae.b_enc[3].detach() - sae.b_dec.detach() @ v.detach())


@each_class
def test_saelens_s_own_model_has_every_site(name, sae_lens):
    """Its bridge lists no aliases of hooks; and where an SAE sits, there is no stream to be had."""
    sae = make(sae_lens, "standard")
    model, _ = with_sae(sae_lens, name, sae)
    with pytest.raises(SiteError, match=r"resid\(2\)"):
        ts.attribute(model, TOKENS, ts.SemanticScope(5), sites="all")
    assert ts.attribute(model, TOKENS, ts.SemanticScope(5), sites=[0, 1, 3]).scores.all(1)[0]
    model.reset_saes()
    with zoo.exact_float64():
        found = [
            ts.attribute(m, TOKENS, ts.SemanticScope(5), sites=["all", HEADS]).scores
            for m in (model, zoo.shared(name))
        ]
    close(*found)
    assert components(model, TOKENS, ts.DirectionScope(sae.W_enc[:, 3], site=STREAM)).direct.any()
