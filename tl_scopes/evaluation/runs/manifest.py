"""What a run was made with: enough to refuse to go on with anything else."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tl_scopes.adapter.view import view_of
from tl_scopes.errors import RunError
from tl_scopes.evaluation.runs.fingerprint import (
    buffers_hash,
    config,
    description,
    plain,
    users_hooks,
    weights_hash,
)
from tl_scopes.evaluation.runs.parts import PARTS, ROWS
from tl_scopes.results.files import is_whole, sealed, write_bytes

NAME = "manifest.json"
FORMAT = 3
# Finished runs of these can be looked at. Only one of this format can be gone on with.
_READ = (2, FORMAT)
# What cannot change a number beyond rounding is written down, and may differ.
NOTED = "noted"
_PACKAGES = ("transformer_lens", "torch", "transformers", "numpy", "scipy")
_NOTED_PACKAGES = ("pandas", "pyarrow", "captum", "datasets", "accelerate")


def describe(
    model: Any,
    methods: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    units: Mapping[str, Any],
    noted: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that decides the numbers, as plain values; under "noted" what does not."""
    from tl_scopes import __version__

    view = view_of(model)
    where = view.provenance()
    return plain(
        {
            "format": FORMAT,
            "versions": {"tl_scopes": __version__, **_versions(_PACKAGES)},
            "model": {
                "name": where.model,
                "class": where.model_class,
                "dtype": where.dtype,
                "device": view.device.type,
                "processing": where.processing,
                "sha256": weights_hash(model),
                "buffers": buffers_hash(model),
                "config": config(model),
                "hooks": users_hooks(model),
            },
            "data": data,
            "methods": {name: description(method) for name, method in methods.items()},
            "order": list(methods),
            "settings": settings,
            "units": units,
            "threads": torch.get_num_threads(),
            "matmul_precision": torch.get_float32_matmul_precision(),
            NOTED: {
                "python": platform.python_version(),
                "machine": _machine(view.device),
                "versions": _versions(_NOTED_PACKAGES),
                "provenance": asdict(where),
                **noted,
            },
        }
    )


def prompts_hash(prompts: Sequence[Any]) -> str:
    """SHA-256 of texts or rows of ids."""
    digest = hashlib.sha256()
    for prompt in prompts:
        own = prompt if isinstance(prompt, str) else plain(prompt)
        digest.update(json.dumps(own).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return model or platform.processor() or platform.machine()


def settle(mine: dict[str, Any], out: Path) -> list[str]:
    """Write the manifest, or compare with the one that is there.

    Returns what differs of the noted: none of it a reason to stop. Raises `RunError` for a folder
    whose run was made with anything else, naming each difference.
    """
    path = out / NAME
    if not path.is_file():
        foreign = next(
            (p for p in (out / ROWS, *(out / PARTS).glob("*.parquet")) if p.exists()), None
        )
        if foreign is not None:
            raise RunError(
                f"{foreign} is there, but no {out / NAME}, which says what it was made with: give "
                "another folder, or move it away"
            )

        def text(checksum: str) -> bytes:
            whole = {**mine, NOTED: {**mine[NOTED], "checksum": checksum}}
            return f"{json.dumps(whole, indent=2)}\n".encode()

        write_bytes(path, sealed(text))
        return []
    theirs = read(out)
    if theirs["format"] != FORMAT:
        raise RunError(
            f"{out} holds a run that an earlier version of tl_scopes began (format {theirs['format']}, now "
            f"{FORMAT}): give another folder, or end it with that version"
        )
    wrong = differences(theirs, mine)
    if wrong:
        raise RunError(
            f"{out} holds a run that was made with something else, and its rows cannot stand beside "
            f"new ones. {'; '.join(wrong)}. To go on with it, give what it was made with; or give "
            "another folder, or delete this one"
        )
    return differences(theirs[NOTED], mine[NOTED], only=("machine",))


def read(out: Path, as_written: bool = False) -> dict[str, Any]:
    """The manifest of the run in a folder. Raises `RunError` if it cannot be used.

    `as_written`: also where it was changed since. What is compared with another needs no such check.
    """
    path = out / NAME
    try:
        data = path.read_bytes()
        found = json.loads(data)
        if as_written and not is_whole(data):
            raise ValueError("it was changed since it was written")
    except FileNotFoundError:
        raise RunError(f"{out} holds no run: there is no {NAME} in it") from None
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged ({error}): give another folder, or delete this one"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get(NOTED), dict):
        raise RunError(f"{path} is not a manifest of tl_scopes: give another folder")
    if found.get("format") not in _READ:
        raise RunError(
            f"{path} has format {found.get('format')!r}, this tl_scopes reads {FORMAT}: give another "
            "folder, or the version of tl_scopes that wrote it"
        )
    return found


def digest(mine: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the numbers."""
    deciding = {name: value for name, value in mine.items() if name != NOTED}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def differences(theirs: Any, mine: Any, name: str = "", only: Sequence[str] = ()) -> list[str]:
    """Each field that is not the same, with both values and, for threads, what to do."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        found = []
        for key in only or [*theirs, *(k for k in mine if k not in theirs)]:
            if (name, key) != ("", NOTED):
                inner = f"{name}.{key}" if name else key
                found += differences(theirs.get(key, _NONE), mine.get(key, _NONE), inner)
        return found
    was, now = _told(theirs), _told(mine)
    if was == now:
        return []
    hint = f" (set OMP_NUM_THREADS={was})" if name == "threads" else ""
    return [f"{name} was {_short(was)}, is {_short(now)}{hint}"]


_NONE = object()


def _told(value: Any) -> str:
    # JSON, in which lists and tuples are the same, and NaN is equal to itself.
    return "not there" if value is _NONE else json.dumps(value)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
