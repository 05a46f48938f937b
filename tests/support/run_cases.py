"""What tests of runs over data sets share: a tiny model, prompts of many lengths, methods."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

import tl_scopes as ts
from support import zoo
from tl_scopes.evaluation import Run, Settings, run

WORDS = " cat; dog; Paris; France; is; in; the; capital; of; mat; Rome; John".split(";")
METHODS = [ts.SemanticScope(), ts.TemperatureScope(), ts.FisherScope()]
SETTINGS = Settings(fractions=(0.2, 0.5))
TOO_LONG, MISSING, EMPTY, NO_UTF8 = "The" + " cat" * 100, None, "", "The \ud800"


def name() -> str:
    return next(name for name in zoo.names() if name.endswith("/llama"))


def model() -> Any:
    return zoo.shared(name(), torch.float32)


def prompts(n: int, seed: int = 0) -> list[Any]:
    draw = random.Random(seed)
    return ["The" + "".join(draw.choices(WORDS, k=draw.randint(1, 20))) for _ in range(n)]


def go(out: Path, given: Any, **changes: Any) -> Run:
    """A run, with the defaults of these tests where nothing else is asked for."""
    asked = {"model": model(), "methods": METHODS, "settings": SETTINGS} | changes
    return run(asked.pop("model"), given, out=out, **asked)
