"""The processes of one launch: by accelerate where there are several, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

from tl_scopes.errors import RunError

_T = TypeVar("_T")
# How many processes there are, and which one this is, as torchrun, accelerate and the MPI launchers
# say it.
_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
# The quickest process waits for the slowest; the default of 10 or 30 minutes would end the run.
_PATIENCE = timedelta(days=1)


class Processes:
    """This process among those that `accelerate launch` or torchrun started together."""

    index = 0
    count = 1
    device: str | None = None

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def gather(self, value: _T) -> list[_T]:
        """The `value` of every process, in order, in every process."""
        return [value]

    def share(self, value: _T) -> _T:
        """The main process's `value`."""
        return value

    def split(self, items: Sequence[_T]) -> list[_T]:
        """This process's share of `items`, which are the same in all."""
        return list(items)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave only with the others: an error in one ends all, and none waits for ever."""
        yield

    def leave(self) -> None:
        """Part from the others for good."""


class _Launched(Processes):
    def __init__(self, cpu: bool) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=cpu, timeout=_PATIENCE)
        if self._state.num_processes != launched():
            raise RunError(
                f"{launched()} processes were launched, but accelerate joined "
                f"{self._state.num_processes} of them, each of which would do the whole work: launch "
                "on CUDA devices or on CPUs, and leave PartialState to this package"
            )
        self.index, self.count = self._state.process_index, self._state.num_processes
        device = str(self._state.device)
        self.device = "cpu" if device.startswith("cpu") else device

    def gather(self, value: _T) -> list[_T]:
        from accelerate.utils import gather_object

        with self._joined():
            return gather_object([value])

    def share(self, value: _T) -> _T:
        from accelerate.utils import broadcast_object_list

        with self._joined():
            return broadcast_object_list([value])[0]

    @contextmanager
    def _joined(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RunError(
                f"process {self.index} of {self.count} lost the others ({str(error)[:200]}): one of "
                "them ended. What is written stays good, and the same command goes on from there"
            ) from error

    def split(self, items: Sequence[_T]) -> list[_T]:
        # Dealt like cards first: neighbours in a list take alike long.
        dealt = [item for i in range(self.count) for item in items[i :: self.count]]
        with self._state.split_between_processes(dealt) as own:
            return cast("list[_T]", own)

    @contextmanager
    def together(self) -> Iterator[None]:
        error: Exception | None = None
        try:
            yield
        except Exception as found:
            error = found
        told = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for index, text in enumerate(told):
            if text is not None:
                raise RunError(f"process {index} of {self.count} failed: {text}")

    def leave(self) -> None:
        self._state.destroy_process_group()


def launched() -> int:
    """How many processes the launcher started."""
    values = [os.environ.get(name, "") for name in _WORLD]
    return max([1, *(int(value) for value in values if value.isdecimal())])


def processes(cpu: bool = False) -> Processes:
    """Those of this launch. `cpu`: the model runs on the CPU although there are accelerators.

    Raises `RunError` where the environment tells of others that cannot be joined.
    """
    if launched() < 2:
        # Not a state of accelerate's for one process: it is global, and would fix the device of an
        # Accelerator that the caller makes later.
        return Processes()
    if not any(name in os.environ for name in _RANK):
        raise RunError(
            f"the environment says that there are {launched()} processes ({' or '.join(_WORLD)}), but "
            "not which one this is: start with accelerate launch or torchrun, or unset that variable"
        )
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return _Launched(cpu or found is None or found.type == "mps")
