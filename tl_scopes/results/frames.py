"""Named pandas tables: their columns checked, and a folder that holds them with a description."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from tl_scopes.errors import ResultFileError, ScopeParameterError
from tl_scopes.results.files import in_utf8, is_whole, sealed, target, write_bytes
from tl_scopes.results.storage import FORMAT, FORMAT_VERSION, check_format, parsed

if TYPE_CHECKING:
    import pandas as pd


def long_table(shape: Sequence[int], columns: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each place of tensors of `shape`, the last axis fastest.

    `columns`: by name a tensor of that shape, or `(axis, entries)` for what depends on one axis alone.

        >>> long_table((2, 3), {"head": (0, [4, 7]), "source": (1, range(3)), "norm": norms})
    """
    import pandas as pd

    def cells(column: Any) -> list[Any]:
        if isinstance(column, Tensor):
            return column.flatten().tolist()
        axis, entries = column
        entries = [in_utf8(entry) if isinstance(entry, str) else entry for entry in entries]
        after = math.prod(shape[axis + 1 :])
        return [entry for entry in entries for _ in range(after)] * math.prod(shape[:axis])

    return pd.DataFrame({name: cells(column) for name, column in columns.items()})


def checked(
    name: str, frame: pd.DataFrame, columns: Mapping[str, type], key: Sequence[str]
) -> pd.DataFrame:
    """A copy of `frame` with `columns` of these types, in its own order.

    `key`: columns that no two rows may share. Missing text becomes "". Raises `ScopeParameterError`
    for a missing column, a value of another type, or a row that is there twice.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ScopeParameterError(
            f"{name} has no column {missing[0]!r} (it has {', '.join(map(str, frame.columns))}); "
            f"it takes {', '.join(columns)}"
        )
    frame = frame.reset_index(drop=True)
    for column, kind in columns.items():
        values = frame[column]
        try:
            if kind is str:  # a category or a null would not become text
                values = values.astype(object).where(values.notna(), "")
                known = {text: in_utf8(str(text)) for text in values.unique()}
                values = values.map(known.get)
            with np.errstate(invalid="ignore"):  # NaN among whole numbers
                frame[column] = values.astype(kind)
            if kind is int and (frame[column] != values).any():
                raise ValueError("not whole numbers")
        except (TypeError, ValueError) as error:
            raise ScopeParameterError(
                f"column {column!r} of {name} is not made of {kind.__name__} alone ({error})"
            ) from error
    twice = frame[frame.duplicated(list(key))]
    if len(twice):
        where = {column: twice.iloc[0][column] for column in key}
        raise ScopeParameterError(
            f"{name} has two rows for {where}; one is allowed: drop the duplicates"
        )
    return frame


def write_frames(
    folder: str | Path, kind: str, frames: Mapping[str, pd.DataFrame], payload: Mapping[str, Any]
) -> Path:
    """Write `frames` (parquet) and the JSON-serialisable `payload` into `folder`, made if need be.

    The description goes last and names each table by its content, so that a folder holds either what
    it held before or the new result, whenever it is interrupted. A table has the mode of the one
    that it takes the place of.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target(folder / f"{kind}.json")
    earlier = {name: sorted(folder.glob(f"{name}-{'?' * 12}.parquet")) for name in frames}
    for old in (path for paths in earlier.values() for path in paths):
        target(old)
    tables = {}
    for name, frame in frames.items():
        data = frame.to_parquet(None, engine="pyarrow", index=False)
        digest = hashlib.sha256(data).hexdigest()
        file = f"{name}-{digest[:12]}.parquet"
        write_bytes(folder / file, data, like=next(iter(earlier[name]), None))
        tables[name] = {"file": file, "sha256": digest, "rows": len(frame)}
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "tables": tables,
        "payload": dict(payload),
    }

    def text(checksum: str) -> bytes:
        whole = {**description, "checksum": checksum}
        return f"{json.dumps(whole, indent=1, allow_nan=False)}\n".encode()

    write_bytes(folder / f"{kind}.json", sealed(text))
    for name, paths in earlier.items():
        for old in paths:
            if old.name != tables[name]["file"]:
                old.unlink(missing_ok=True)
    return folder


def read_frames(folder: str | Path, kind: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Read what `write_frames` wrote.

    Raises `ResultFileError` for a folder in which a file is missing, truncated or changed, that
    something else wrote, or that a newer version of the package wrote; `FileNotFoundError` for none.
    """
    import pandas as pd

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    path = folder / f"{kind}.json"
    if not path.is_file():
        raise ResultFileError(
            f"{folder} has no {path.name}: no {kind} was saved there to its end; load a folder "
            "that .save() wrote"
        )
    what = f"{path} is not a description that tl_scopes wrote, or is damaged"
    data = path.read_bytes()
    description = parsed(data, what)
    check_format(path, kind, description)
    if description.get("kind") != kind:
        raise ResultFileError(
            f"{path} describes a {description.get('kind')}, not a {kind}: load another folder"
        )
    try:
        tables, payload = description["tables"], description["payload"]
        wanted = {str(k): (str(v["file"]), str(v["sha256"])) for k, v in tables.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ResultFileError(f"{what} ({error!r}): save it again") from error
    if not is_whole(data):
        raise ResultFileError(f"{path} was changed since it was saved: save the result again")
    frames = {}
    for name, (file, digest) in wanted.items():
        part = folder / Path(file).name
        data = part.read_bytes() if part.is_file() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise ResultFileError(
                f"{part} is missing, truncated or changed since it was saved: save the result again"
            )
        try:
            frames[name] = pd.read_parquet(io.BytesIO(data), engine="pyarrow")
        except Exception as error:  # pyarrow has many for a file of another program
            raise ResultFileError(
                f"{part} is no table that tl_scopes wrote ({error}): save the result again"
            ) from error
    return frames, payload
