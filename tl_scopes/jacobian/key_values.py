"""Keys and values of the tokens that a model has run, in the cache that it makes itself."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter import failures
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import UnsupportedModelError
from tl_scopes.jacobian.forward import read_under


class KeyValues:
    """What a model holds of the tokens that it has `held`: those that follow are run beside it.

    An architecture without such a cache holds nothing: `held` stays 0. Inside `view.locked()`, without
    gradients and without hooks of the user's.
    """

    def __init__(self, view: ModelView) -> None:
        self.view, self.held = view, 0
        self.past: Any = None
        self._wanted = view.n_layers > 0
        if view.is_bridge:
            self._wanted &= getattr(view.model.adapter, "supports_kv_cache", True)
        elif self._wanted:
            self.past = _fresh(view)

    def grow(self, ids: Sequence[int]) -> Float[Tensor, "1 pos d_model"]:
        """Run the tokens that follow: their final states, or the last one's alone."""
        tokens = torch.tensor([ids], device=self.view.device)
        if not self._wanted:
            return read_under(self.view, tokens, {})
        if self.past is None:
            states = self._first(tokens)
        else:
            states = read_under(self.view, tokens, {}, past=self._given(self.past))
        self.held = self.held + len(ids) if self.past is not None else 0
        return states

    def copies(self, rows: int) -> dict[str, Any]:
        """What `view.forward` is given so that each of `rows` goes on from here; itself left as it is.

        Raises `UnsupportedModelError` for a cache that cannot be repeated.
        """
        past: Any
        if self.view.is_bridge:
            past = copy.deepcopy(self.past)
            if not hasattr(past, "batch_repeat_interleave"):
                raise UnsupportedModelError(f"a {type(past).__name__} cannot be repeated")
            failures.named(self.view, functools.partial(past.batch_repeat_interleave, rows))
        else:
            entries = [
                replace(
                    entry,
                    past_keys=entry.past_keys.expand(rows, -1, -1, -1),
                    past_values=entry.past_values.expand(rows, -1, -1, -1),
                )
                for entry in self.past.entries
            ]
            mask = self.past.previous_attention_mask.expand(rows, -1)
            past = replace(self.past, entries=entries, previous_attention_mask=mask)
        return self._given(past)

    def _given(self, past: Any) -> dict[str, Any]:
        if self.view.is_bridge:
            return {"use_cache": True, "past_key_values": past}
        return {"past_kv_cache": past}

    def _first(self, tokens: Tensor) -> Float[Tensor, "1 1 d_model"]:
        """Through to the wrapped model's output, which holds the cache of its own kind."""
        states: list[Tensor] = []

        def last(y: Tensor) -> Tensor:
            # It alone is unembedded, which on a large vocabulary takes longest.
            states.append(y[:, -1:])
            return states[-1]

        def note(output: Any) -> Any:
            self.past = getattr(output, "past_key_values", None)
            return output

        with self.view.taps() as undo:
            self.view.tap_final(undo, last)
            self.view.tap_module(undo, self.view.model.original_model, lambda x: x, note)
            self.view.forward(tokens, use_cache=True)
        return states[-1]


def _fresh(view: ModelView) -> Any:
    """A HookedTransformer's cache of one row that holds nothing."""
    try:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as Cache
    except ImportError:  # transformer-lens < 3
        from transformer_lens.past_key_value_caching import (  # pyright: ignore[reportMissingImports]
            HookedTransformerKeyValueCache as Cache,
        )
    return Cache.init_cache(view.cfg, view.device, 1)
