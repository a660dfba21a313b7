from datetime import UTC, datetime

import pytest
from rich.console import Console

from ops_cli.console.errors import UsageError
from ops_cli.dags import draw
from ops_cli.dags.hosts import find

NOW = datetime(2026, 1, 10, tzinfo=UTC)
LISTED = [
    {
        "id": "20260109T000000Z-abc1234",
        "created": "2026-01-09T00:00:00Z",
        "author": "Ada",
        "message": "Newer",
        "dirty": True,
        "current": True,
        "previous": False,
        "unfinished_runs": 0,
        "error": "",
    },
    {
        "id": "20260108T000000Z-abd5678",
        "created": "2026-01-08T00:00:00Z",
        "author": "Bob",
        "message": "Older",
        "dirty": False,
        "current": False,
        "previous": True,
        "unfinished_runs": 3,
        "error": "",
    },
    {"id": "20260107T000000Z-fff0000", "current": False, "previous": False, "error": "damaged manifest"},
]


@pytest.mark.parametrize("wanted", ["20260109T000000Z-abc1234", "20260109", "abc1", "abc1234"])
def test_release_is_found_by_the_beginning_of_its_id_or_commit(wanted: str) -> None:
    assert find(LISTED, wanted, "prod") == "20260109T000000Z-abc1234"


@pytest.mark.parametrize(("wanted", "text"), [("ab", "2 releases begin"), ("zzz", "no release begins")])
def test_release_that_is_not_one_is_refused(wanted: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        find(LISTED, wanted, "prod")


def test_table_says_what_serves_who_made_it_and_what_runs_on_it() -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(draw.table(LISTED, NOW))
    lines = [line.split() for line in capture.get().splitlines()]
    newer = ["current", "20260109T000000Z-abc1234", "24", "h", "Ada", "Newer", "(with", "uncommitted", "changes)"]
    assert lines[1] == newer
    assert lines[2] == ["previous", "20260108T000000Z-abd5678", "2", "days", "3", "Bob", "Older"]
    assert lines[3] == ["20260107T000000Z-fff0000", "unusable:", "damaged", "manifest"]
