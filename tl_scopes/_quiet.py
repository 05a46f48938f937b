"""A context in which libraries neither chatter nor leave settings changed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import socket
import sys
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator

from tl_scopes._characters import message


@contextlib.contextmanager
def undisturbed(*, show_progress_bars: bool = False) -> Iterator[None]:
    """Silence third-party prints, warnings and bars; put every global setting back on leaving.

    Put back, on success and on error: torch's, numpy's and Python's random states, grad mode,
    default dtype, the environment, transformers' verbosity and bars, the root logger's handlers.
    Standard output is swallowed (`HookedTransformer` prints there); errors are not.
    """
    import numpy
    import torch
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
    from huggingface_hub.utils import enable_progress_bars as enable_hub_bars
    from transformers.utils import logging as transformers_logging

    environment = dict(os.environ)
    random_states = random.getstate(), numpy.random.get_state(), torch.random.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    grad_mode, default_dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub_bars_off = are_progress_bars_disabled()
    root = logging.getLogger()
    # logging.warning() on a bare root logger installs a handler for good; a null one prevents it.
    null = None if root.handlers else logging.NullHandler()
    try:
        if null:
            root.addHandler(null)
        transformers_logging.set_verbosity_error()
        if not show_progress_bars:
            transformers_logging.disable_progress_bar()
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if not show_progress_bars:  # some bars have no other switch
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        if null:
            root.removeHandler(null)
        transformers_logging.set_verbosity(verbosity)
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
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)


@contextlib.contextmanager
def local_only_if_unreachable() -> Iterator[None]:
    """Look only into the hub's local cache when its address cannot even be resolved.

    Otherwise each file is asked for six times, with 23 s of pauses, before the failure is told.
    """
    from huggingface_hub import constants
    from transformers.utils import hub as transformers_hub

    host = urllib.parse.urlparse(constants.ENDPOINT).hostname or ""
    try:
        if not urllib.request.getproxies():  # behind a proxy, names need not resolve here
            socket.getaddrinfo(host, 443)
        reachable = True
    except OSError:
        reachable = False
    # transformers 4 keeps a copy of the switch.
    switches = [(constants, "HF_HUB_OFFLINE"), (transformers_hub, "_is_offline_mode")]
    saved = [(m, name, getattr(m, name)) for m, name in switches if hasattr(m, name)]
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
