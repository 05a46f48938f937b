"""A model computed with other weights than its own, in one thread, while its own stay as they are.

A deep copy of the model would not do. Hooks that TransformerLens wires into a bridge, and hooks of
the user's that read `model.W_E`, close over the modules of the original; some models cannot be copied.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import UnsupportedModelError


class Substitution(TorchFunctionMode):
    """While entered, what this thread asks of torch about a tensor is answered by its substitute.

    Nothing of the model is written: other threads go on with its own weights, hooks stay where
    they are and see the substitutes too, and there is nothing to put back, whatever happens.
    """

    def __init__(self) -> None:
        super().__init__()
        # The tensors themselves are held too: an id alone could come to mean another one.
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._mark = torch.empty(0, device="cpu")
        self.replace(self._mark, torch.empty(1, device="cpu"))

    @property
    def is_entered(self) -> bool:
        """Whether it is in force in this thread."""
        return bool(self._mark.numel())

    def replace(self, own: Tensor, other: Tensor) -> None:
        """Let `other` stand for `own`. Raises `UnsupportedModelError` for a tensor without values."""
        if own.is_meta:
            raise UnsupportedModelError(
                "weights of the model are on the device 'meta', as accelerate leaves those that it "
                "offloads and fetches in each pass, so that others cannot stand for them: load the "
                "model whole onto one device"
            )
        self._own[id(own)] = own, other

    def clear(self) -> None:
        self._own.clear()

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        args = self._of(args)
        named: dict[str, Any] = self._of(kwargs or {})
        if func in _BACKWARD:
            # torch takes a mode off while it answers. A backward pass runs code of its own:
            # blocks again, hooks, and functions that were given the model's own tensors.
            with self:
                return _BACKWARD[func](*args, **named)
        return func(*args, **named)

    def _of(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            found = self._own.get(id(value))
            return value if found is None else found[1]
        if type(value) in (tuple, list):
            return type(value)(map(self._of, value))
        if type(value) is dict:
            return {key: self._of(item) for key, item in value.items()}
        return value


def _unasked(func: Any) -> Callable[..., Any]:
    """A Python function of torch without its first step, which hands the call to the modes that are
    entered: it would come back here for ever."""
    without = dict.fromkeys(("has_torch_function", "has_torch_function_unary"), lambda *_: False)
    made = types.FunctionType(
        func.__code__, func.__globals__ | without, func.__name__, func.__defaults__
    )
    made.__kwdefaults__ = func.__kwdefaults__
    return made


_BACKWARD = {func: _unasked(func) for func in (torch.autograd.grad, Tensor.backward)}


@contextmanager
def substituted(view: ModelView) -> Iterator[Substitution]:
    """A substitution for this thread, until the end. This package's other calls on the model wait."""
    found = Substitution()
    with view.lock:
        try:
            # Weights drawn or widened under a user's inference mode could take no gradient.
            with torch.inference_mode(False), found:
                yield found
        finally:
            found.clear()  # should Ctrl-C have struck on the way out: without effect from now on


@contextmanager
def told(configs: Iterable[Any], found: Substitution, **values: Any) -> Iterator[None]:
    """Have `configs` say `values` where `found` is entered, and their own everywhere else."""
    kinds = [(config, type(config)) for config in configs]
    try:
        for config, kind in kinds:
            config.__class__ = _telling(kind, found, values)
        yield
    finally:
        for config, kind in kinds:
            config.__class__ = kind


def _telling(kind: type, found: Substitution, values: dict[str, Any]) -> type:
    def value_of(name: str, value: Any) -> property:
        def get(config: Any) -> Any:
            return value if found.is_entered else vars(config)[name]

        def put(config: Any, new: Any) -> None:
            vars(config)[name] = new

        return property(get, put)

    own: dict[str, Any] = {name: value_of(name, value) for name, value in values.items()}
    # Copied or pickled by another thread meanwhile, it is one of its own kind.
    own["__reduce_ex__"] = lambda config, _: (_plain, (kind, vars(config)))
    return type(kind.__name__, (kind,), own)


def _plain(kind: type, values: dict[str, Any]) -> Any:
    made: Any = object.__new__(kind)
    vars(made).update(values)
    return made
