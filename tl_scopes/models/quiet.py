"""A context in which libraries neither chatter nor leave settings changed."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator

from tl_scopes.adapter import forks
from tl_scopes.errors import ScopesError
from tl_scopes.models import muted
from tl_scopes.results.escapes import message

# One at a time: transformers sets torch's default dtype, which all threads share, for a model it loads.
_one_at_a_time = threading.RLock()
_open: list[contextlib.ExitStack] = []


@contextlib.contextmanager
def undisturbed(*, show_progress_bars: bool = False) -> Iterator[None]:
    """Silence third-party prints, warnings and bars in this thread; put settings back on leaving.

    Prints (`HookedTransformer` makes some), warnings, log lines and the environment are this
    thread's alone: what others write meanwhile arrives. Put back too, on success and on error:
    torch's, numpy's and Python's random states, grad mode, default dtype. These, the default dtype
    while transformers loads, and transformers' switch for bars, are shared by all threads.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.get_verbosity()  # its first use gives transformers' logger a handler
    with _one_at_a_time, contextlib.ExitStack() as stack:
        _open.append(stack)
        stack.callback(lambda: _open.remove(stack) if stack in _open else None)
        _put_back_settings(stack)
        mine = stack.enter_context(muted.this_thread())
        if not show_progress_bars:
            transformers_logging.disable_progress_bar()
            stack.enter_context(muted.dropped("stderr", mine))  # bars without such a switch
        stack.enter_context(muted.dropped("stdout", mine))
        stack.enter_context(muted.unwarned(mine))
        stack.enter_context(muted.unlogged("transformers", mine))
        stack.enter_context(muted.own_environment(mine))
        yield


def _put_back_settings(stack: contextlib.ExitStack) -> None:
    import numpy
    import torch
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
    from huggingface_hub.utils import enable_progress_bars as enable_hub_bars
    from transformers.utils import logging as transformers_logging

    hub_bars_off = are_progress_bars_disabled()

    def put_back_hub_bars() -> None:
        if are_progress_bars_disabled() != hub_bars_off:
            (disable_hub_bars if hub_bars_off else enable_hub_bars)()

    stack.callback(put_back_hub_bars)
    if transformers_logging.is_progress_bar_enabled():
        stack.callback(transformers_logging.enable_progress_bar)
    on_gpus = torch.cuda.is_initialized()
    stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count()) if on_gpus else ()))
    stack.callback(numpy.random.set_state, numpy.random.get_state())
    stack.callback(random.setstate, random.getstate())
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())


def _disown() -> None:
    """In a forked child: what a load in another thread has silenced speaks again."""
    global _one_at_a_time
    if forks.is_orphaned(_one_at_a_time):
        _one_at_a_time = threading.RLock()
        forks.close(_open)


forks.in_child(_disown)


@contextlib.contextmanager
def local_only_if_unreachable() -> Iterator[None]:
    """Look only into the hub's local cache when its address cannot even be resolved.

    Otherwise each file is asked for six times, with 23 s of pauses, before the failure is told.
    """
    from huggingface_hub import constants

    from tl_scopes.adapter.internals import offline_switches

    host = urllib.parse.urlparse(constants.ENDPOINT).hostname or ""
    try:
        if not urllib.request.getproxies():  # behind a proxy, names need not resolve here
            socket.getaddrinfo(host, 443)
        reachable = True
    except OSError:
        reachable = False
    with contextlib.ExitStack() as stack:
        for module, name in () if reachable else offline_switches():
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, True)
        yield


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr, where it cannot spoil piped output.

    Whatever names, paths and texts `text` quotes, the terminal obeys nothing in them.
    """
    print(f"tl-scopes: {message(text)}", file=sys.stderr, flush=True)


def message_of(error: BaseException, smaller: str) -> str | None:
    """What a person is told of an error: the package's own words, None for a bug.

    `smaller`: what to do where memory ran out.
    """
    if isinstance(error, (ScopesError, OSError)):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: {smaller}"
    return None
