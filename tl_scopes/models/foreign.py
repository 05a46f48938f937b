"""Code that comes with a model: never run, unless the user says so by `trust_remote_code=True`.

To pass `trust_remote_code=False` is not enough. transformers 4 runs the `custom_generate` of a local
folder all the same; transformer-lens trusts some names by itself, imports the code of some
architectures unasked, and unpickles the weights of others. transformers takes every code file of a model
by one function, and asks by another: both refuse here, in the thread that loads.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tl_scopes.errors import ModelUnavailableError

_ARGUMENT = (
    "It is not run. If you have read it and trust it, pass trust_remote_code=True (on the command line "
    "--trust-remote-code)"
)
_CUSTOM_GENERATE = "custom_generate/generate.py"
_ADAPTER = "adapter_config.json"
_refusing: ContextVar[bool] = ContextVar("tl_scopes_refusing_foreign_code", default=False)
_loading: ContextVar[bool] = ContextVar("tl_scopes_loading_a_model", default=False)
_patching = threading.Lock()


class ForeignCodeError(ModelUnavailableError, OSError):
    """A model brings code that would have to run. An OSError, as for a file that is not there: who
    only looks whether a model has some goes on without."""


@contextmanager
def refused(source: str | Path, trusted: bool) -> Iterator[None]:
    """No file of code that comes with a model is taken by transformers inside, unless `trusted`.

    `source`: the model's name or folder. Holds for this thread alone, inside `undisturbed()`, which puts
    the environment back. Raises `ForeignCodeError` where the model cannot be had without.
    """
    if trusted:
        yield
        return
    _guard_transformers()
    token = _refusing.set(True)
    try:
        # Read by tokenizers of transformers 4 that unpickle their vocabulary.
        os.environ.pop("TRUST_REMOTE_CODE", None)
        yield
    except Exception as error:
        if any(isinstance(cause, pickle.UnpicklingError) for cause in _causes(error)):
            raise ModelUnavailableError(
                f"{str(source)!r} has weights in a pickle (.bin or .pth) that holds more than tensors: "
                "unpickling could run code, and is not done. Ask for safetensors files."
            ) from error
        if not isinstance(error, ValueError) or "trust_remote_code" not in str(error):
            raise
        files = ", ".join(code_files(Path(source)))
        what = f"{str(source)!r} needs code of its own" + (f" ({files})" if files else "")
        raise ForeignCodeError(f"{what}. {_ARGUMENT}.") from error
    finally:
        _refusing.reset(token)


@contextmanager
def nothing_installed() -> Iterator[None]:
    """No package is installed inside: transformer-lens runs pip by itself for a model that reads images
    too, which may replace torch. Such a model is loaded without its processor."""
    token = _loading.set(True)
    with _patching:
        if not hasattr(subprocess.check_call, "__wrapped__"):
            subprocess.check_call = _no_installer(subprocess.check_call)
    try:
        yield
    finally:
        _loading.reset(token)


def _no_installer(call: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(call)
    def guarded(command: Any, *args: Any, **kwargs: Any) -> int:
        if _loading.get() and "install" in command:
            raise ModelUnavailableError(f"not run while a model is loaded: {command}")
        return call(command, *args, **kwargs)

    return guarded


def weights_only() -> None:
    """Have torch.load read tensors and nothing else, whatever its caller asks for, until `undisturbed()`,
    inside which this is called, puts the environment back."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)


def check_folder(folder: Path, trusted: bool) -> None:
    """Raise `ModelUnavailableError` for a folder that would run code, or load what lies elsewhere."""
    if (folder / _ADAPTER).exists():
        # With peft installed it would change the weights, in transformers 4 load others from
        # elsewhere; without, it would be overlooked.
        raise ModelUnavailableError(
            f"{str(folder)!r} holds a PEFT adapter ({_ADAPTER}), which names a base model elsewhere. "
            "Merge the two first (peft's merge_and_unload, then save_pretrained), or move the "
            "adapter's files out of the folder."
        )
    if not trusted and (folder / _CUSTOM_GENERATE).exists():
        raise ForeignCodeError(f"{str(folder)!r} brings code ({_CUSTOM_GENERATE}). {_ARGUMENT}.")


def code_files(folder: Path) -> list[str]:
    """Files that the folder's configs name as code, an upstream repository's included."""
    found: list[str] = []
    for name in ("config.json", "tokenizer_config.json"):
        try:
            plain = json.loads((folder / name).read_text(encoding="utf-8"))
            auto_map = plain.get("auto_map") or {}
        except (OSError, ValueError, AttributeError):
            continue
        values = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
        for value in values:
            classes = value if isinstance(value, list) else [value]
            found += [f"{c.rpartition('.')[0]}.py" for c in classes if isinstance(c, str)]
    return list(dict.fromkeys(found))


def _guard_transformers() -> None:
    """Once and for good: the guards ask the thread's own context, so that nothing is put back."""
    from transformers import dynamic_module_utils
    from transformers.generation import utils as generation

    with _patching:
        if hasattr(dynamic_module_utils, "input"):
            return
        modules: tuple[Any, ...] = (dynamic_module_utils, generation)
        for module in modules:
            module.get_cached_module_file = _guarded(module.get_cached_module_file)
        # A library between that does not hand trust_remote_code on would have the question asked.
        dynamic_module_utils.input = _ask  # type: ignore[attr-defined]


def _guarded(take: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(take)
    def guarded(source: Any, module_file: str, *args: Any, **kwargs: Any) -> Any:
        if _refusing.get():
            raise ForeignCodeError(f"{str(source)!r} brings code ({module_file}). {_ARGUMENT}.")
        return take(source, module_file, *args, **kwargs)

    return guarded


def _ask(question: str) -> str:
    if _refusing.get():
        raise EOFError("nobody is asked")  # which transformers takes for a no
    return input(question)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
