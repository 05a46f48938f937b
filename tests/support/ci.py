"""Whether the tests run in CI, where nothing may be missing."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def required(module: str) -> Any:
    """A module that the tests after this line need: without it they are skipped, and in CI they fail."""
    try:
        return importlib.import_module(module)
    except ImportError:
        if in_ci():
            raise
        pytest.skip(f"{module} is not installed", allow_module_level=True)
