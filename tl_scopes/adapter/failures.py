"""Errors of a model's own forward pass, told by name from those of hooks, with what may help."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from tl_scopes.adapter import hooks
from tl_scopes.errors import UnsupportedModelError

# What a forward pass runs through that is nobody's hook.
_LIBRARIES = ("torch", "transformer_lens", "transformers", "transformers_modules", "einops")
_LIBRARIES += ("jaxtyping", "functools", "contextlib", "typing", "accelerate", "bitsandbytes")
_NAMED = 4


def named(view: Any, run: Callable[[], Any]) -> Any:
    """What `run` gives, which is a forward pass of the view's model.

    Raises `UnsupportedModelError` for an error of the model's own, and for what works without gradients
    only. As they are: other errors in a hook, and too little memory.
    """
    try:
        return run()
    except Exception as error:
        if "Inference tensors cannot be saved for backward" in str(error):
            names = ", ".join(view.users_hooks("forward"))
            raise UnsupportedModelError(
                "a tensor made under torch.inference_mode() takes part in the forward pass, and cannot "
                f"take part in a gradient{f'; hooks of yours are at {names}' if names else ''}. Give "
                "back its .clone(), taken outside inference mode, or make it under torch.no_grad()"
            ) from error
        if not _is_its_own(error):
            raise
        dtype = str(view.dtype).removeprefix("torch.")
        points = [n for n, point in view.hooks.items() if hooks.is_edited(point)]
        others = [name for name in points if not name.startswith(("embed.", "hook_embed"))]
        installed = ", ".join(f"{p} {version(p)}" for p in ("transformer-lens", "transformers"))
        raise UnsupportedModelError(
            f"the model's own forward pass fails in {dtype} ({type(error).__name__}: "
            f"{(str(error).strip().splitlines() or [''])[0][:200]}), with {installed}. "
            + ("Load it in float32, or use" if view.dtype.itemsize < 4 else "Use")
            + " another version of one of the two"
            + (f"; or no hook at {', '.join(others[:_NAMED])}" if others else "")
        ) from error


def _is_its_own(error: Exception) -> bool:
    of_memory = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
    if of_memory or error.__traceback__ is None:
        return False
    frames = traceback.walk_tb(error.__traceback__.tb_next)
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in frames]
    return bool(modules) and all(m.partition(".")[0] in _LIBRARIES for m in modules)
