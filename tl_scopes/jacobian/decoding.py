"""A model's next token, one after the other: its own forward passes, with its own key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.view import ModelView
from tl_scopes.jacobian.forward import read_under
from tl_scopes.jacobian.key_values import KeyValues


def decoding(view: ModelView, hooked: bool) -> Callable[[Sequence[int]], Float[Tensor, "d_vocab"]]:
    """What gives the logits after the last token of a text that grows from call to call.

    Only what is new is run, beside keys and values of the rest. All of it is run where the architecture
    has no such cache, and under hooks of the user's (`hooked`), which may count on the whole text.
    Inside `view.locked()`. Raises `UnsupportedModelError` where the model's own pass fails.
    """
    head, past = view.unembedding(), None if hooked else KeyValues(view)

    def next_logits(ids: Sequence[int]) -> Float[Tensor, "d_vocab"]:
        with torch.no_grad():
            if past is None:
                states = read_under(view, torch.tensor([ids], device=view.device), {})
            else:
                states = past.grow(ids[past.held :])
            return head.logits(head.raw_logits(states[:, -1]))[0]

    return next_logits


def ends_of_text(view: ModelView) -> set[int]:
    """Tokens that end a text: the tokenizer's, and those at which the wrapped model's `generate` stops."""
    config = getattr(getattr(view.model, "original_model", None), "generation_config", None)
    tokenizer = getattr(view.model, "tokenizer", None)
    known = [getattr(holder, "eos_token_id", None) for holder in (tokenizer, config)]
    each = [i for ids in known for i in (ids if isinstance(ids, (list, tuple)) else [ids])]
    return {int(i) for i in each if i is not None}
