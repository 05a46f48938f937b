"""A context in which libraries neither chatter nor leave settings changed."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

from tl_scopes.adapter import forks
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
        stack.callback(_put_back_settings())
        mine = stack.enter_context(muted.this_thread())
        if not show_progress_bars:
            transformers_logging.disable_progress_bar()
            stack.enter_context(muted.dropped("stderr", mine))  # bars without such a switch
        stack.enter_context(muted.dropped("stdout", mine))
        stack.enter_context(muted.unwarned(mine))
        stack.enter_context(muted.unlogged("transformers", mine))
        stack.enter_context(muted.own_environment(mine))
        yield


def _put_back_settings() -> Callable[[], None]:
    import numpy
    import torch
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
    from huggingface_hub.utils import enable_progress_bars as enable_hub_bars
    from transformers.utils import logging as transformers_logging

    random_states = random.getstate(), numpy.random.get_state(), torch.random.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    grad_mode, default_dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    bars = transformers_logging.is_progress_bar_enabled()
    hub_bars_off = are_progress_bars_disabled()

    def put_back() -> None:
        if bars:
            transformers_logging.enable_progress_bar()
        if are_progress_bars_disabled() != hub_bars_off:
            (disable_hub_bars if hub_bars_off else enable_hub_bars)()
        torch.set_grad_enabled(grad_mode)
        torch.set_default_dtype(default_dtype)
        random.setstate(random_states[0])
        numpy.random.set_state(random_states[1])
        torch.random.set_rng_state(random_states[2])
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)

    return put_back


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
    saved = [(module, name, getattr(module, name)) for module, name in offline_switches()]
    try:
        if not reachable:
            for module, name, _ in saved:
                setattr(module, name, True)
        yield
    finally:
        for module, name, value in saved:
            setattr(module, name, value)


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr, where it cannot spoil piped output.

    Whatever names, paths and texts `text` quotes, the terminal obeys nothing in them.
    """
    print(f"tl-scopes: {message(text)}", file=sys.stderr, flush=True)
