"""Whole answers against inseq's saliency over a given target, a step a token, on the Hugging Face model.

inseq asks for a typeguard that transformer-lens cannot have, and uses none of it. `make peers` installs it
apart, without dependencies, and runs these.
"""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import real_models, zoo
from tl_scopes.baselines import GradientNorm

inseq = pytest.importorskip("inseq", reason="make peers installs it")

ARCHITECTURES = ["gpt2", "llama", "gemma2", "qwen3"]
NAMES = [f"{kind}/{a}" for a in ARCHITECTURES for kind in ("hooked", "bridge")]
each_name = pytest.mark.parametrize("name", [n for n in NAMES if n in zoo.names()])
PROMPT, AFTER = "The cat sat", " on the mat"
IDS = zoo.tokenizer()(PROMPT)["input_ids"]


def steps(model, tokenizer, prompt: str, after: str) -> torch.Tensor:
    """Gradients of each target token's log-probability: [pos, step, d_model], of what stands before it."""
    found = inseq.load_model(model, "saliency", tokenizer=tokenizer).attribute(
        prompt,
        prompt + after,
        attributed_fn="probability",
        logprob=True,
        abs=False,  # captum's, which inseq calls
        show_progress=False,
    )
    return found.sequence_attributions[0].target_attributions.nan_to_num()


@functools.cache
def tiny(architecture: str) -> torch.Tensor:
    with zoo.exact_float64():
        return steps(zoo.hf_model(architecture), zoo.tokenizer(), PROMPT, AFTER)


def close(got: torch.Tensor, wanted: torch.Tensor, share: float) -> None:
    assert wanted.max() > 1e-3 and len(got) == len(wanted)
    torch.testing.assert_close(
        got.double(), wanted.double(), rtol=0, atol=share * float(wanted.max())
    )


@each_name
def test_its_steps_added_up_are_the_gradient_of_the_whole(name):
    gradient = tiny(name.split("/")[1])
    with zoo.exact_float64():
        found = ts.attribute(zoo.shared(name), IDS, ts.ContinuationScope(AFTER))
    assert gradient.shape[1] == len(found.continuation.tokens) == 3
    close(found.scores[0], gradient.sum(1).norm(dim=-1), 1e-6)


@each_name
def test_the_squares_of_its_norms_add_up_as_over_reads(name):
    """inseq shows a norm a step."""
    norms = tiny(name.split("/")[1]).norm(dim=-1)
    whole = zoo.tokenizer()(PROMPT + AFTER)["input_ids"]
    reads = range(len(IDS) - 1, len(whole) - 1)
    with zoo.exact_float64():
        found = ts.attribute_sequence(
            zoo.shared(name), whole, GradientNorm(ts.NEXT_TOKEN), positions=reads
        )
    close(found.over_reads().scores[0], norms.square().sum(1).sqrt(), 1e-6)


@pytest.mark.real
@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_on_bundled_models(name):
    model = real_models.shared(name)
    prompt, after = "The capital of France is", " Paris, the city of light."
    found = ts.attribute(model, prompt, ts.ContinuationScope(after))
    gradient = steps(model.original_model, model.tokenizer, prompt, after)
    close(found.scores[0], gradient.sum(1).norm(dim=-1), 1e-4)
