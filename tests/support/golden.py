"""The published method's own numbers, and the bundled models that they are of."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from support import real_models, zoo

GOLDEN = Path(__file__).parents[1] / "golden"
BUNDLED = {"gemma": "gemma-3-270m", "smol": "smollm2-135m-instruct"}


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def backends(name: str) -> list[str]:
    return [b for b in ("hooked", "bridge") if zoo.names(b) and (b, name) != ("hooked", "smol")]


# One class of each model: the bridge where there is one.
ONE_CLASS = [(name, backends(name)[-1]) for name in BUNDLED if backends(name)]


def load(name: str, backend: str, dtype: str) -> Any:
    return real_models.shared(BUNDLED[name], backend, dtype)
