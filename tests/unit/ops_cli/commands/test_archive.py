import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops_cli import main
from ops_cli.commands import archive
from ops_cli.console.errors import OpsError, UsageError
from ops_cli.console.options import Format
from ops_cli.fleet import agent, inventory
from ops_cli.fleet.inventory import Host, Inventory
from ops_cli.metadata import archive as archive_tables

ENTRY = {
    "archive_id": "20260101T000000Z-abcdef",
    "state": "complete",
    "created_at": "2026-01-01T00:00:00+00:00",
    "created_by": "alice@ctl",
    "cutoff": "2025-10-03T00:00:00+00:00",
    "airflow_version": "3.3",
    "schema_revision": "d2f4e1b3c5a7",
    "runs": 12,
    "rows": 3456,
    "bytes": 78_900,
}
RESTORED = {
    "tables": [{"name": "public.dag_run", "restored": 12}],
    "rows": 3456,
    "runs": 12,
    "present": 0,
    "seconds": 0.5,
    "rows_per_s": 6912,
    "dry_run": True,
}
ID = ENTRY["archive_id"]


class Fleet:
    """Stands for the database host."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.asked: list[list[str]] = []
        self.stdin = ""
        self.locks: list[str] = []

    def result(self, _host: Host, words: Sequence[str], *, stdin: str = "", tell: object = None) -> dict[str, Any]:  # noqa: ARG002
        assert words[:2] == ["archive", "--who"]
        self.asked.append(list(words[3:]))
        return self.answers[next(word for word in words[3:] if word in self.answers)]

    def lines(self, _host: Host, words: Sequence[str], *, stdin: str = "") -> Iterator[dict[str, Any]]:
        self.asked.append(list(words[3:]))
        self.stdin = stdin
        yield {"columns": ["dag_id", "n"]}
        yield {"rows": [["a", 1], ["b,c", None]]}

    @contextmanager
    def operation(self, _fleet: Inventory, _verb: str, *, lock: str, reason: str = "") -> Iterator[SimpleNamespace]:
        self.locks.append(f"{lock}: {reason}")
        yield SimpleNamespace(hosts=[], result="")


@pytest.fixture
def fleet(root: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("OPS_HOME", str(root))
    fleet = Fleet()
    hosts = (Host("pg1", "10.0.0.1", "database"),)
    monkeypatch.setattr(inventory, "load", lambda env, _home: Inventory(env, hosts))
    monkeypatch.setattr(agent, "result", fleet.result)
    monkeypatch.setattr(agent, "lines", fleet.lines)
    monkeypatch.setattr(archive, "operation", fleet.operation)
    return fleet


def test_list_shows_every_archive_and_what_is_wrong_with_one(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = {"archive_id": "20260102T000000Z-abcdef", "state": "damaged", "error": "no manifest.json"}
    fleet.answers["list"] = {"store": "file:///x", "archives": [ENTRY, damaged]}
    assert main.run(["archive", "list"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (ID, "3,456", "78.9 kB", "alice@ctl", "2025-10-03", "no manifest.json"))


def test_list_as_json_is_what_the_host_said(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["list"] = {"store": "file:///x", "archives": [ENTRY]}
    assert main.run(["archive", "list", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == fleet.answers["list"]


def test_query_sends_the_statement_by_standard_input(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["archive", "query", "SELECT 1", "--archive", ID, "--format", "csv"]) == 0
    assert fleet.asked == [["query", "--archive", ID]]
    assert fleet.stdin == "SELECT 1"
    assert capsys.readouterr().out.splitlines() == ["dag_id,n", "a,1", '"b,c",']


def test_answer_in_square_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    answer = ["[1,2]", '{"a": [null, true]}', "[/x]"]
    archive_tables.show_rows(["[red]n", "json", "t"], [answer], archive_tables.Rows.TABLE)
    text = capsys.readouterr().out
    assert all(value in text for value in (*answer, "[red]n"))


def test_error_of_an_archive_in_square_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    damaged = {"archive_id": ID, "state": "damaged", "error": "[Errno 5] at [/data/in]"}
    archive_tables.show(None, Format.TABLE, archive_tables.listed([damaged]))
    assert "[Errno 5] at [/data/in]" in capsys.readouterr().out
    archive_tables.restoring({"event": "skipped", "error": "[/data/in]"})
    assert "[/data/in]" in capsys.readouterr().err


def test_query_prints_a_json_object_a_row(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["archive", "query", "SELECT 1", "--format", "json"]) == 0
    assert fleet.asked == [["query"]]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"dag_id": "a", "n": 1}, {"dag_id": "b,c", "n": None}]


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["data/x.parquet is not what was written"], 4)])
def test_verify_exits_with_4_if_anything_differs(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], problems: list[str], code: int
) -> None:
    fleet.answers["verify"] = {"files": 3, "rows": 10, "bytes": 99, "problems": problems}
    assert main.run(["archive", "verify", ID]) == code
    assert all(problem in capsys.readouterr().out for problem in problems)


def test_restore_shows_what_comes_back_and_works_under_the_lock(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.answers["restore"] = RESTORED
    assert main.run(["archive", "restore", "--run", "sales", "scheduled__2026", "--yes"]) == 0
    words = ["restore", "--run", "sales", "scheduled__2026", "--keep-for", "30d"]
    assert fleet.asked == [[*words, "--dry-run"], words]
    assert fleet.locks == ["metadata: --run sales scheduled__2026"]
    printed = capsys.readouterr()
    assert "would be restored" in printed.err
    assert "12 runs, 3,456 rows" in printed.out


def test_restore_of_what_is_there_already_asks_nobody(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["restore"] = RESTORED | {"tables": [], "rows": 0, "runs": 0, "present": 12}
    assert main.run(["archive", "restore", "--archive", ID]) == 0
    assert fleet.locks == []
    assert "12 were there already" in capsys.readouterr().out


def test_restore_asks_before_it_changes_anything(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def decline(consequence: str, env: str, *, yes: bool) -> None:
        assert (env, yes) == ("lab", False)
        assert "3,456 rows go back" in consequence
        raise OpsError("declined: nothing was changed")

    fleet.answers["restore"] = RESTORED
    monkeypatch.setattr("ops_cli.console.prompt.confirm", decline)
    assert main.run(["archive", "restore", "--archive", ID]) == 1
    assert fleet.locks == []


@pytest.mark.parametrize(("archive_id", "run"), [(None, None), (ID, ("a", "b"))])
def test_restore_is_of_one_thing(archive_id: str | None, run: tuple[str, str] | None) -> None:
    with pytest.raises(UsageError):
        archive.chosen(archive_id, run)


@pytest.mark.parametrize("words", [[], ["--older-than", "1d", "--archive", ID]])
def test_prune_is_told_what_to_remove(fleet: Fleet, words: list[str]) -> None:
    assert main.run(["archive", "prune", *words]) == 2
    assert fleet.asked == []


def test_prune_names_the_consequence_and_works_under_the_lock(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    consequences: list[str] = []
    monkeypatch.setattr("ops_cli.console.prompt.confirm", lambda text, *_, **__: consequences.append(text))
    fleet.answers["prune"] = {"pruned": [ENTRY], "bytes": 78_900, "dry_run": False}
    assert main.run(["archive", "prune", "--older-than", "365d", "--store", "/srv/old"]) == 0
    assert fleet.asked[-1] == ["--store", "/srv/old", "prune", "--older-than", "365d"]
    assert "for good" in consequences[0]
    assert fleet.locks == ["metadata: --older-than 365d"]
    assert ID in capsys.readouterr().out
