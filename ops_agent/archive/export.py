"""Rows out of the database into Parquet files, and the proof that the files hold what was read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ops_agent.archive import columns
from ops_agent.archive.manifest import EXPORTED, Archive, ArchiveError, Batch, DataFile, Table, data_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from decimal import Decimal

    import psycopg

    from ops_agent.archive.statements import Statements

_VERSION = "__version"
_BLOCK_BYTES = 4 << 20
_ROW_GROUP_BYTES = 32 << 20
_SAMPLE_ROWS = 2000


@dataclass(frozen=True)
class Seen:
    """What was exported of one table in one slice: rows, and the sum of their versions."""

    rows: int
    versions: Decimal

    def __add__(self, other: Seen) -> Seen:
        """Add another block of the same table and slice."""
        return Seen(self.rows + other.rows, self.versions + other.versions)


@dataclass(frozen=True)
class Slice:
    """What one transaction deletes: root rows, and what every table is expected to give up."""

    roots: tuple[str, ...]
    weight: int
    seen: Mapping[str, Seen] | None


@dataclass
class Writer:
    """One table's file of one batch, open until the batch is full.

    What was written is kept in memory to be compared with the file; of what does not fit, a digest of its text is.
    """

    table: Table
    rows: list[pa.Table] = field(default_factory=list)
    nbytes: int = 0
    count: int = 0
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
        return kept

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
            self._out = parquet.ParquetWriter(
                path,
                columns.schema(self.table),
                compression="zstd",
                compression_level=3,
                use_dictionary=_repetitive(kept),
                store_schema=False,
            )
        self._out.write_table(kept, row_group_size=max(kept.num_rows, 1))
        self.rows, self.nbytes = [], 0
        return kept


def copy_out(connection: psycopg.Connection[Any], query: Any) -> Iterator[list[bytes]]:
    """Yield whole rows of COPY's CSV, some megabytes at a time."""
    rows: list[bytes] = []
    size = 0
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for row in copy:
            rows.append(row)  # type: ignore[arg-type]
            size += len(row)
            if size > _BLOCK_BYTES:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


def read(
    connection: psycopg.Connection[Any],
    statements: Statements,
    table: Table,
    slices: Sequence[Sequence[str]],
    keyed: Collection[str] = (),
) -> Iterator[tuple[pa.Table, dict[int, Seen]]]:
    """Yield a table's rows below the roots of some slices, with what identifies their versions, slice by slice.

    `keyed` members have their keys in temporary tables (`Statements.keep_keys`).
    """
    roots = [root for each in slices for root in each]
    known = pa.array(roots, pa.string())
    number_of = pa.array([number for number, each in enumerate(slices) for _ in each], pa.int32())
    for block in copy_out(connection, statements.export(table.name, roots, keyed)):
        rows = columns.parse(table, block, [(_VERSION, pa.int64())])
        numbers = number_of.take(pc.index_in(rows.column(1).combine_chunks(), value_set=known))
        versions = rows.column(0).combine_chunks().cast(pa.decimal128(38, 0))
        sums = pa.table({"slice": numbers, "v": versions}).group_by("slice").aggregate([("v", "sum"), ("v", "count")])
        seen = {row["slice"]: Seen(row["v_count"], row["v_sum"]) for row in sums.to_pylist()}
        yield rows.drop_columns([_VERSION]), seen


def publish(archive: Archive, writers: Iterable[Writer], batch: Batch, staged: Mapping[str, Any]) -> Batch:
    """Make the files of a batch durable, read each back and compare, then write the batch's document."""
    files = []
    for writer in writers:
        path = data_path(writer.table.name, batch.number)
        last = writer.finish(staged[writer.table.name])
        archive.store.publish(staged[writer.table.name], archive.path(path))
        content = archive.store.read(archive.path(path))
        writer.check(content, last)
        files.append(data_file(writer.table.name, path, writer.count, content))
    exported = Batch(batch.number, batch.family, EXPORTED, batch.roots, tuple(files))
    archive.write(exported)
    return exported


def data_file(table: str, path: str, rows: int, content: bytes) -> DataFile:
    """Describe a file by its content."""
    return DataFile(table, path, rows, len(content), hashlib.sha256(content).hexdigest())


def _repetitive(rows: pa.Table) -> list[str]:
    """Name the columns whose values recur; a dictionary of the others would only be written besides them."""
    sample = rows.slice(0, _SAMPLE_ROWS)
    return [name for name in rows.column_names if pc.count_distinct(sample.column(name)).as_py() * 2 <= sample.num_rows]


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
