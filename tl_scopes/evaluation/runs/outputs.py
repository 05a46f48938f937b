"""What the model and the methods of a run give for its first prompts, compared to rounding.

What a hook of the user's, or a function that a scope is made of, does cannot be read. It is seen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tl_scopes.adapter.continuations import encode_continuation
from tl_scopes.adapter.middle import tolerance
from tl_scopes.adapter.view import ModelView
from tl_scopes.baselines.random import generator
from tl_scopes.evaluation.ablations import refuse_to_record
from tl_scopes.evaluation.methods import AnyMethod, reads, score

# Prompts whose final states are compared, and numbers that stand for a tensor.
_FIRST, _NUMBERS = 3, 8
_ALLOWED = "allowed"


def outputs(
    view: ModelView,
    methods: Mapping[str, AnyMethod],
    prompts: Sequence[list[int]],
    position: int,
    continuation: Any = None,
) -> dict[str, Any]:
    """Final states of the first prompts, and each method's scores of the first one, in short.
    `continuation`: what follows that one, where it is measured.

    None stands for what fails, which the rows of that prompt will say. `allowed`: by which share of
    its size a tensor of the same model and method may differ on another machine.
    """

    def final_state(ids: list[int]) -> Tensor:
        return next(reads(view, [ids], position)).value

    def scores_of(method: AnyMethod) -> Tensor:
        after = None if continuation is None else [encode_continuation(view, continuation)]
        ((scores,),) = score(view, prompts[:1], [method], position, after)
        return scores

    first = enumerate(prompts[:_FIRST])
    wanted = {f"final states of prompt {i}": partial(final_state, ids) for i, ids in first}
    wanted |= {f"scores of {label}": partial(scores_of, m) for label, m in methods.items()}
    kept: dict[str, Any] = {_ALLOWED: tolerance(view.dtype)}
    for name, compute in wanted.items():
        try:
            kept[name] = _short_form(compute())
        except Exception as error:
            refuse_to_record(error)
            kept[name] = None
    return kept


def _short_form(tensor: Tensor) -> list[float]:
    """Products with a few fixed random tensors: all entries count, and rounding moves them little."""
    flat = tensor.detach().cpu().double().flatten()
    draws = torch.randn(
        _NUMBERS, len(flat), generator=generator("manifest"), dtype=flat.dtype, device="cpu"
    )
    return (draws @ flat).tolist()


def apart(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """Which outputs of the first prompts differ by more than rounding."""
    listed = []
    for name, was in theirs.items():
        now = mine.get(name)
        # What could not be had, for lack of memory say, tells nothing.
        if name == _ALLOWED or was is None or now is None:
            continue
        size = max(map(abs, (*was, *now)))
        off = max(abs(a - b) for a, b in zip(was, now)) / size if size else 0.0
        if not off <= mine[_ALLOWED]:
            listed.append(
                f"{name} differ by {off:.2g} of their size, allowed {mine[_ALLOWED]:g} (a hook, a "
                "setting or a function does something else)"
            )
    return listed
