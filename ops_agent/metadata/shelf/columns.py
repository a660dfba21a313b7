"""PostgreSQL's values in Arrow, equal byte by byte once they are back (`copy_text`).

Rows leave the database in COPY's binary format, which ADBC's driver turns into Arrow without a Python object a value. A
type that Arrow has exactly becomes that type; every other one leaves as PostgreSQL's own text, which its input function
takes back. The session must have `SESSION` set, or the text of an interval or a float in an array would be another one.
"""

from __future__ import annotations

import pyarrow as pa

from ops_agent.metadata.shelf.manifest import ROOT_COLUMN, Column, Table

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
    return [f'{alias}."{column.name}"' + ("::text" if column.encoding == "text" else "") for column in table.columns]


def checked(table: Table, rows: pa.RecordBatch) -> pa.Table:
    """Give rows as the driver read them, the root's key first, the schema of the data files."""
    found = pa.Table.from_batches([rows]).rename_columns([ROOT_COLUMN, *(column.name for column in table.columns)])
    wanted = schema(table)
    return found.replace_schema_metadata() if found.schema.types == wanted.types else found.cast(wanted)


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
