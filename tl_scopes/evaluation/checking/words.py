"""Findings of the kinds that most checks come to."""

from __future__ import annotations

import torch

from tl_scopes.evaluation.checking.finding import Finding
from tl_scopes.render.colours import number

__all__ = ["held", "number", "or_float32", "skipped"]


def held(value: float, limit: float, measured: str, remedy: str) -> Finding:
    """Passed where `value` is within `limit`; NaN is not."""
    fits = value <= limit
    return Finding(
        "",
        "passed" if fits else "failed",
        measured,
        number(limit),
        "" if fits else remedy,
        value,
        limit,
    )


def or_float32(dtype: torch.dtype) -> str:
    """More to try, where a model is in half precision."""
    return ", float32" if dtype.itemsize < 4 else ""


def skipped(why: str, remedy: str) -> Finding:
    return Finding("", "skipped", why, remedy=remedy)
