"""The files of a run: one part for each finished unit, and the table made of all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_scopes.errors import RunError
from tl_scopes.storage import whole

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

    # A lone surrogate, which text of a prompt may bring into an error, has no UTF-8.
    clean = [{**row, "error": row["error"].encode("utf-8", "replace").decode()} for row in rows]
    return pa.Table.from_pylist(clean, schema=_schema())


def write(rows: pa.Table, path: Path) -> None:
    """The file appears whole or not at all, and is on the disk before it appears."""
    from pyarrow import parquet

    with whole(path) as partial, partial.open("r+b") as file:
        parquet.write_table(rows, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())


class Parts:
    """The part files of one run, by the number of their unit."""

    def __init__(self, out: Path, count: int) -> None:
        self.out, self.count = out, count
        self.folder = out / PARTS

    def path(self, unit: int) -> Path:
        return self.folder / f"{unit:07d}.parquet"

    def done(self) -> set[int]:
        """The units whose rows are here."""
        names = {path.stem for path in self.folder.glob("*.parquet")}
        return {int(name) for name in names if name.isdecimal() and int(name) < self.count}

    def clean(self) -> None:
        """Take away what a killed run left unfinished, and nothing of anybody else's."""
        own = ((self.out, "manifest.json"), (self.out, ROWS), (self.folder, "*.parquet"))
        for folder, name in own:
            for path in folder.glob(f"{name}*.partial"):
                path.unlink(missing_ok=True)

    def save(self, unit: int, rows: Sequence[Mapping[str, Any]]) -> None:
        write(table(rows), self.path(unit))

    def send(self, unit: int) -> bytes:
        return self.path(unit).read_bytes()

    def receive(self, unit: int, data: bytes) -> None:
        with whole(self.path(unit)) as partial:
            partial.write_bytes(data)

    def assemble(self, failed: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
        """Make the final table of all parts and the rows of `failed`, by prompt, then as measured.

        Returns how many rows it has, and how many prompts have an error.
        """
        import pyarrow as pa
        from pyarrow import parquet

        tables = [table(list(failed))]
        for unit in range(self.count):
            try:
                tables.append(parquet.read_table(self.path(unit), schema=_schema()))
            except (pa.ArrowException, FileNotFoundError) as error:
                raise RunError(
                    f"{self.path(unit)} is not the whole file that was written ({error}): delete it "
                    "and give the same command again, which measures it anew"
                ) from error
        rows = pa.concat_tables(tables)
        order = rows.append_column("order", pa.array(range(len(rows)), pa.int64()))
        order = order.sort_by([("index", "ascending"), ("order", "ascending")])
        rows = order.select(rows.column_names).combine_chunks()
        write(rows, self.out / ROWS)
        wrong = {i for i, e in zip(*(rows[c].to_pylist() for c in ("index", "error"))) if e}
        return len(rows), len(wrong)
