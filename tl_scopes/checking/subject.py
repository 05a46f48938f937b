"""What is looked at: a model, a prompt for it, and the Hugging Face model that it shall equal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tl_scopes.adapter import guards
from tl_scopes.adapter.middle import tolerance
from tl_scopes.adapter.prompts import Prompt, encode
from tl_scopes.adapter.view import ModelView
from tl_scopes.checking.spent import free_mib
from tl_scopes.errors import ScopesError

TEXT = (
    "The old harbour town had always lived from the sea, and the sea had always taken its share. Every "
    "spring the fishermen painted their boats in red and green, and every autumn fewer of them came back "
    "than had gone out."
)
# Tokens of the passes that look at numbers; costs are told at more.
_SHORT = 32
# Free memory over what a copy of the weights takes.
_SPARE = 1.3


@dataclass(eq=False)
class Subject:
    """`ids`: of the prompt. `original`: a Hugging Face model that nothing wraps, or None."""

    model: Any
    view: ModelView
    ids: list[int]
    original: Any = None

    @property
    def short(self) -> list[int]:
        return self.ids[:_SHORT]

    @property
    def tokens(self) -> Int[Tensor, "1 pos"]:
        """`short`, where the model's embedding is."""
        return torch.tensor([self.short], device=self.view.device)

    @property
    def tolerance(self) -> float:
        """The share of the largest entry by which two sums of the same may differ in the model's dtype."""
        return tolerance(self.view.dtype)

    @property
    def devices(self) -> list[torch.device]:
        return devices(self.view.every_module())

    @property
    def dtype_name(self) -> str:
        return str(self.view.dtype).removeprefix("torch.")


def prompt_ids(view: ModelView, prompt: Prompt | None, length: int) -> list[int]:
    """Ids of `prompt`; of None, `length` ids of a text, over and over, or of no text at all where the model
    has no tokenizer. Raises as `encode`, for a prompt that was given."""
    if prompt is not None:
        return list(encode(view, prompt, None))
    length = min(length, view.n_ctx or length)
    try:
        ids = list(encode(view, TEXT[: 8 * length], None))
        text = list(encode(view, " " + TEXT, False))
    except ScopesError:
        ids, text = (
            [],
            torch.linspace(5, view.cfg.d_vocab - 1, length, device="cpu").long().tolist(),
        )
    while len(ids) < length:
        ids += text
    return ids[:length]


def devices(modules: Iterable[nn.Module]) -> list[torch.device]:
    """Where the parameters of modules are."""
    return list(dict.fromkeys(p.device for p in guards.every_parameter(modules)))


def room_for_weights(model: nn.Module, dtype: torch.dtype | None = None) -> bool:
    """Whether the model's weights, in `dtype` or as they are, fit into memory once more."""
    modules = guards.every_module(model)
    each = guards.every_parameter(modules)
    needed = sum(p.numel() * (dtype or p.dtype).itemsize for p in each) / 2**20
    free = free_mib(devices(modules))
    return free is not None and free > _SPARE * needed


def or_float32(dtype: torch.dtype) -> str:
    """More to try, where a model is in half precision."""
    return ", float32" if dtype.itemsize < 4 else ""
