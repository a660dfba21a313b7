"""Text of others is shown as it is: brackets and colons in it are no markup."""

import ast
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from ops_cli.commands import db, vacuum
from ops_cli.console import steps, tables
from ops_cli.dags import draw as dags_draw
from ops_cli.fleet.inventory import Host
from ops_cli.health import draw
from ops_cli.health.rules import FleetStatus, Observation
from ops_cli.metadata import archive
from ops_cli.metadata.archive import Rows

# An end without a beginning was an error, a word in brackets was lost, the last became a picture.
TEXTS = ["[/x]", "[null, true]", "a [bold]b[/bold]", "arr[i]", ":bug:", "[skip ci]"]


@pytest.mark.parametrize("text", TEXTS)
def test_table_shows_text_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(text)
    table.add_row(text)
    tables.console().print(table)
    tables.console().print(text)
    assert capsys.readouterr().out.count(text) == 3


@pytest.mark.parametrize("text", TEXTS)
def test_steps_are_told_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with steps.Steps().shown() as shown:
        shown.now(text)
        shown.note(text)
    assert capsys.readouterr().err.count(text) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_spinner_of_a_terminal_takes_text_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with steps.Steps().shown() as shown:
        shown.now(text)


@pytest.mark.parametrize("text", TEXTS)
def test_rows_of_a_query_are_shown_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    archive.show_rows([text], [[text]], Rows.TABLE)
    archive.restoring({"event": "skipped", "error": text})
    shown = capsys.readouterr()
    assert (shown.out.count(text), shown.err.count(text)) == (2, 1)


def drawings(text: str) -> dict[str, Any]:
    release = {"current": False, "previous": False, "id": text, "created": "2026-01-01T00:00:00+00:00"}
    release |= {"unfinished_runs": 0, "message": text, "dirty": False, "author": text}
    statement = {"percent": 1, "total_seconds": 1, "calls": 1, "mean_ms": 1, "query": text}
    sections = ("unused_indexes", "unindexed_foreign_keys", "sequential_scans", "table_bloat", "index_bloat")
    report: dict[str, Any] = {key: [] for key in (*sections, "connections")} | {"statements": [statement]}
    age = {"transactions": 1, "limit": 100, "freeze_at": 10, "oldest_tables": [{"name": text, "transactions": 1}]}
    report |= {"database": text, "size_bytes": 1, "counted_since": "", "wraparound": age}
    table = {"name": text, "rows": 1, "bytes": 1, "seconds": 1}
    seen = Observation(Host(text, "10.0.0.1", "web"), reachable=False, report={}, error=text)
    return {
        "releases": dags_draw.table([release], datetime(2026, 1, 2, tzinfo=UTC)),
        "analyze": db.draw(report),
        "archive": archive.listed([{"archive_id": text, "state": "complete", "error": text}]),
        "vacuum": vacuum.planned({"tables": [table]}),
        "status": draw.fleet(FleetStatus("lab", [seen], [text])),
    }


@pytest.mark.parametrize("name", drawings("x"))
@pytest.mark.parametrize("text", TEXTS)
def test_every_drawing_shows_text_as_it_is(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.console().print(drawings(text)[name])
    assert text in capsys.readouterr().out


def test_no_module_has_a_console_of_its_own(root: Path) -> None:
    made, spinning = set(), set()
    for path in (root / "ops_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "Console":
                made.add(path.name)
            # A spinner reads markup whatever its console does.
            if isinstance(node.func, ast.Attribute) and node.func.attr == "status":
                text = node.args[0]
                plain = isinstance(text, ast.Constant) or (
                    isinstance(text, ast.Call) and ast.unparse(text.func) == "Text"
                )
                spinning |= set() if plain else {path.name}
    assert (len(made), spinning) == (1, set())
