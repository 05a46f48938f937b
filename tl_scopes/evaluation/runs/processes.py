"""The processes of one launch: by accelerate where there are several, or this one alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from tl_scopes.adapter import internals
from tl_scopes.errors import LostProcessError, RunError
from tl_scopes.evaluation.runs import pulse

if TYPE_CHECKING:
    from accelerate import PartialState

_T = TypeVar("_T")
# How many processes there are, and which one this is, as torchrun, accelerate and the MPI launchers
# say it.
_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_MEETING_PLACE = ("MASTER_ADDR", "MASTER_PORT")
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
# Seconds within which all processes must come, at the start, and what says how many else.
MEET, MEET_SECONDS = 600.0, "TL_SCOPES_MEET_SECONDS"
# Seconds of waiting for them after which it is said.
_SAID = 10.0
# For what all have come to exchange. How long the quickest waits for the slowest is the pulse's matter.
_EXCHANGE = timedelta(minutes=30)


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

    def rest(self) -> None:
        """Nothing is exchanged until something is again: no sign of life is owed to the others."""

    def leave(self) -> None:
        """Part from the others for good, where all are well."""


class _Launched(Processes):
    # One of all that are made in this process, like the group that accelerate makes.
    _pulse: ClassVar[pulse.Pulse | None] = None

    def __init__(self, cpu: bool) -> None:
        self._state = _met(cpu)
        if self._state.num_processes != launched():
            raise RunError(
                f"{launched()} processes were launched, but accelerate joined "
                f"{self._state.num_processes} of them, each of which would do the whole work: launch "
                "on CUDA devices or on CPUs, and leave PartialState to this package"
            )
        self.index, self.count = self._state.process_index, self._state.num_processes
        device = str(self._state.device)
        self.device = "cpu" if device.startswith("cpu") else device
        if _Launched._pulse is None:
            store = internals.group_store()
            _Launched._pulse = store and pulse.Pulse(store, self.index, self.count)

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
            if self._pulse is not None:
                self._pulse.start()
                self._pulse.meet()
            yield
        except LostProcessError:
            raise
        except RuntimeError as error:
            ended = [] if self._pulse is None else self._pulse.ended()
            who = f"{pulse.named(ended)} ended" if ended else "one of them ended"
            raise pulse.lost(self.index, self.count, f"{who}: {str(error)[:200]}") from error

    def split(self, items: Sequence[_T]) -> list[_T]:
        # Dealt like cards first: neighbours in a list take alike long.
        dealt = [item for i in range(self.count) for item in items[i :: self.count]]
        with self._state.split_between_processes(dealt) as share:
            return cast("list[_T]", share)

    @contextmanager
    def together(self) -> Iterator[None]:
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        told = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for index, text in enumerate(told):
            if text is not None:
                raise RunError(f"process {index} of {self.count} failed: {text}")

    def rest(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()

    def leave(self) -> None:
        # Together: a connection that one closes while another still reads can end that other.
        with self._joined():
            pass
        self.rest()
        _Launched._pulse = None
        self._state.destroy_process_group()


def _met(cpu: bool) -> PartialState:
    """Accelerate's state, once all processes have come. Raises `LostProcessError`."""
    from accelerate import PartialState

    which = next((os.environ[name] for name in _RANK if name in os.environ), "?")
    named = [f"{name}={os.environ[name]}" for name in _MEETING_PLACE if name in os.environ]
    where = f" at {' '.join(named)}" if named else ""
    seconds = _meet_seconds()
    met = threading.Event()

    def tell() -> None:
        tell_slowly = pulse.Said(_SAID)
        while not met.wait(0.2):
            tell_slowly(
                f"process {which} of {launched()} waits for the others{where}, for up to "
                f"{seconds:.0f} s"
            )

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        state = PartialState(cpu=cpu, timeout=timedelta(seconds=seconds))
        internals.set_group_timeout(_EXCHANGE)
        return state
    except RuntimeError as error:
        internals.forget_group()
        raise LostProcessError(
            f"process {which} of {launched()} did not meet the others{where} within {seconds:.0f} s "
            f"({str(error).splitlines()[0][:200]}): start all of them, with the same address; unset "
            f"{' or '.join(_WORLD[:1])} for a process alone; or set {MEET_SECONDS} to wait longer"
        ) from error
    finally:
        met.set()
        teller.join()


def _meet_seconds() -> float:
    text = os.environ.get(MEET_SECONDS, "")
    try:
        seconds = float(text) if text else MEET
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86400:
        raise RunError(f"{MEET_SECONDS} is {text!r}; allowed: seconds from 1 to 86400")
    return seconds


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

    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    return _Launched(cpu or accelerator is None or accelerator.type == "mps")
