"""Devices that are not there: tensors are labelled, and two labels that meet raise as on real devices.

    with Devices() as devices:             inside, "mtia:0" and "mtia:1" are devices like any other
        model.to("mtia:1")                  moved: computed on the CPU, and labelled
        model(ids.to("mtia:1")).device      device(type='mtia', index=1)

A label belongs to a storage, so that views share it. What C++ makes by itself (an index of a batching rule) has none,
and meets anything; so does a number, as on real devices. Gradients go back the way that tensors came.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tl_scopes.adapter.weights import _unasked

CPU = torch.device("cpu")
_KIND = "mtia"
_BACKWARD = {f: _unasked(f) for f in (torch.autograd.grad, Tensor.backward)}
_aten = torch.ops.aten
_MOVES = (_aten.copy_.default, _aten._to_copy.default)
# Their indices may lie on the CPU.
_INDEXED = (
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
)
_HOST_ONLY = ("numpy", "__array__", "__dlpack__")


class Devices(TorchFunctionMode):
    """`meetings`: how often two labels met where neither may: each raised a RuntimeError, which code may catch."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: dict[int, tuple[StorageWeakRef, torch.device | None]] = {}
        self.meetings: list[str] = []
        self.seen: torch.device | None = None
        self.landing: torch.device | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Devices:
        self._stack.enter_context(_Checked(self))
        # It compares devices where torch has taken this mode off, with those where it has not.
        alike = mock.patch.dict(
            checkpoint._allowed_determinism_checks_to_fns, default=lambda x: (x.shape, x.dtype)
        )
        self._stack.enter_context(alike)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    # ------------------------------------------------------------------------------------------- labels
    def of(self, x: Tensor) -> torch.device | None:
        """The label of a tensor; None: any."""
        if x.is_meta:
            return x.device
        try:
            key = x.untyped_storage()._cdata
        except NotImplementedError:  # a batched backward pass wraps what has one
            x.detach()
            return self.seen
        ref, label = self.labels.get(key, (None, CPU))
        return CPU if ref is None or ref.expired() else label

    def put(self, x: Tensor, label: torch.device | None) -> Tensor:
        if not x.is_meta:
            storage = x.untyped_storage()
            self.labels[storage._cdata] = StorageWeakRef(storage), label
        return x

    def moved(self, x: Tensor, to: torch.device) -> Tensor:
        return x if self.of(x) == to else _Move.apply(x, to, self)

    def landed(self, x: Tensor, label: torch.device) -> Tensor:
        """A copy of `x` with that label."""
        self.landing = label
        try:
            return x.clone()
        finally:
            self.landing = None

    # ------------------------------------------------------------------------- what Python asks of torch
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _BACKWARD:
            with self._again():
                return _BACKWARD[func](*args, **kwargs)
        owner, name = getattr(func, "__self__", None), getattr(func, "__name__", "")
        if name == "__get__" and owner is Tensor.device:
            return self.of(args[0]) or CPU
        if name == "__get__" and owner is Tensor.is_cpu:
            return (self.of(args[0]) or CPU) == CPU
        if name in _HOST_ONLY and (self.of(args[0]) or CPU) != CPU:
            raise TypeError(
                f"can't convert {self.of(args[0])} device type tensor to numpy. Use Tensor.cpu()"
            )
        if func is Tensor.cpu:
            return self.moved(args[0], CPU)
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if func in (Tensor.__deepcopy__, Tensor.new_tensor):
            return self.put(func(*args, **kwargs), self.of(args[0]))
        wanted = kwargs.get("device")
        if wanted is None and any(isinstance(x, Tensor) for x in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        wanted = CPU if wanted is None else _device(wanted)
        if wanted.type == _KIND:
            kwargs["device"] = CPU
        out = func(*args, **kwargs)
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and wanted.type in (_KIND, "cpu"):
                self.put(x, wanted)
        return out

    def _again(self) -> ExitStack:
        """This mode, which torch takes off while it answers, in force once more."""
        stack = ExitStack()
        TorchFunctionMode.__enter__(self)
        stack.push(lambda *error: TorchFunctionMode.__exit__(self, *error))
        return stack

    def _to(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (self.of(args[0]) or CPU, args[0].dtype, *args[1:])
        elif "other" in kwargs:
            other = kwargs.pop("other")
            args = (self.of(other) or CPU, other.dtype, *args)
        wanted = kwargs.pop("device", None)
        if args and not isinstance(args[0], torch.dtype):
            wanted, args = args[0], args[1:]
        if wanted is None:
            return x.to(*args, **kwargs)
        wanted = _device(wanted)
        if x.is_meta or wanted.type == "meta":
            return x.to(wanted, *args, **kwargs)
        return self.moved(x, wanted).to(CPU, *args, **kwargs)


class _Checked(TorchDispatchMode):
    """Each operation that runs, in a backward pass too."""

    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self.devices = devices

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices, kwargs = self.devices, kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        first, indices = args[:1], func._schema.name in _INDEXED
        found = dict.fromkeys(
            label
            for x in given
            if (label := devices.of(x)) is not None
            and not (label == CPU and (x.ndim == 0 or (indices and x is not first[0])))
        )
        if len(found) > 1 and func not in _MOVES:
            devices.meetings.append(f"{func}: {', '.join(map(str, found))}")
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(map(str, found))}! ({func})"
            )
        out = func(*args, **kwargs)
        # What has no input, C++ made: the mode above labels what Python asked for.
        label = next(iter(found)) if found else (CPU if any(devices.of(x) for x in given) else None)
        devices.seen = label
        if func is _aten.clone.default and devices.landing is not None:
            label = devices.landing
        known = {x.untyped_storage()._cdata for x in given if not x.is_meta}
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and not x.is_meta and x.untyped_storage()._cdata not in known:
                devices.put(x, label)
        return out


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, to: torch.device, devices: Devices) -> Tensor:
        ctx.devices, ctx.here, ctx.to = devices, devices.of(x) or CPU, to
        return devices.landed(x, to)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return ctx.devices.landed(grads[0], ctx.here), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_: Any) -> Tensor:
        return ctx.devices.landed(tangent, ctx.to)


def _device(wanted: Any) -> torch.device:
    found = torch.device(_KIND, wanted) if isinstance(wanted, int) else torch.device(wanted)
    return torch.device(_KIND, found.index or 0) if found.type == _KIND else found
