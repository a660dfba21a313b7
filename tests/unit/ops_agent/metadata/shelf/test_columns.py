from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from ops_agent.metadata.shelf import columns
from ops_agent.metadata.shelf.manifest import Column, Table

TYPES = {
    "b": "boolean",
    "i": "integer",
    "d": "double precision",
    "t": "character varying(20)",
    "z": "timestamp with time zone",
    "day": "date",
    "raw": "bytea",
    "j": "jsonb",
    "n": "numeric(10,2)",
}
TABLE = Table(
    "public.x",
    "public.x",
    ("i",),
    tuple(Column(name, kind, nullable=True, encoding=columns.encoding(kind)) for name, kind in TYPES.items()),
)
ROW = {
    "b": True,
    "i": -7,
    "d": 0.1,
    "t": 'a,"b"\n\\N',
    "z": datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
    "day": date(1, 1, 1),
    "raw": b"\x00\xff\\",
    "j": '{"a": null}',
    "n": "1.10",
}


def read(**values: object) -> pa.RecordBatch:
    """Give a row as the driver does, whose columns have names of their own."""
    kinds = [field.type for field in columns.schema(TABLE)]
    row = {"root": "r"} | dict.fromkeys(TYPES) | values
    return pa.record_batch(
        [pa.array([value], kind) for value, kind in zip(row.values(), kinds, strict=True)],
        names=[f"c{number}" for number in range(len(kinds))],
    )


def test_values_keep_their_types_and_texts() -> None:
    assert columns.checked(TABLE, read(**ROW)).to_pylist() == [{"__root": "r", **ROW}]


def test_null_is_not_the_empty_text() -> None:
    rows = [columns.checked(TABLE, read(t=text)) for text in ("", None)]
    assert [row.column("t").to_pylist() for row in rows] == [[""], [None]]


def test_expressions_read_as_text_what_arrow_lacks() -> None:
    assert columns.expressions(TABLE, "x")[3:5] == ['x."t"', 'x."z"']
    assert columns.expressions(TABLE, "x")[-2:] == ['x."j"::text', 'x."n"::text']


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("character varying(250)", "exact"),
        ("bytea", "hex"),
        ("uuid", "text"),
        ("interval", "text"),
        ("integer[]", "text"),
        ("dag_state", "text"),
        ("time without time zone", "text"),
    ],
)
def test_encoding_is_exact_only_where_arrow_has_the_type(kind: str, kept: str) -> None:
    assert columns.encoding(kind) == kept


def test_same_knows_a_nan_and_the_sign_of_zero() -> None:
    table = pa.table({"d": pa.array([float("nan"), 0.0])})
    assert columns.same(table, pa.table({"d": pa.array([float("nan"), 0.0])}))
    assert not columns.same(table, pa.table({"d": pa.array([float("nan"), -0.0])}))
    assert not columns.same(table, pa.table({"d": pa.array([float("nan")])}))
