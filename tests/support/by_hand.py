"""A scope worked out with plain hooks and nothing of the package."""

from __future__ import annotations

import torch

from support.hook_edits import final_states


def by_hand(
    model, tokens: torch.Tensor, vector=None, target: int | None = None, embed="hook_embed"
) -> torch.Tensor:
    """Norms at the embedding of `vector` (or of `W_U[:, target]`) pulled back from the final state, by plain hooks."""
    leaf: list[torch.Tensor] = []

    def cut(activation, hook):
        leaf.append(activation.detach().requires_grad_())
        return leaf[0]

    with final_states(model) as final, model.hooks([(embed, cut)]):
        model(tokens)
    y = final[0][0, -1]
    v = model.W_U[:, target].detach() if vector is None else vector(y.detach())
    (grad,) = torch.autograd.grad(y @ v, leaf[0])
    return grad[0].norm(dim=-1).float()
