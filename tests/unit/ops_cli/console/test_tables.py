from datetime import UTC, datetime

import pytest

from ops_cli.console import tables

NOW = datetime(2026, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("created", "text"),
    [
        ("2026-01-09T23:59:59Z", "1 s"),
        ("2026-01-09T23:00:00Z", "60 min"),
        ("2026-01-09T00:00:00Z", "24 h"),
        ("2025-12-31T00:00:00Z", "10 days"),
        # A clock that is ahead.
        ("2026-01-10T00:00:05Z", "0 s"),
    ],
)
def test_time_span_is_in_its_largest_unit_that_fits_twice(created: str, text: str) -> None:
    assert tables.ago(created, NOW) == text
