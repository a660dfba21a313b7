import io
from typing import Any

from rich.console import Console

from ops_cli.commands import db

REPORT: dict[str, Any] = {
    "database": "airflow",
    "size_bytes": 12_300_000_000,
    "counted_since": None,
    "statements": [
        {"query": "SELECT 1", "calls": 1000, "rows": 1, "total_seconds": 7200, "mean_ms": 7.2, "percent": 12.5},
    ],
    "unused_indexes": [{"table": "log", "name": "idx_log", "bytes": 45_600_000}],
    "unindexed_foreign_keys": [{"table": "xcom", "name": "xcom_fk", "columns": "a, b", "rows": 98_765}],
    "sequential_scans": [{"table": "job", "scans": 400, "rows_per_scan": 12_000, "index_scans": 3}],
    "table_bloat": [{"name": "task_instance", "bytes": 400, "wasted": 100}],
    "index_bloat": [],
    "wraparound": {
        "transactions": 150_000_000,
        "multixacts": 3,
        "limit": 2_000_000_000,
        "freeze_at": 200_000_000,
        "oldest_tables": [{"name": "log", "transactions": 149_000_000}],
    },
    "connections": [
        {
            "login": "airflow",
            "client": "10.0.0.9",
            "application": "web",
            "sessions": 5,
            "active": 1,
            "idle_in_transaction": 2,
            "oldest_transaction_seconds": 7300,
        }
    ],
}


def drawn(report: dict[str, Any], *, color: bool = False) -> str:
    console = Console(width=160, file=io.StringIO(), highlight=False, force_terminal=color)
    console.print(db.draw(report))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_every_section_is_drawn_with_its_figures() -> None:
    text = drawn(REPORT)
    for words in (
        "airflow: 12.3 GB",
        "7.5 % of what is possible",
        "12.5 %  7,200 s  1,000",
        "idx_log",
        "45.6 MB",
        "a, b",
        "98,765",
        "12,000",
        "25 %",
        "10.0.0.9",
    ):
        assert words in text, words


def test_section_without_a_finding_says_so() -> None:
    assert drawn(REPORT).split("Bloat of indexes, estimated")[1].split()[0] == "none"


def test_wraparound_is_red_when_half_of_what_is_possible_is_used() -> None:
    red = "\x1b[1;31m"
    assert red not in drawn(REPORT, color=True)
    old = REPORT["wraparound"] | {"transactions": 1_000_000_001}
    assert red in drawn(REPORT | {"wraparound": old}, color=True)


def test_server_that_counts_no_statements_is_reported_all_the_same() -> None:
    assert "none" in drawn(REPORT | {"statements": []})


def test_statement_with_an_index_of_an_array_is_shown_as_it_is() -> None:
    text = drawn(REPORT | {"statements": [REPORT["statements"][0] | {"query": "SELECT a[i], b[/x]"}]})
    assert "SELECT a[i], b[/x]" in text
