"""Rows into Parquet files, and the proof that the files hold what was read."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ops_agent.metadata.shelf import columns
from ops_agent.metadata.shelf.manifest import ArchiveError, DataFile, Table, data_path

if TYPE_CHECKING:
    from pathlib import Path

    from ops_agent.metadata.shelf.manifest import Archive

_ROW_GROUP_BYTES = 32 << 20
_SAMPLE_ROWS = 2000
LEVEL = 1


@dataclass
class Writer:
    """One table's file of one batch, open until the batch is full.

    `layouts`, by table, are of earlier files. What was written is kept in memory to be compared with the file; of what
    does not fit, a digest of its text is.
    """

    table: Table
    layouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[pa.Table] = field(default_factory=list)
    nbytes: int = 0
    count: int = 0
    _file: Any = None
    _out: Any = None
    _written: list[bytes] = field(default_factory=list)

    def add(self, rows: pa.Table, path: Any) -> None:
        """Take rows; those that are too many to keep go to the file at `path` at once."""
        self.rows.append(rows)
        self.nbytes += rows.nbytes
        self.count += rows.num_rows
        if self.nbytes > _ROW_GROUP_BYTES:
            kept = self._flush(path)
            self._written.append(_digest(kept))

    def finish(self, path: Any) -> pa.Table:
        """Write the rest, close the file, and return what `check` compares its last row group with."""
        kept = self._flush(path)
        self._out.close()
        self._file.close()
        return kept

    def abandon(self) -> None:
        """Let go of a file that will not be finished."""
        for each in (self._out, self._file):
            with contextlib.suppress(OSError, pa.ArrowException):
                if each is not None:
                    each.close()

    def check(self, content: bytes, last: pa.Table) -> None:
        """Read the file back; raise ArchiveError unless it has what was written."""
        try:
            wrong = self._difference(parquet.ParquetFile(pa.BufferReader(content)), last)
        except (pa.ArrowException, OSError) as error:
            wrong = str(error)
        if wrong:
            raise ArchiveError(
                f"{self.table.name} cannot be read back as it was written ({wrong}): nothing was deleted"
            )

    def _difference(self, file: Any, last: pa.Table) -> str:
        groups = file.metadata.num_row_groups
        if groups != len(self._written) + 1 or file.metadata.num_rows != self.count:
            return f"{file.metadata.num_rows} rows in {groups} groups"
        for number, digest in enumerate(self._written):
            if _digest(file.read_row_group(number)) != digest:
                return f"other values in row group {number}"
        same = columns.same(file.read_row_group(groups - 1, use_threads=False), last)
        return "" if same else f"other values in row group {groups - 1}"

    def _flush(self, path: Any) -> pa.Table:
        kept = pa.concat_tables(self.rows).combine_chunks() if self.rows else columns.schema(self.table).empty_table()
        if self._out is None:
            how = self.layouts.get(self.table.name) or layout(kept)
            if kept.num_rows >= _SAMPLE_ROWS // 10:
                self.layouts.setdefault(self.table.name, how)
            self._file = pa.OSFile(str(path), "wb")
            self._out = parquet.ParquetWriter(self._file, kept.schema, **how)
        self._out.write_table(kept, row_group_size=max(kept.num_rows, 1))
        self.rows, self.nbytes = [], 0
        return kept


def publish(archive: Archive, writer: Writer, number: int, staged: Path) -> DataFile:
    """Make the file of a batch durable, read it back and compare."""
    path = data_path(writer.table.name, number)
    last = writer.finish(staged)
    archive.store.publish(staged, archive.path(path))
    content = archive.store.read(archive.path(path))
    writer.check(content, last)
    return data_file(writer.table.name, path, writer.count, content)


def layout(rows: pa.Table) -> dict[str, Any]:
    """Return how a file is best written whose first rows these are, as ParquetWriter's options.

    Times and numbers are written as differences, which is quick and small; other columns whose values recur get a
    dictionary, which for the rest would only be written besides the values.
    """
    sample = rows.slice(0, _SAMPLE_ROWS)
    deltas = [each.name for each in rows.schema if pa.types.is_integer(each.type) or pa.types.is_timestamp(each.type)]
    repetitive = [
        name
        for name in rows.column_names
        if name not in deltas and pc.count_distinct(sample.column(name)).as_py() * 2 <= sample.num_rows
    ]
    return {
        "compression": "zstd",
        "compression_level": LEVEL,
        "use_dictionary": repetitive,
        "column_encoding": dict.fromkeys(deltas, "DELTA_BINARY_PACKED"),
        "store_schema": False,
    }


def data_file(table: str, path: str, rows: int, content: bytes) -> DataFile:
    """Describe a file by its content."""
    return DataFile(table, path, rows, len(content), hashlib.sha256(content).hexdigest())


def _digest(rows: pa.Table) -> bytes:
    # Of a text that is the same however Arrow has laid the values out.
    from pyarrow import csv  # noqa: PLC0415

    digest = hashlib.sha256()
    hexed = [
        pa.array([None if value is None else value.hex() for value in rows.column(name).to_pylist()], pa.string())
        if pa.types.is_binary(rows.schema.field(name).type)
        else rows.column(name)
        for name in rows.column_names
    ]
    csv.write_csv(pa.table(hexed, names=rows.column_names), _Sink(digest))
    return digest.digest()


class _Sink:
    """A file that only remembers a digest."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def write(self, content: Any) -> int:
        self._digest.update(content)
        return len(content)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""
