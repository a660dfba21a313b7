from datetime import UTC, datetime

import pyarrow as pa
import pytest

from ops_agent.metadata.shelf import copy_text
from ops_agent.metadata.shelf.manifest import Column


def column(kind: str, encoding: str = "exact") -> Column:
    return Column("a", kind, nullable=True, encoding=encoding)


def line(value: object, kind: pa.DataType, pg_type: str, encoding: str = "exact") -> bytes:
    rows = pa.table({"a": pa.array([value], kind), "b": pa.array(["end"])})
    end = Column("b", "text", nullable=True, encoding="exact")
    return b"".join(copy_text.chunks(rows, [column(pg_type, encoding), end]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, rb"\N"),
        ("", b""),
        ("plain", b"plain"),
        (r"\N", rb"\\N"),
        ("\\.", rb"\\."),
        ("a\nb\rc\td", rb"a\nb\rc\td"),
        ('"é",', '"é",'.encode()),
    ],
)
def test_text_comes_back_as_it_was(value: str | None, text: bytes) -> None:
    assert line(value, pa.string(), "text") == text + b"\tend\n"


def test_bytes_are_hexadecimal() -> None:
    assert line(b"\x00\xff", pa.binary(), "bytea", "hex") == b"\\\\x00ff\tend\n"
    assert line(None, pa.binary(), "bytea", "hex") == b"\\N\tend\n"


def test_shortest_text_of_a_float_is_exact() -> None:
    assert float(line(0.1 + 0.2, pa.float64(), "double precision").split(b"\t")[0]) == 0.1 + 0.2


def test_chunks_lose_no_row() -> None:
    rows = pa.table({"a": pa.array(range(25), pa.int32())})
    parts = list(copy_text.chunks(rows, [column("integer")], chunk_bytes=10 * 4))
    assert len(parts) == 3
    assert b"".join(parts) == b"".join(b"%d\n" % number for number in range(25))


def test_part_of_a_column_is_only_that_part() -> None:
    rows = pa.table({"a": pa.array(["one", "two", "three"])}).slice(1, 1)
    assert b"".join(copy_text.chunks(rows, [column("text")])) == b"two\n"


@pytest.mark.parametrize("zone", ["UTC", None])
def test_time_keeps_its_microseconds_and_its_zone(zone: str | None) -> None:
    moment = datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC if zone else None)
    kind = f"timestamp {'with' if zone else 'without'} time zone"
    text = line(moment, pa.timestamp("us", zone), kind).split(b"\t")[0].decode()
    assert datetime.fromisoformat(text) == moment
    assert line(None, pa.timestamp("us", zone), kind) == b"\\N\tend\n"
