"""What decides the numbers of a model and of a function, as plain values that can be compared."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tl_scopes.adapter import hooks, internals

# Of a configuration: where the model lies, which is said elsewhere or changes no number.
_PLACES = (
    "device", "n_devices", "seed", "dtype", "torch_dtype", "model_name", "tokenizer_name",
    "name_or_path", "_name_or_path", "transformers_version", "architectures",
)  # fmt: skip


def weights_hash(model: Any) -> str:
    """SHA-256 over every parameter: name, shape, dtype and bytes, by name."""
    return _hash(model.named_parameters())


def buffers_hash(model: Any) -> str:
    """The same over every buffer (rotary frequencies, masks), saved with the model or not."""
    return _hash(model.named_buffers())


def _hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def config(model: Any) -> dict[str, Any]:
    """The settings of a model: TransformerLens's, and those of the model that a bridge wraps."""
    found = {"cfg": vars(model.cfg)}
    wrapped: Any = getattr(getattr(model, "original_model", None), "config", None)
    if hasattr(wrapped, "to_dict"):
        found["original_model"] = wrapped.to_dict()
    return {
        name: {k: plain(v) for k, v in sorted(own.items()) if k not in _PLACES}
        for name, own in found.items()
    }


def users_hooks(model: Any) -> list[str]:
    """Forward hooks that are not TransformerLens's wiring: their module, name and code."""
    return sorted(f"{name}: {plain(hook)}" for name, hook in _hooks(model))


def _hooks(model: Any) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    wrapped = getattr(model, "original_model", None)
    roots: list[tuple[str, Any]] = [("", model), ("original_model", wrapped)]
    for prefix, root in roots:
        for name, module in root.named_modules(prefix=prefix) if root is not None else ():
            if id(module) not in seen:
                seen.add(id(module))
                yield from ((name, hook) for hook in _of(module))
    yield from (("every module", hook) for hook in hooks.everywhere("forward").values())


def _of(module: nn.Module) -> Iterator[Any]:
    if internals.is_point(module):
        found = [internals.asked_for(handle) for handle in internals.handles(module, "forward")]
    else:
        found = [
            h for store in internals.before_and_after(module, "forward") for h in store.values()
        ]
    yield from (hook for hook in found if not hooks.is_transformer_lens_own(hook))


def description(method: Any) -> dict[str, Any]:
    """A method's class and every parameter; of tensors a hash, of functions the name and a hash of
    the code."""
    own: Mapping[str, Any] = {}
    if is_dataclass(method):
        own = {f.name: getattr(method, f.name) for f in fields(method)}
    elif hasattr(method, "parameters"):
        own = method.parameters()
    return {"class": _name(type(method)), **{k: plain(v) for k, v in own.items()}}


def plain(value: Any) -> Any:
    """`value` as JSON has it, and as it would be read again."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        content = hashlib.sha256(_bytes(value)).hexdigest()
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} sha256 {content}"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return plain(torch.as_tensor(value, device="cpu"))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, functools.partial):
        return {"partial": plain(value.func), "args": plain(value.args), **plain(value.keywords)}
    if isinstance(value, Callable) and hasattr(value, "__qualname__"):
        return function(value)
    if is_dataclass(value):
        return description(value)
    text = repr(value)
    return _name(type(value)) if " at 0x" in text else text


def _name(thing: Any) -> str:
    """Where it comes from, and its name. Of this package's own only the package: its files may move."""
    home = "tl_scopes" if thing.__module__.startswith("tl_scopes.") else thing.__module__
    return f"{home}.{thing.__qualname__}"


def function(value: Any, keeps_state: bool = False) -> str:
    """The name of a function; of a Python function that is not this package's also a hash of its code,
    with its defaults and what it closes over, unless that may be what it counts in (`keeps_state`)."""
    if _name(value).startswith("tl_scopes."):  # whose version stands in the manifest
        return _name(value)
    digest = hashlib.sha256()
    left, seen = [value], set()
    while left:
        own = inspect.unwrap(left.pop())
        own = getattr(own, "__func__", own)
        code = getattr(own, "__code__", None)
        if code is None or id(own) in seen:
            continue
        seen.add(id(own))
        digest.update(_code(code).encode())
        held = [*(own.__defaults__ or ()), *(own.__kwdefaults__ or {}).values()]
        for cell in () if keeps_state else own.__closure__ or ():
            with suppress(ValueError):  # nothing in it yet
                held.append(cell.cell_contents)
        for part in held:
            if inspect.isroutine(part):
                left.append(part)
            else:
                digest.update(json.dumps(plain(part), default=str).encode())
    return f"{_name(value)} sha256 {digest.hexdigest()}" if seen else _name(value)


def _code(constant: Any) -> str:
    """Bytecode, names and constants, in an order that does not change with the process."""
    if isinstance(constant, CodeType):
        inside = [_code(c) for c in constant.co_consts]
        return f"{constant.co_code.hex()} {constant.co_names} {inside}"
    if isinstance(constant, tuple):
        return str([_code(c) for c in constant])
    if isinstance(constant, frozenset):
        return str(sorted(_code(c) for c in constant))
    return repr(constant)
