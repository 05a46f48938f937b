"""A model's next token, one after the other: its own forward passes, with its own key-value cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter import failures
from tl_scopes.adapter.unembedding import Unembedding
from tl_scopes.adapter.view import ModelView
from tl_scopes.jacobian.forward import Stop, read_under

# The logits after the last of some tokens.
_Pass = Callable[[Int[Tensor, "1 pos"]], Float[Tensor, "1 d_vocab"]]
# How many tokens of the text are held, and what runs those after them.
_Cached = tuple[Callable[[], int], _Pass]


@contextmanager
def decoding(
    view: ModelView, hooked: bool
) -> Iterator[Callable[[Sequence[int]], Float[Tensor, "d_vocab"]]]:
    """What gives the logits after the last token of a text that grows from call to call.

    Only what is new is run, beside keys and values of the rest. All of it is run where the architecture
    has no such cache, and under hooks of the user's (`hooked`), which may count on the whole text.
    Inside `view.locked()`. Raises `UnsupportedModelError` where the model's own pass fails.
    """
    head = view.unembedding()
    with view.taps() as undo:
        if hooked or not view.n_layers:
            held, run = lambda: 0, lambda tokens: _logits(head, read_under(view, tokens, {}))
        else:
            held, run = (_bridge if view.is_bridge else _hooked_transformer)(view, undo, head)

        def next_logits(ids: Sequence[int]) -> Float[Tensor, "d_vocab"]:
            tokens = torch.tensor([ids[held() :]], device=view.device)
            with torch.no_grad():
                return failures.named(view, functools.partial(run, tokens))[0]

        yield next_logits


def ends_of_text(view: ModelView) -> set[int]:
    """Tokens that end a text: the tokenizer's, and those at which the wrapped model's `generate` stops."""
    config = getattr(getattr(view.model, "original_model", None), "generation_config", None)
    tokenizer = getattr(view.model, "tokenizer", None)
    known = [getattr(holder, "eos_token_id", None) for holder in (tokenizer, config)]
    each = [i for ids in known for i in (ids if isinstance(ids, (list, tuple)) else [ids])]
    return {int(i) for i in each if i is not None}


def _logits(head: Unembedding, states: Float[Tensor, "1 pos d_model"]) -> Tensor:
    return head.logits(head.raw_logits(states[:, -1]))


def _hooked_transformer(view: ModelView, undo: ExitStack, head: Unembedding) -> _Cached:
    """Its passes end at the final state: its own unembedding copies the weights each time."""
    try:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as Cache
    except ImportError:  # transformer-lens < 3
        from transformer_lens.past_key_value_caching import (  # pyright: ignore[reportMissingImports]
            HookedTransformerKeyValueCache as Cache,
        )
    cache = Cache.init_cache(view.cfg, view.device, 1)
    states: list[Tensor] = []

    def stop(y: Tensor) -> Tensor:
        states.append(y)
        raise Stop

    def run(tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 d_vocab"]:
        with suppress(Stop):
            view.model(tokens, attention_mask=torch.ones_like(tokens), past_kv_cache=cache)
        return _logits(head, states.pop())

    view.tap_final(undo, stop)
    return lambda: cache[0].past_keys.shape[1], run


def _bridge(view: ModelView, undo: ExitStack, head: Unembedding) -> _Cached:
    """The cache that the wrapped model makes of its own kind; without one, nothing is held."""
    wanted = getattr(view.model.adapter, "supports_kv_cache", True)
    held, past = 0, None

    def note(output: Any) -> Any:
        nonlocal past
        past = getattr(output, "past_key_values", None) if wanted else None
        return output

    def run(tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 d_vocab"]:
        nonlocal held
        given = {} if past is None else {"past_key_values": past}
        logits = view.model(tokens, use_cache=wanted, **given)
        held = 0 if past is None else held + tokens.shape[1]
        return logits[:, -1]

    # The last position alone is unembedded, which on a large vocabulary takes longest.
    view.tap_final(undo, lambda y: y[:, -1:])
    view.tap_module(undo, view.model.original_model, lambda x: x, note)
    return lambda: held, run
