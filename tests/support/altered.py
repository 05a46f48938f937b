"""What the package makes of altered prompts, as values to compare with somebody else's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from support import zoo
from support.reference import POSITION, TOKENS
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines.ablation import Alteration, final_states
from tl_scopes.jacobian.prompt_run import PromptRun

# Learned positions, an embedding norm, an embedding scale, a soft-cap, windows, no norm, no Hugging Face.
_HOOKED = "gpt2 bloom embed-norm shortformer attn-only-no-norm llama gemma2"
_BRIDGE = "gpt2 opt bloom llama mistral gemma2 granite cohere native"
_WANTED = [*(f"hooked/{n}" for n in _HOOKED.split()), *(f"bridge/{n}" for n in _BRIDGE.split())]
NAMES = [n for n in _WANTED if n in zoo.names()]
ALTERED = [(), (2,), (0, 4), (POSITION,), tuple(range(POSITION + 1)), (3, POSITION + 1)]


def states(name: str, alterations: Sequence[Alteration], **where) -> torch.Tensor:
    """Final states, and no trace of what was asked before."""
    prompt_run = PromptRun.ask(zoo.shared(name), where.pop("tokens", TOKENS), POSITION)
    with zoo.exact_float64(), prompt_run.locked():
        if "site" in where:
            where["site"] = prompt_run.view.site(where["site"])
        return final_states(prompt_run, alterations, **where)


def logits_of(name: str, y: torch.Tensor) -> torch.Tensor:
    head = view_of(zoo.shared(name)).unembedding()
    return head.logits(head.raw_logits(y))


def close(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    # Rotary tables of transformer-lens 3 carry 1e-7 of float32; GPT-J's bridge 9e-8.
    torch.testing.assert_close(logits_of(name, found), expected, rtol=1e-7, atol=1e-7)
