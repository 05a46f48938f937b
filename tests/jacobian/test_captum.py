"""The input-level scores against captum's gradients on the Hugging Face model, code that none of us wrote."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.ci import required
from support.reference import POSITION, TOKENS

attr = required("captum.attr")
TARGET = 7
# Not granite, at whose input Hugging Face scales `inputs_embeds` once more.
HUGGING_FACE = [
    "gpt2",
    "opt",
    "pythia",
    "llama",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3",
    "olmo2",
]
NAMES = [n for n in zoo.names() if n.split("/")[1] in HUGGING_FACE]


def source(name: str):
    """The Hugging Face model of the same weights, never wrapped by TransformerLens."""
    model = zoo.hf_model(name.split("/")[1])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def close(got: torch.Tensor, gradient: torch.Tensor) -> None:
    wanted = torch.linalg.vector_norm(gradient, dim=-1)
    assert wanted.max() > 1e-3
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-8 * float(wanted.max()))


def scores(name: str, scope: ts.Scope, site) -> torch.Tensor:
    with zoo.exact_float64():
        return ts.attribute(zoo.shared(name), TOKENS, scope, sites=site, position=POSITION).scores[
            0
        ]


@pytest.mark.parametrize("name", NAMES)
def test_input_level_scores_equal_captums_saliency(name):
    model = source(name)
    ids = torch.tensor([TOKENS])
    with zoo.exact_float64():
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        saliency = attr.Saliency(
            lambda x: model(inputs_embeds=x, use_cache=False).logits[:, POSITION]
        )
        gradient = saliency.attribute(embedded, target=TARGET, abs=False)[0]
    # Transformers 4 scales Gemma's `inputs_embeds` inside the model, 5 in the embedding layer.
    inside = "gemma" in name and not hasattr(model.get_input_embeddings(), "embed_scale")
    gradient = gradient / (16**0.5 if inside else 1.0)
    close(scores(name, ts.FunctionScope(lambda logits: logits[TARGET]), "embed"), gradient)
    if "softcap" not in zoo.traits(name):  # the semantic scope explains the logit before a soft-cap
        close(scores(name, ts.SemanticScope(TARGET), "embed"), gradient)


@pytest.mark.parametrize("name", [n for n in NAMES if n.split("/")[1] not in ("gpt2", "pythia")])
def test_layer_scores_equal_captums_layer_gradient(name):
    """resid(1) by captum's gradient x activation at the input of block 1, divided by the activation.

    Without gpt2 and pythia, which name their blocks otherwise.
    """
    model = source(name)
    backbone = model.model.decoder if "opt" in name else model.model
    block, ids = backbone.layers[1], torch.tensor([TOKENS])

    def forward(x: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=x, use_cache=False).logits[:, POSITION]

    with zoo.exact_float64():
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        product = attr.LayerGradientXActivation(forward, block).attribute(
            embedded, target=TARGET, attribute_to_layer_input=True
        )
        activation = attr.LayerActivation(forward, block).attribute(
            embedded, attribute_to_layer_input=True
        )
    product, activation = (x[0] if isinstance(x, tuple) else x for x in (product, activation))
    assert activation.abs().min() > 1e-5
    gradient = (product / activation)[0].detach()
    close(scores(name, ts.FunctionScope(lambda logits: logits[TARGET]), 1), gradient)
