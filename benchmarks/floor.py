"""The arithmetic that a scope cannot do without, in multiply-adds."""

from __future__ import annotations

from typing import Any


def forward(model: Any, tokens: int) -> float:
    """The blocks over all tokens: their matrices, and the causal half of attention."""
    cfg = model.cfg
    weights = sum(p.numel() for p in model.blocks.parameters() if p.ndim > 1)
    attention = (
        cfg.n_layers * cfg.n_heads * cfg.d_head * tokens**2
    )  # scores and values, half of each
    return weights * tokens + attention


def scope(model: Any, tokens: int, directions: int, vocabulary_passes: int = 0) -> float:
    """A forward pass of the blocks, the logits of one position, and a backward pass a direction.

    A backward pass takes gradients of activations only: as many multiply-adds as forward, in
    attention twice as many. `vocabulary_passes`: further matrix-vector products with `W_U`.
    """
    cfg = model.cfg
    attention = cfg.n_layers * cfg.n_heads * cfg.d_head * tokens**2
    unembedding = cfg.d_model * cfg.d_vocab
    once = forward(model, tokens)
    return once + directions * (once + attention) + (1 + vocabulary_passes) * unembedding
