from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from ops_agent.archive import columns
from ops_agent.archive.manifest import ArchiveError, Column, Table

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
ROW = rb't,-7,0.1,"a,""b""' + b"\n" + rb'\N",2024-02-29 23:59:59.123456,0001-01-01,\x00ff5c,"{""a"": null}",1.10'


def test_values_keep_their_types_and_texts() -> None:
    (row,) = columns.parse(TABLE, [b"9,root," + ROW + b"\n"], [("version", pa.int64())]).to_pylist()
    assert row == {
        "version": 9,
        "__root": "root",
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


def test_null_is_not_the_empty_text() -> None:
    rows = columns.parse(TABLE, [b'r,,,,"",,,,,\n', b"r,,,,,,,,,\n"], [])
    assert rows.column("t").to_pylist() == ["", None]
    assert rows.column("raw").null_count == 2


def test_value_that_arrow_lacks_is_refused_with_its_table() -> None:
    with pytest.raises(ArchiveError, match=r"public\.x has a value"):
        columns.parse(TABLE, [b"r,,,,,infinity,,,,\n"], [])


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
