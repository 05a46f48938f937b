"""Tokens hidden from attention, against Hugging Face's own masks, and what must follow from the definition."""

from __future__ import annotations

import pytest
import torch

from support import edited, zoo
from support.altered import ALTERED, NAMES, close, states
from support.reference import POSITION, TOKENS
from tl_scopes.baselines.ablation import INTACT, Alteration
from tl_scopes.errors import SiteError

# Attention that TransformerLens leaves to the wrapped model: its scores cannot be edited.
DELEGATED = [
    n for n in zoo.names("bridge") if n.split("/")[1] in ("opt", "gptj", "native", "native-rms")
]


def hugging_face(architecture: str, hidden: tuple[int, ...]) -> torch.Tensor:
    """Logits of the Hugging Face model under a mask of our own making: none of TransformerLens is in it."""
    model = zoo.hf_model(architecture)
    n = len(TOKENS)
    query, key = torch.arange(n)[:, None], torch.arange(n)
    lowest = torch.finfo(torch.float64).min

    def mask(window: int | None) -> torch.Tensor:
        seen = (key <= query) & (query - key < (window or n))
        for t in hidden:
            seen[:, t] = False
        seen |= (key == query) & ~seen.any(1, keepdim=True)
        return torch.zeros(1, 1, n, n, dtype=torch.float64).masked_fill(~seen, lowest)

    window = getattr(model.config, "sliding_window", None)
    masks = {"full_attention": mask(None), "sliding_attention": mask(window)}
    if architecture not in ("gemma2", "gemma3"):  # these take one for each kind of layer
        masks = masks["sliding_attention" if architecture == "mistral" else "full_attention"]
    with zoo.exact_float64(), torch.no_grad():
        found = model(torch.tensor([TOKENS]), attention_mask=masks, use_cache=False)
    return found.logits[:, POSITION]


EVERY = tuple(range(POSITION + 1))
HIDDEN = [(2,), (1, 4), (0,), (POSITION,), (0, 1, 2), EVERY[1:], EVERY]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "pythia", "mistral", "gemma2", "gemma3"])
def test_hidden_tokens_are_those_that_hugging_face_masks(architecture):
    """On both classes. The places of the tokens that follow stay: here no position ids are derived from a mask."""
    expected = torch.cat([hugging_face(architecture, positions) for positions in HIDDEN])
    for name in (f"hooked/{architecture}", f"bridge/{architecture}"):
        if name in zoo.names():
            found = states(name, [Alteration(positions, "hide") for positions in HIDDEN])
            close(name, found, expected)


_OTHERS = "hooked/bloom hooked/shortformer hooked/attn-only-no-norm bridge/bloom bridge/granite bridge/cohere"


@pytest.mark.parametrize("name", [n for n in _OTHERS.split() if n in zoo.names()])
def test_what_is_hidden_does_not_matter(name):
    for t in (0, 3):
        other = [20 if i == t else own for i, own in enumerate(TOKENS)]
        pair = [
            states(name, [Alteration((t,), "hide"), INTACT], tokens=own) for own in (TOKENS, other)
        ]
        torch.testing.assert_close(pair[0][0], pair[1][0], rtol=0, atol=1e-9)
        assert not torch.allclose(pair[0][1], pair[1][1]) and not torch.allclose(*pair[0])


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.split("/")[1] in ("llama", "mistral", "bloom", "gemma2")]
)
def test_a_token_alone_attends_to_itself(name):
    """Without learned positions, a token that sees no other is a prompt of one token."""
    (found,) = states(name, [Alteration(EVERY, "hide")])
    with torch.no_grad():
        alone = edited.logits(name, {}, TOKENS[POSITION : POSITION + 1], 0)
    close(name, found[None], alone)


@pytest.mark.filterwarnings("ignore:.*hook_attn_scores")  # transformer-lens 4 says so itself
@pytest.mark.parametrize("name", DELEGATED)
@pytest.mark.parametrize("positions", [(2,), (POSITION,), (0,)])
def test_attention_that_cannot_be_edited_is_refused(name, positions):
    with pytest.raises(
        SiteError, match=r"attention scores that can be edited.*another replacement"
    ):
        states(name, [Alteration(positions, "hide")])
    assert torch.isfinite(states(name, [Alteration((), "hide")])).all()


@pytest.mark.parametrize(
    "architecture", [a for a in ("llama", "bloom", "gemma2") if a in zoo.pairs()]
)
def test_both_classes_agree(architecture):
    kinds = ("zero", "pad", "mean", "hide")
    alterations = [Alteration(positions, kind) for positions in ALTERED for kind in kinds]
    hooked, bridge = (
        states(f"{kind}/{architecture}", alterations) for kind in ("hooked", "bridge")
    )
    torch.testing.assert_close(hooked, bridge, rtol=1e-7, atol=1e-7)
