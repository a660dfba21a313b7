from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from ops_agent.metadata.shelf import copy_text, times
from ops_agent.metadata.shelf.manifest import Column

ZONED, PLAIN, DAY = pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.date32()
# What the driver makes of infinity: it adds the days from 1970 to 2000 and wraps round.
INFINITY = -(2**63) + 946_684_799_999_999


@pytest.mark.parametrize(
    ("kind", "number", "text"),
    [
        (ZONED, INFINITY, "infinity"),
        (ZONED, INFINITY + 1, "-infinity"),
        (DAY, -(2**31) + 10_956, "infinity"),
        (DAY, -(2**31) + 10_957, "-infinity"),
        # Microseconds from 1970, less 2^64 where they do not fit into 64 bits.
        (ZONED, -62_135_596_800_000_001, "0001-12-31 23:59:59.999999+00 BC"),
        (PLAIN, -62_167_219_200_000_000, "0001-01-01 00:00:00.000000 BC"),
        (ZONED, -210_866_803_200_000_000, "4714-11-24 00:00:00.000000+00 BC"),
        (ZONED, 253_402_300_800_000_000, "10000-01-01 00:00:00.000000+00"),
        (ZONED, 9_224_318_015_999_999_999 - 2**64, "294276-12-31 23:59:59.999999+00"),
        (DAY, -719_163, "0001-12-31 BC"),
        (DAY, 2_932_897, "10000-01-01"),
    ],
)
def test_time_is_written_as_postgres_has_it(kind: pa.DataType, number: int, text: str) -> None:
    values = pa.array([number, None], pa.int32() if kind == DAY else pa.int64()).cast(kind)
    assert times.unusual(values)
    assert list(times.texts(values)) == [text, None]


def test_usual_times_are_left_to_arrow() -> None:
    for values in (
        pa.array([datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)], ZONED),
        pa.array([date(1, 1, 1), date(9999, 12, 31), None], DAY),
        pa.array([None], ZONED),
        pa.array([], PLAIN),
        pa.array([1, 2]),
    ):
        assert not times.unusual(values)


def test_usual_time_beside_an_unusual_one_keeps_its_text() -> None:
    values = pa.array([0, INFINITY, None], pa.int64()).cast(ZONED)
    column = Column("z", "timestamp with time zone", nullable=True, encoding="exact")
    lines = b"".join(copy_text.chunks(pa.table({"z": values}), [column]))
    assert lines == b"1970-01-01 00:00:00+00:00\ninfinity\n\\N\n"
