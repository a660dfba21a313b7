from typing import Any

import pytest

from ops_cli.console.errors import UsageError
from ops_cli.dags import watch

USUAL: dict[str, Any] = {
    "import_errors": 1,
    "parse_seconds": {"a.py": 0.5, "slow.py": 10.0},
    "failed": 5,
    "succeeded": 95,
    "failed_dags": ["a"],
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, ""),
        ({"import_errors": 0}, ""),
        ({"import_errors": 2}, "2 DAG files cannot be imported, before it was 1"),
        ({"parse_seconds": {"a.py": 2.4, "slow.py": 20.0}}, ""),
        ({"parse_seconds": {"a.py": 2.6}}, "a.py takes 2.6 s to parse, before it was 0.5 s"),
        ({"parse_seconds": {"slow.py": 31.0}}, "slow.py takes 31.0 s"),
        ({"parse_seconds": {"new.py": 1.9}}, ""),
        ({"failed": 2, "succeeded": 0}, ""),
        ({"failed": 3, "succeeded": 0}, "3 tasks failed (a), 100% of those that ended; in the hour before 5%"),
        ({"failed": 14, "succeeded": 86}, ""),
        ({"failed": 16, "succeeded": 84}, "16 tasks failed"),
    ],
)
def test_regression_is_what_is_worse_than_the_hour_before(change: dict[str, Any], text: str) -> None:
    found = watch.regression(USUAL, USUAL | change)
    assert found.startswith(text) if text else found == ""


def test_no_task_before_is_a_rate_of_nothing() -> None:
    quiet = USUAL | {"failed": 0, "succeeded": 0}
    assert watch.regression(quiet, quiet) == ""
    assert "3 tasks failed" in watch.regression(quiet, quiet | {"failed": 3})


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600)])
def test_duration_is_read(text: str, seconds: float) -> None:
    assert watch.duration(text) == seconds


@pytest.mark.parametrize("text", ["10", "m", "-1m", "1.5h", "1d", "", "9999999s", "٣s"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write 90s, 10m or 1h"):
        watch.duration(text)
