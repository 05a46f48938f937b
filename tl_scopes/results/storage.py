"""Results as files: named tensors with a JSON description in one safetensors file with its checksum."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tl_scopes.errors import ResultFileError
from tl_scopes.results.files import is_whole, sealed, write_bytes

FORMAT = "tl_scopes"
# Raised when an older tl_scopes would not know what to make of a file.
FORMAT_VERSION = 3
# No description may be longer: the limit of safetensors itself.
_LONGEST_HEADER = 100_000_000


def write_file(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], payload: Mapping[str, Any]
) -> Path:
    """Write `tensors` and the JSON-serialisable `payload`; the file appears whole or not at all.

    Raises `ResultFileError` for a payload that no file can hold, and as `files.write_bytes`.
    """
    try:
        text = json.dumps(payload, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ResultFileError(
            f"this {kind} cannot be saved: its description holds what JSON lacks ({error})"
        ) from error
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "payload": text,
    }
    held = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    data = sealed(lambda checksum: save(held, {**metadata, "checksum": checksum}))
    if (length := int.from_bytes(data[:8], "little")) > _LONGEST_HEADER:
        raise ResultFileError(
            f"this {kind} cannot be saved: its description takes {length} bytes, a file can hold "
            f"{_LONGEST_HEADER}. Save it in parts, of fewer read positions say"
        )
    return write_bytes(path, data)


def read_file(
    path: str | Path, kind: str, *earlier: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_file` wrote.

    Raises `ResultFileError` for a file that is truncated or changed, that something else wrote, that
    holds neither this `kind` nor one of its `earlier` names, or that a newer version of the package
    wrote; FileNotFoundError as usual.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    # Its description comes first: of a file of another program no more is read.
    with path.open("rb") as file:
        data = file.read(8)
        length = int.from_bytes(data, "little")
        if length <= _LONGEST_HEADER:
            data += file.read(length)
        metadata = _metadata(data, path)
        check_format(path, kind, metadata)
        if (other := str(metadata.get("kind"))) not in (kind, *earlier):
            other = other.removeprefix("Grouped")
            raise ResultFileError(f"{path} holds a {other}, not a {kind}: use {other}.load")
        data += file.read()
    try:
        if not is_whole(data):
            raise ValueError("its checksum is another")
        tensors = load(data)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise ResultFileError(_damaged(path, error)) from error
    payload = parsed(metadata.get("payload"), f"{path} has a damaged description")
    return tensors, payload


def _metadata(data: bytes, path: Path) -> dict[str, Any]:
    """What the header of a safetensors file says beside its tensors."""
    try:
        if len(data) < 8 or len(data) - 8 != int.from_bytes(data[:8], "little"):
            raise ValueError("its header is not whole")
        found = json.loads(data[8:])
        if not isinstance(found, dict):
            raise ValueError("its header is no object")
    except (ValueError, RecursionError, MemoryError) as error:
        raise ResultFileError(_damaged(path, error)) from error
    metadata = found.get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _damaged(path: Path, error: BaseException) -> str:
    return (
        f"{path} is not a whole safetensors file ({error}); it may be truncated or changed since it "
        "was saved: save it again"
    )


def check_format(path: Path, kind: str, description: Mapping[str, Any]) -> None:
    """Raises `ResultFileError` for what another program, or a newer version of this one, wrote."""
    if description.get("format") != FORMAT:
        raise ResultFileError(
            f"{path} is not one that tl_scopes wrote, so not a {kind}, or is damaged: load what "
            ".save() made"
        )
    version = str(description.get("format_version", ""))
    if not re.fullmatch("[0-9]{1,9}", version) or int(version) > FORMAT_VERSION:
        raise ResultFileError(
            f"{path} has format version {version!r}, this tl_scopes reads up to {FORMAT_VERSION}: "
            "upgrade tl_scopes"
        )


def parsed(text: Any, what: str) -> dict[str, Any]:
    """The JSON object that `text` is. Raises `ResultFileError`, which begins with `what`."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(text, parse_constant=refuse)
        if not isinstance(content, dict):
            raise ValueError(f"it is a {type(content).__name__}")
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ResultFileError(f"{what} ({error}): save it again") from error
    return content


def plain(value: Any) -> Any:
    """`value` as JSON holds it; a dataclass as a dict with its name, infinity and NaN by theirs."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": str(value)}
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
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        inside = {k: rebuilt(v, kinds) for k, v in value.items() if k != "__type__"}
        return kinds[value["__type__"]](**inside) if "__type__" in value else inside
    if isinstance(value, list):
        return tuple(rebuilt(v, kinds) for v in value)
    return value
