"""Hooks of a user's own that change a model, and effects worked out by plain hooks after them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

import tl_scopes as ts
from support.marks import each_class as each_class

EVERY = slice(None)


def zeroing(*index):
    """A hook that sets the places of an activation to zero, in a copy of it."""

    def edit(activation, hook):
        activation = activation.clone()
        activation[index] = 0
        return activation

    return edit


no_head = zeroing(EVERY, EVERY, 1)


def twice(activation, hook):
    return activation * 2


def nothing(activation, hook):
    return activation * 0


EDITS = {
    "ablated head": ("blocks.1.attn.hook_z", no_head),
    "ablated MLP": ("blocks.0.hook_mlp_out", nothing),
    "steered stream": ("blocks.1.hook_resid_pre", lambda a, hook: a + 1),
    "scaled stream": ("blocks.0.hook_resid_pre", twice),
    "edited last state": ("blocks.2.hook_resid_post", lambda a, hook: a + a.roll(1, -1)),
}
IDS = [0, 5, 6, 7, 8, 9, 10]
A, S = 7, ts.SemanticScope(7)
Z = "blocks.1.attn.hook_z"


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert wanted.abs().max() > 1e-5, "nothing to compare"
    torch.testing.assert_close(
        got.double(), wanted.double(), rtol=0, atol=tolerance * float(wanted.abs().max())
    )


def embed_hook(model) -> str:
    """Where the embedding is, as the first block's stream receives it."""
    return "embed.hook_out" if "embed.hook_out" in model.hook_dict else "hook_embed"


@contextlib.contextmanager
def final_states(model) -> Iterator[list[torch.Tensor]]:
    """What the unembedding multiplies in each pass made inside, [batch, pos, d_model]."""
    seen: list[torch.Tensor] = []
    handle = model.unembed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()


def effects(model, at: str, read: str | None = None, v=None, position: int = -1, ids=IDS):
    """(activation, gradient) at the hook `at` [pos, ...], by plain hooks added after those on the model."""
    leaf: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    read_at: list[torch.Tensor] = []

    def move(a, hook):
        seen.append(a.detach().clone())
        leaf.append(torch.zeros_like(a, requires_grad=True))
        return a + leaf[-1]

    hooks = [(at, move)]
    if read is not None:
        hooks.append((read, lambda a, hook: read_at.append(a) or a * 1))
    with final_states(model) as final, model.hooks(hooks):
        model(torch.tensor([ids]))
    v = model.W_U[:, A].detach() if v is None else v
    (g,) = torch.autograd.grad(((read_at or final)[0][0, position] * v).sum(), leaf[0])
    return seen[0][0], g[0]


def ablated(model, t: int | None, position: int, ids=IDS) -> torch.Tensor:
    """The target's logit, less its bias, with a token's embedding set to zero."""
    hooks = [] if t is None else [(embed_hook(model), zeroing(EVERY, t))]
    with torch.no_grad(), final_states(model) as seen, model.hooks(hooks):
        model(torch.tensor([ids]))
    return seen[0][0, position] @ model.W_U[:, A].detach()
