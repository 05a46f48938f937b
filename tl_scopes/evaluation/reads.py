"""What the checks of this subpackage share: prompts read, maps compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompt_lists import encode_all
from tl_scopes.adapter.prompts import Prompts, bos_id, resolve_position
from tl_scopes.adapter.view import ModelView
from tl_scopes.evaluation.methods import ranked
from tl_scopes.jacobian.batches import BATCH_TOKENS, grouped, padded
from tl_scopes.jacobian.forward import read_under, refuse_nonfinite
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.statistics import rank_likeness


def encoded(view: ModelView, prompts: Prompts, prepend_bos: bool | None) -> list[list[int]]:
    """Token ids of every prompt of a list. Raises `PromptError` or one of its kind."""
    return [*encode_all(view, prompts, prepend_bos)]


def scored(view: ModelView, ids: Sequence[int], position: int) -> slice:
    """The positions whose scores are compared: up to the read, without BOS where there are others."""
    end = resolve_position(position, ids) + 1
    return slice(1 if end > 1 and ids[0] == bos_id(view) else 0, end)


def read_position(method: Any, position: int) -> int:
    """A method may have a read position of its own."""
    own = getattr(method, "position", None)
    return position if own is None else own


def final_states(
    view: ModelView, prompts: Sequence[list[int]], position: int
) -> Float[Tensor, "prompt d_model"]:
    """The final state of each prompt at the read position, in batched passes without gradients.

    Raises `NumericalError` where one is not finite.
    """
    hooked = view.is_hooked()
    runs = [PromptRun(view, ids, resolve_position(position, ids), hooked) for ids in prompts]
    found: dict[int, Tensor] = {}
    for group in grouped(runs, BATCH_TOKENS):
        with runs[group[0]].locked(gradients=False), torch.no_grad():
            tokens = padded([runs[i] for i in group])
            states = read_under(view, tokens, {})
            for row, i in enumerate(group):
                found[i] = states[row, runs[i].position]
                if not torch.isfinite(found[i]).all():
                    refuse_nonfinite(view, tokens[row : row + 1], "the final state")
    return torch.stack([found[i] for i in range(len(prompts))])


def predictions(view: ModelView, prompts: Sequence[list[int]], position: int) -> list[int]:
    """The id of each prompt's most likely next token."""
    head = view.unembedding()
    states = final_states(view, prompts, position)
    return [int(head.logits(head.raw_logits(y[None])[0]).argmax()) for y in states]


def likeness(a: Float[Tensor, "pos"], b: Float[Tensor, "pos"]) -> float:
    """`rank_likeness` of two maps; NaN where there is one position only."""
    return rank_likeness(*(t.cpu().double().numpy() for t in (a, b))) if len(a) > 1 else math.nan


def top_overlap(a: Float[Tensor, "pos"], b: Float[Tensor, "pos"], share: float = 0.1) -> float:
    """Jaccard index of the highest `share` of the tokens, rounded up; of equals the first ones count."""
    k = math.ceil(share * len(a))
    chosen = [set(ranked(x, 0)[:k]) for x in (a, b)]
    return len(chosen[0] & chosen[1]) / len(chosen[0] | chosen[1])
