"""Baselines against captum run on its own, on the Hugging Face model's input embeddings: none of our driving is in it.

TransformerLens models hold the same weights; captum and the forward pass it differentiates are nobody's of ours.
"""

from __future__ import annotations

import functools

import pytest
import torch

from support import zoo
from support.ci import required
from support.reference import POSITION, TOKENS
from tl_scopes import ContinuationScope
from tl_scopes.baselines import InputXGradient, IntegratedGradients, LeaveOneOut, SmoothGrad
from tl_scopes.baselines.paths import RULES

attr = required("captum.attr")
TARGET = 7
READ = TOKENS[: POSITION + 1]
# Transformers 5 scales Granite's `inputs_embeds` once more, so a pad token's embedding is not its own there.
ARCHITECTURES = ["gpt2", "gemma2"]
NAMES = [f"{kind}/{a}" for a in ARCHITECTURES for kind in ("hooked", "bridge")]
each_name = pytest.mark.parametrize("name", [n for n in NAMES if n in zoo.names()])


@functools.cache
def source(architecture: str):
    """The Hugging Face model, and its embeddings of the prompt and of the pad and BOS tokens."""
    model = zoo.hf_model(architecture)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    embed = model.get_input_embeddings()
    with zoo.exact_float64():
        x = embed(torch.tensor([READ]))
        every = embed(torch.arange(zoo.D_VOCAB))
    tokenizer = zoo.tokenizer()
    return (
        model,
        x,
        {
            "zero": torch.zeros_like(x[0, 0]),
            "pad": every[tokenizer.pad_token_id],
            "bos": every[tokenizer.bos_token_id],
            "mean": every.mean(0),
        },
    )


def log_prob(architecture: str):
    model = source(architecture)[0]
    return lambda x: (
        model(inputs_embeds=x, use_cache=False).logits[:, -1].log_softmax(-1)[:, TARGET]
    )


def ours(name: str, method) -> torch.Tensor:
    with zoo.exact_float64():
        scores = method.attribute(zoo.shared(name), TOKENS, position=POSITION).scores[0]
    assert not scores[POSITION + 1 :].any()
    return scores[: POSITION + 1]


def close(got: torch.Tensor, wanted: torch.Tensor, share: float = 1e-7) -> None:
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(got, wanted, rtol=0, atol=share * float(wanted.abs().max()))


def norm(attributions: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(attributions[0].detach(), dim=-1)


@each_name
def test_input_x_gradient(name):
    _, x, _ = source(name.split("/")[1])
    with zoo.exact_float64():
        found = attr.InputXGradient(log_prob(name.split("/")[1])).attribute(
            x.clone().requires_grad_()
        )
    close(ours(name, InputXGradient(TARGET)), norm(found))
    close(ours(name, InputXGradient(TARGET, reduce="sum")), found[0].detach().sum(-1))


@each_name
def test_integrated_gradients(name):
    """From every baseline."""
    architecture = name.split("/")[1]
    _, x, starts = source(architecture)
    own = functools.partial(IntegratedGradients, TARGET, steps=7)
    for baseline, start in starts.items():
        with zoo.exact_float64():
            method = attr.IntegratedGradients(log_prob(architecture))
            found = method.attribute(x, start.expand_as(x), n_steps=7)
        close(ours(name, own(baseline=baseline)), norm(found))
        close(ours(name, own(baseline=baseline, reduce="sum")), found[0].sum(-1))


@pytest.mark.parametrize("name", [n for n in ("hooked/llama", "bridge/llama") if n in zoo.names()])
@pytest.mark.parametrize("rule", [r for r in RULES if r != "published"])
def test_quadratures_of_integrated_gradients(name, rule):
    _, x, starts = source("llama")
    given = torch.linspace(-1, 1, 16, dtype=torch.float64)
    for baseline, start in (("pad", starts["pad"]), (given, given)):
        with zoo.exact_float64():
            method = attr.IntegratedGradients(log_prob("llama"))
            found = method.attribute(x, start.expand_as(x), n_steps=5, method=rule)
        own = IntegratedGradients(TARGET, steps=5, baseline=baseline, rule=rule)
        close(ours(name, own), norm(found))


@each_name
def test_smoothgrad(name):
    """With the same noise: captum draws it in the same order from the same seed."""
    _, x, _ = source(name.split("/")[1])
    forward = log_prob(name.split("/")[1])
    stdev = 0.3 * float(x.std())
    for times_input, method in ((False, attr.Saliency), (True, attr.InputXGradient)):
        tunnel = attr.NoiseTunnel(method(forward))
        plain = {} if times_input else {"abs": False}
        with zoo.exact_float64(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            found = tunnel.attribute(
                x.clone().requires_grad_(), nt_samples=4, stdevs=stdev, **plain
            )
        inside = "gemma" in name and not hasattr(
            source("gemma2")[0].get_input_embeddings(), "embed_scale"
        )
        scale = 4.0 if inside and not times_input else 1.0
        own = SmoothGrad(TARGET, draws=4, noise=0.3, seed=11, times_input=times_input)
        close(ours(name, own), norm(found) / scale, 1e-6)


@each_name
@pytest.mark.parametrize("replacement", ["zero", "pad", "bos", "mean"])
def test_leave_one_out(name, replacement):
    _, x, starts = source(name.split("/")[1])
    each = torch.arange(len(READ))[None, :, None].expand_as(x)
    with zoo.exact_float64():
        found = attr.FeatureAblation(log_prob(name.split("/")[1])).attribute(
            x, starts[replacement].expand_as(x), feature_mask=each
        )
    close(ours(name, LeaveOneOut(TARGET, "log_prob", replacement)), found[0, :, 0])


@each_name
def test_a_whole_answer_as_captums_llm_attribution(name):
    """Its sum over the tokens of a target; it scores the prompt alone. The pass, the tokens and the sum are its own."""
    model, tokenizer = zoo.hf_model(name.split("/")[1]), zoo.tokenizer()
    prompt, after = "The cat sat", " on the mat"
    with zoo.exact_float64():
        product = attr.LayerGradientXActivation(model, model.get_input_embeddings())
        found = attr.LLMGradientAttribution(product, tokenizer).attribute(
            attr.TextTokenInput(prompt, tokenizer), target=after
        )
        ours = InputXGradient(ContinuationScope(after), reduce="sum").attribute(
            zoo.shared(name), prompt
        )
    assert len(found.token_attr) == len(ours.continuation.tokens) == 3
    close(ours.scores[0, : len(found.seq_attr)], found.seq_attr)
