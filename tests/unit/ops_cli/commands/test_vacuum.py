import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from ops_cli import main
from ops_cli.commands import vacuum
from ops_cli.commands.vacuum import Request
from ops_cli.console.errors import OpsError
from ops_cli.fleet import agent, inventory
from ops_cli.fleet.inventory import Host, Inventory

PLAN = {
    "dry_run": True,
    "tables": [
        {"name": "public.dag_run", "rows": 1200, "bytes": 3_400_000, "seconds": 0.5},
        {"name": "public.xcom", "rows": 0, "bytes": 0, "seconds": 0.0},
    ],
    "unsettled": [],
}
DONE = {
    "archive_id": "20260101T000000Z-abcdef",
    "tables": [{"name": "public.dag_run", "archived": 1200, "deleted": 1200, "bytes": 40_000, "seconds": 0.4}],
    "longest_transaction_s": 0.123,
    "rows_per_s": 3000,
    "reclaimed_bytes": 0,
    "resumed": False,
    "stopped_early": True,
}


class Fleet:
    """Stands for the database host: what it was asked, under which lock, and what it answers."""

    def __init__(self, plan: dict[str, Any] = PLAN) -> None:
        self.plan = plan
        self.asked: list[list[str]] = []
        self.locks: list[str] = []
        self.locked = False
        self.audit = SimpleNamespace(hosts=[], result="")

    def result(self, host: Host, words: Sequence[str], *, stdin: str = "", tell: object = None) -> dict[str, Any]:
        assert (host.name, stdin, callable(tell)) == ("pg1", "", True)
        self.asked.append([*words[:1], *words[3:]])
        assert self.locked == ("--dry-run" not in words)
        return self.plan if "--dry-run" in words else DONE

    @contextmanager
    def operation(self, _fleet: Inventory, _verb: str, *, lock: str, reason: str = "") -> Iterator[SimpleNamespace]:
        assert reason == ""
        self.locks.append(lock)
        self.locked = True
        yield self.audit
        self.locked = False


@pytest.fixture
def fleet(root: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("OPS_HOME", str(root))
    fleet = Fleet()
    hosts = (Host("pg1", "10.0.0.1", "database"),)
    monkeypatch.setattr(inventory, "load", lambda env, _home: Inventory(env, hosts))
    monkeypatch.setattr(agent, "result", fleet.result)
    monkeypatch.setattr(vacuum, "operation", fleet.operation)
    return fleet


def test_vacuum_counts_before_it_asks_and_works_under_the_lock(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ops_cli.console.prompt.confirm", lambda *_, **__: None)
    assert main.run(["vacuum", "--older-than", "30d", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == DONE
    assert fleet.asked == [["vacuum", "--older-than", "30d", "--dry-run"], ["vacuum", "--older-than", "30d"]]
    assert fleet.locks == ["metadata"]


def test_vacuum_that_was_agreed_to_does_not_count_first(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["vacuum", "--older-than", "30d", "--yes", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == DONE
    assert fleet.asked == [["vacuum", "--older-than", "30d"]]
    assert fleet.locks == ["metadata"]
    assert fleet.audit.result == "archive 20260101T000000Z-abcdef: 1,200 rows"


def test_dry_run_takes_no_lock_and_changes_nothing(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["vacuum", "--dry-run", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == PLAN
    assert (len(fleet.asked), fleet.locks) == (1, [])


def test_nobody_at_a_terminal_changes_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main.run(["vacuum"]) == 2
    assert "1,200 rows move" in capsys.readouterr().err
    assert fleet.locks == []


def test_declined_vacuum_exits_with_1(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def decline(*_: object, **__: object) -> None:
        raise OpsError("declined: nothing was changed")

    monkeypatch.setattr("ops_cli.console.prompt.confirm", decline)
    assert main.run(["vacuum"]) == 1
    assert fleet.locks == []


def test_policy_that_cannot_be_read_is_wrong_usage(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["vacuum", "--policy", "/nowhere.yml"]) == 2
    assert "--policy /nowhere.yml: No such file" in capsys.readouterr().err
    assert fleet.asked == []


def test_words_carry_every_option() -> None:
    request = Request(
        older_than="30d",
        policy="retention: 1d",
        dag="a*",
        keep_last=3,
        tables="dag_run,log",
        archive_to="s3://x/y",
        max_duration="2h",
        reclaim=True,
    )
    words = request.words(dry_run=True)
    assert " ".join(words[3:]) == (
        "--older-than 30d --policy - --dag a* --keep-last 3 --tables dag_run,log --archive-to s3://x/y "
        "--max-duration 2h --reclaim --dry-run"
    )
    assert Request(no_archive=True).words(dry_run=False)[3:] == ["--no-archive"]


def test_consequence_says_when_nothing_is_kept() -> None:
    assert "for good: nothing is archived" in Request(no_archive=True).consequence(PLAN, "pg1")
    assert "can be put back" in Request().consequence(PLAN, "pg1")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"event": "count", "rows": 1200}, "counting: 1,200 rows could go"),
        (
            {"event": "progress", "table": "public.dag_run", "rows": 1200, "seconds": 3.4},
            "dag_run: 1,200 rows moved in 3 s",
        ),
        ({"event": "settled", "archive_id": "20260101T000000Z-abcdef"}, "settled 20260101T000000Z-abcdef"),
        ({"event": "maintain", "table": "public.log"}, "maintain public.log"),
        ({"event": "anything new"}, "anything new"),
    ],
)
def test_every_event_is_one_line(event: dict[str, Any], text: str) -> None:
    assert vacuum.describe(event) == text


def drawn(table: object) -> str:
    console = Console(width=100, file=io.StringIO(), highlight=False)
    console.print(table)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_plan_leaves_out_tables_without_rows() -> None:
    text = drawn(vacuum.planned(PLAN))
    assert "public.dag_run" in text
    assert "3.4 MB" in text
    assert "xcom" not in text


def test_result_names_where_an_archive_may_be_left_open() -> None:
    text = drawn(vacuum.finished(DONE | {"unsettled": ["s3://bucket/prefix"]}, "prod"))
    assert "ops vacuum --env prod --archive-to s3://bucket/prefix" in " ".join(text.split())


def test_result_says_that_there_is_more_to_do() -> None:
    text = drawn(vacuum.finished(DONE, "prod"))
    assert "20260101T000000Z-abcdef" in text
    assert "longest transaction 0.123 s" in text
    assert "the next one goes on" in text
    assert "interrupted" not in text
