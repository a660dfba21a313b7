"""PostgreSQL's values in Arrow, equal byte by byte once they are back (`copy_text`).

Rows leave the database as COPY's CSV, where NULL is nothing and an empty text is `""`. A type that Arrow has exactly
becomes that type; every other one stays PostgreSQL's own text, which its input function takes back. The session must
have `SESSION` set, or the text of a time, an interval or a bytea would be another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import csv

from ops_agent.archive.manifest import ROOT_COLUMN, ArchiveError, Column, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
_EXACT = {
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "text": pa.string(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "timestamp without time zone": pa.timestamp("us"),
    "date": pa.date32(),
}
_BINARY = "bytea"


def encoding(pg_type: str) -> str:
    """Return how a column of a type (format_type's text) is kept: `exact`, `hex` or `text`."""
    if pg_type == _BINARY:
        return "hex"
    return "exact" if pg_type in _EXACT or pg_type.startswith("character varying") else "text"


def schema(table: Table) -> pa.Schema:
    """Return the schema of the table's data files."""
    return pa.schema([(ROOT_COLUMN, pa.string()), *((column.name, _kept(column)) for column in table.columns)])


def expressions(table: Table, alias: str) -> list[str]:
    """Return what to SELECT, in the order of the columns; a quoted name or an expression each."""
    names = [f'{alias}."{column.name}"' for column in table.columns]
    zoned = "timestamp with time zone"
    return [
        # Without its offset, which Arrow's reader would not take; the session's zone is UTC.
        f"{name}::timestamp" if column.type == zoned else name
        for name, column in zip(names, table.columns, strict=True)
    ]


def parse(table: Table, blocks: Sequence[bytes], extra: Sequence[tuple[str, pa.DataType]]) -> pa.Table:
    """Read COPY's CSV of columns `extra`, then the root's key, then those of the table.

    Raises ArchiveError for a value that its Arrow type does not have (`infinity` as a time).
    """
    kept = schema(table)
    read = [*extra, *((field.name, _read(field.type)) for field in kept)]
    text = b"".join(blocks)
    try:
        rows = csv.read_csv(
            pa.BufferReader(text),
            read_options=csv.ReadOptions(
                column_names=[name for name, _ in read], block_size=max(len(text), 1), use_threads=False
            ),
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=dict(read),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )
    except pa.ArrowInvalid as error:
        raise ArchiveError(f"table {table.name} has a value that cannot be archived: {error}") from error
    for column in table.columns:
        if column.encoding == "hex":
            index = rows.schema.get_field_index(column.name)
            rows = rows.set_column(index, column.name, _bytes(rows.column(index)))
    return rows.cast(pa.schema([*extra, *((field.name, field.type) for field in kept)]))


def same(first: pa.Table, second: pa.Table) -> bool:
    """Tell whether two tables hold the same values; a NaN equals itself, 0.0 is not -0.0."""
    if first.schema != second.schema or first.num_rows != second.num_rows:
        return False
    bits = {pa.float32(): pa.int32(), pa.float64(): pa.int64()}
    for name in first.column_names:
        one, other = first.column(name), second.column(name)
        if kind := bits.get(one.type):
            one, other = (pa.chunked_array([chunk.view(kind) for chunk in each.chunks], kind) for each in (one, other))
        if not one.equals(other):
            return False
    return True


def _kept(column: Column) -> pa.DataType:
    if column.encoding == "hex":
        return pa.binary()
    return _EXACT.get(column.type, pa.string()) if column.encoding == "exact" else pa.string()


def _read(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us")
    return pa.string() if pa.types.is_binary(kind) else kind


def _bytes(values: pa.ChunkedArray) -> pa.ChunkedArray:
    # Few distinct values (pickled empty dictionaries) are the rule.
    encoded = values.combine_chunks().dictionary_encode()
    distinct = pa.array(
        [None if text is None else bytes.fromhex(text[2:]) for text in encoded.dictionary.to_pylist()], pa.binary()
    )
    return pa.chunked_array([distinct.take(encoded.indices)])
