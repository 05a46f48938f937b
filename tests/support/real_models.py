"""Bundled models, loaded once a process: a load hashes, converts and checks for seconds.

    real_models.shared("gemma-3-270m")      for tests that leave the model as they found it
    real_models.fresh("gemma-3-270m")       the same, loaded now: for tests of the load itself

What a test leaves behind in one fails the next test that asks for it. Large ones make room for each other.
"""

from __future__ import annotations

from typing import Any

from support import traces
from tl_scopes import models
from tl_scopes.models import installed

# Bytes of weights that may be held: with what a test needs, a process stays within the Makefile's 3 GB.
_ROOM = 2.4e9
_Key = tuple[str, str, str]
_held: dict[_Key, tuple[Any, dict[str, object]]] = {}


def shared(name: str = models.DEFAULT_MODEL, backend: str = "auto", dtype: Any = "float32") -> Any:
    if backend == "auto":
        backend = next(iter(installed.model_classes()))
    key = name, backend, str(dtype).removeprefix("torch.")
    if key in _held:
        model, state = _held[key] = _held.pop(key)  # the latest one last
        now = traces.model_state(model)
        changed = {what for what in state if state[what] != now[what]}
        if changed:
            del _held[key]
        assert not changed, f"a test before this one left {changed} changed in {key}"
        return model
    _make_room(_room_of(key))
    model = models.load(name, backend, dtype=dtype)
    _held[key] = model, traces.model_state(model)
    return model


def fresh(name: str, backend: str) -> Any:
    _held.pop((name, backend, "float32"), None)
    return shared(name, backend)


def _make_room(n_bytes: float) -> None:
    while _held and sum(map(_room_of, _held)) + n_bytes > _ROOM:
        del _held[next(iter(_held))]


def _room_of(key: _Key) -> float:
    name, backend, dtype = key
    # A HookedTransformer holds the embedding a second time, as its head.
    millions = {"gemma-3-270m": (268, 436), "smollm2-135m-instruct": (135, 163)}[name]
    return 1e6 * millions[backend == "hooked"] * {"float64": 8, "float32": 4}.get(dtype, 2)
