"""The files of a run: one part for each finished unit, and the table made of all of them."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_scopes.errors import RunError
from tl_scopes.results.files import in_utf8, is_whole, sealed, write_bytes

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = "rows.parquet"
PARTS = "parts"


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "index": pa.int64(),
        "tokens": pa.int64(),
        "method": pa.string(),
        "metric": pa.string(),
        "replacement": pa.string(),
        "fraction": pa.float64(),
        "value": pa.float64(),
        "error": pa.string(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


def table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    clean = [{**row, "error": in_utf8(row["error"])} for row in rows]
    return pa.Table.from_pylist(clean, schema=_schema())


def write(rows: pa.Table, path: Path, **notes: str) -> None:
    """Write a table with its checksum, and `notes`, in the file's own metadata."""
    from pyarrow import parquet

    def data(checksum: str) -> bytes:
        buffer = io.BytesIO()
        noted = rows.replace_schema_metadata({**notes, "checksum": checksum})
        parquet.write_table(noted, buffer, compression="zstd")
        return buffer.getvalue()

    write_bytes(path, sealed(data))


def read(path: Path, what_to_do: str) -> tuple[pa.Table, dict[str, str]]:
    """A table that `write` wrote, and its notes; older files have none.

    Raises `RunError`, which ends with `what_to_do`, for a file that is missing or was changed.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        data = path.read_bytes()
        if not is_whole(data):
            raise ValueError("its checksum is another")
        schema = parquet.read_schema(pa.BufferReader(data))
        if schema.names != _schema().names:
            raise ValueError(f"its columns are {', '.join(schema.names)}")
        rows = parquet.read_table(pa.BufferReader(data), schema=_schema())
        metadata = schema.metadata or {}
        notes = {key.decode(): value.decode() for key, value in metadata.items()}
        return rows.replace_schema_metadata(None), notes
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} is not the whole file that was written ({error}): {what_to_do}"
        ) from error


class Parts:
    """The part files of one run, by the number of their unit. `made_with`: a digest of its manifest."""

    def __init__(self, out: Path, count: int, made_with: str = "") -> None:
        self.out, self.count, self.made_with = out, count, made_with
        self.folder = out / PARTS

    def path(self, unit: int) -> Path:
        return self.folder / f"{unit:07d}.parquet"

    def done(self) -> set[int]:
        """The units whose rows are here."""
        names = {path.stem for path in self.folder.glob("*.parquet")}
        return {int(name) for name in names if name.isdecimal() and int(name) < self.count}

    def clean(self) -> None:
        """Take away what a killed run left unfinished, and nothing of anybody else's."""
        written = ((self.out, "manifest.json"), (self.out, ROWS), (self.folder, "*.parquet"))
        for folder, name in written:
            for path in folder.glob(f"{name}*.partial"):
                path.unlink(missing_ok=True)

    def save(self, unit: int, rows: Sequence[Mapping[str, Any]]) -> None:
        write(table(rows), self.path(unit), unit=str(unit), made_with=self.made_with)

    def send(self, unit: int) -> bytes:
        return self.path(unit).read_bytes()

    def receive(self, unit: int, data: bytes) -> None:
        write_bytes(self.path(unit), data)

    def rows(self, unit: int, members: Collection[int]) -> pa.Table:
        """The rows of a unit. Raises `RunError` for a file that holds any but those of `members`."""
        anew = "delete it and give the same command again, which measures it anew"
        rows, notes = read(self.path(unit), anew)
        indices = rows["index"].to_pylist()
        # A `measure` of the user's may give no row for a prompt: then the notes say whose part it is.
        other = sorted(set(indices) - set(members) if notes else set(indices) ^ set(members))
        if other:
            has = "has rows" if other[0] in indices else "lacks the rows"
            raise RunError(
                f"{self.path(unit)} {has} of prompt {other[0]}: it is not the part of unit {unit} "
                f"that was written: {anew}"
            )
        if notes and (notes.get("unit"), notes.get("made_with")) != (str(unit), self.made_with):
            raise RunError(f"{self.path(unit)} is a part of another run or unit: {anew}")
        return rows

    def assemble(
        self, failed: Iterable[Mapping[str, Any]], members: Sequence[Collection[int]]
    ) -> tuple[int, int]:
        """Make the final table of all parts and the rows of `failed`, by prompt, then as measured.

        `members[i]`: the prompts of unit i. Returns how many rows the table has, and how many prompts
        have an error.
        """
        import pyarrow as pa

        tables = [table(list(failed))]
        tables += [self.rows(unit, members[unit]) for unit in range(self.count)]
        rows = pa.concat_tables(tables)
        order = rows.append_column("order", pa.array(range(len(rows)), pa.int64()))
        order = order.sort_by([("index", "ascending"), ("order", "ascending")])
        rows = order.select(rows.column_names).combine_chunks()
        write(rows, self.out / ROWS)
        wrong = {i for i, e in zip(*(rows[c].to_pylist() for c in ("index", "error"))) if e}
        return len(rows), len(wrong)
