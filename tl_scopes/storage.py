"""Files: named tensors with a JSON description in one safetensors file, written atomically."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_scopes.errors import ResultFileError

FORMAT = "tl_scopes"
FORMAT_VERSION = 1


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which it then becomes at once, or not at all.

    Raises `FileNotFoundError` where the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} into: create it")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` in UTF-8; the file appears whole or not at all."""
    path = Path(path)
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_file(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], payload: Mapping[str, Any]
) -> Path:
    """Write `tensors` and the JSON-serialisable `payload`; the file appears whole or not at all."""
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "payload": json.dumps(payload, allow_nan=False),
    }
    with whole(path) as partial:
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=metadata)
    return path


def read_file(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_file` wrote.

    Raises `ResultFileError` for a file that is truncated, that something else wrote, that holds
    another `kind`, or that a newer version of the package wrote; FileNotFoundError as usual.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ResultFileError(
            f"{path} is not a whole safetensors file ({error}); it may be truncated: save it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ResultFileError(
            f"{path} is a safetensors file, but not one that tl_scopes wrote; "
            "load files made by .save()"
        )
    version = metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise ResultFileError(
            f"{path} has format version {version!r}, this tl_scopes reads up to "
            f"{FORMAT_VERSION}: upgrade tl_scopes"
        )
    if metadata.get("kind") != kind:
        raise ResultFileError(
            f"{path} holds a {metadata.get('kind')}, not a {kind}: use {metadata.get('kind')}.load"
        )
    try:
        payload = json.loads(metadata["payload"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ResultFileError(f"{path} has a damaged description: save it again") from error
    return tensors, payload


def plain(value: Any) -> Any:
    """`value` as JSON holds it; a dataclass as a dict with its name."""
    if is_dataclass(value):
        inside = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return {"__type__": type(value).__name__, **inside}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def rebuilt(value: Any, kinds: Mapping[str, type]) -> Any:
    """What `plain` was given: dataclasses by their names in `kinds`, and lists as tuples."""
    if isinstance(value, dict):
        inside = {k: rebuilt(v, kinds) for k, v in value.items() if k != "__type__"}
        return kinds[value["__type__"]](**inside) if "__type__" in value else inside
    if isinstance(value, list):
        return tuple(rebuilt(v, kinds) for v in value)
    return value
