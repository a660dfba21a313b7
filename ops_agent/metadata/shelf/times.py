"""Times that Python and Arrow have no text for: before the year 1, after 9999, and infinity.

ADBC's driver counts microseconds (days, for a date) from 1970 where PostgreSQL counts from 2000, in as many bits, and
wraps round where they do not suffice. That loses nothing: PostgreSQL's first time is 4714 BC, so whatever is below was
wrapped. Each such time is kept as it came and becomes PostgreSQL's own text again here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_BEFORE_EPOCH = timedelta(days=10_957)
# The calendar repeats itself after so long: 400 years.
_CYCLE_DAYS, _CYCLE_YEARS = 146_097, 400
# 4714-11-24 BC, in days from 1970.
_FIRST_DAY = -2_440_588
_DAY_MICROSECONDS = 86_400_000_000
# Years 1 to 9999, in days from 1970.
_USUAL_DAYS = range(-719_162, 2_932_897)


def unusual(values: Any) -> bool:
    """Tell whether a column is of times, and has one that neither Arrow nor Python can write down."""
    import pyarrow as pa  # noqa: PLC0415 - hosts without an archive engine have none
    from pyarrow import compute  # noqa: PLC0415

    kind = values.type
    if not (pa.types.is_date32(kind) or (pa.types.is_timestamp(kind) and kind.unit == "us")):
        return False
    ends = compute.min_max(_numbers(values))
    least, most = (ends[name].as_py() for name in ("min", "max"))
    return least is not None and (_unusual(least, values.type) or _unusual(most, values.type))


def texts(values: Any) -> Iterator[str | None]:
    """Give a text of each value of a column that PostgreSQL reads, in UTC; None where there is none."""
    for number, value in zip(_numbers(values).to_pylist(), values, strict=True):
        if number is None:
            yield None
        elif _unusual(number, values.type):
            yield text(number, values.type)
        else:
            yield str(value.as_py())


def text(number: int, kind: Any) -> str:
    """Return PostgreSQL's text of one value as Arrow counts it."""
    is_day, bits = _measure(kind)
    unit = 1 if is_day else _DAY_MICROSECONDS
    infinity = -(1 << (bits - 1)) + _BEFORE_EPOCH.days * unit
    if number in {infinity, infinity - 1}:
        return "-infinity" if number == infinity else "infinity"
    if number < _FIRST_DAY * unit:
        number += 1 << bits
    cycles, rest = divmod(number - _BEFORE_EPOCH.days * unit, _CYCLE_DAYS * unit)
    moment = _EPOCH + (timedelta(days=rest) if is_day else timedelta(microseconds=rest))
    year = moment.year + cycles * _CYCLE_YEARS
    written = f"{year if year > 0 else 1 - year:04d}-{moment:%m-%d}"
    if not is_day:
        written += f" {moment:%H:%M:%S.%f}{'+00' if kind.tz else ''}"
    return written if year > 0 else f"{written} BC"


def _unusual(number: int, kind: Any) -> bool:
    is_day, _ = _measure(kind)
    return (number if is_day else number // _DAY_MICROSECONDS) not in _USUAL_DAYS


def _measure(kind: Any) -> tuple[bool, int]:
    import pyarrow as pa  # noqa: PLC0415

    is_day = pa.types.is_date32(kind)
    return is_day, 32 if is_day else 64


def _numbers(values: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    return values.cast(pa.int32() if pa.types.is_date32(values.type) else pa.int64())
