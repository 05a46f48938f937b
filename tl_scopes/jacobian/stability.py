"""How far a result is from the same computation in a wider precision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tl_scopes.adapter import guards
from tl_scopes.adapter.view import ModelView
from tl_scopes.adapter.weights import substituted, told
from tl_scopes.errors import ScopeParameterError
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import Stability
from tl_scopes.results.statistics import rank_likeness

# Tokens whose agreement is reported.
N_TOP = 5

# What torch says of tensors that do not go together.
_OF_DTYPE = re.compile(r"dtype|scalar ?type|data type|Double|Float|Half|float(16|32|64)", re.ASCII)

_WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
}


def wider(view: ModelView) -> torch.dtype:
    """float32 for half precision, float64 for float32. Raises `ScopeParameterError` for float64."""
    if view.dtype not in _WIDER:
        raise ScopeParameterError(
            f"stability=True compares with a wider precision, and there is none beyond {view.dtype}: "
            "drop it, or load the model in float32"
        )
    return _WIDER[view.dtype]


@contextmanager
def widened(view: ModelView) -> Iterator[None]:
    """The model in the wider precision, for this thread.

    Raises `ScopeParameterError` where a hook of the user's cannot follow.
    """
    narrow, wide = view.dtype, wider(view)
    modules = view.every_module()
    plain = [v for m in modules for v in vars(m).values() if isinstance(v, Tensor)]
    tensors = [*guards.every_parameter(modules), *guards.every_buffer(modules), *plain]
    configs = {id(c): c for m in modules for c in (getattr(m, "cfg", None),) if c is not None}
    narrowed = [c for c in configs.values() if getattr(c, "dtype", None) == narrow]
    with substituted(view) as found, told(narrowed, found, dtype=wide):
        for tensor in tensors:
            if tensor.dtype.is_floating_point and tensor.dtype != wide:
                found.replace(tensor, tensor.detach().to(wide))
        with hooks_that_follow(view, narrow):
            yield


@contextmanager
def hooks_that_follow(view: ModelView, narrow: torch.dtype) -> Iterator[None]:
    """What runs inside `widened`. Raises `ScopeParameterError` where a hook of the user's cannot follow."""
    try:
        yield
    except RuntimeError as error:
        names = ", ".join(view.users_hooks("forward"))
        if not names or not _OF_DTYPE.search(str(error)):
            raise
        raise ScopeParameterError(
            f"stability=True runs the model again in {view.dtype}, where it failed though not in "
            f"{narrow}: {error}. Hooks of yours are at {names}, and one may bring tensors of its "
            "own: write it so that they follow the activation (a @ W.to(a)), or drop stability"
        ) from error


def compare(found: Attribution, wide: Attribution) -> Stability:
    """Site by site, over the tokens up to the read position, BOS aside where there are others."""
    end = found.position + 1
    start = 1 if found.has_bos and end > 1 else 0
    a, b = found.scores[:, start:end].double(), wide.scores[:, start:end].double()
    k = min(N_TOP, a.shape[1])
    shared = [
        len(set(x.topk(k).indices.tolist()) & set(y.topk(k).indices.tolist())) / k
        for x, y in zip(a, b)
    ]
    largest = b.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny)
    return Stability(
        precision=wide.provenance.dtype,
        rank_correlation=tuple(rank_likeness(x.numpy(), y.numpy()) for x, y in zip(a, b)),
        top_agreement=tuple(shared),
        largest_error=tuple(((a - b).abs().amax(1) / largest).tolist()),
    )
