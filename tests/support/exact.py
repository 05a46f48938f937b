"""Calls in double precision, and how near their numbers must be to those of another way to the same thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from support import zoo
from support.reference import POSITION, TOKENS


def exactly(call: Callable[..., Any], name: str, *args: Any, **options: Any) -> Any:
    """What `call` gives for a shared model of the zoo and the prompt of the reference."""
    with zoo.exact_float64():
        return call(zoo.shared(name), TOKENS, *args, **{"position": POSITION} | options)


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-9) -> None:
    """In double precision, within `tolerance` of the largest entry, which is not about zero."""
    assert got.dtype == torch.float64
    assert wanted.abs().max() > 1e-4, "nothing to compare"
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))
