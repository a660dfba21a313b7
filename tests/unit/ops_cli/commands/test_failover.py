"""`ops failover` with the SSH border replaced: what it asks, in which order, and what it prints."""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ops_cli import main
from ops_cli.commands import failover
from ops_cli.fleet import agent
from ops_cli.fleet.agent import LockHeldError
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host, Inventory

LEASE = {
    "epoch": 7, "holder": "sched1", "previous": "sched2", "hand_over_to": None,
    "live": True, "fenced": True, "suspended": False, "age_s": 0.4, "held_s": 600.0,
    "hosts": [
        {"name": "sched1", "active": True, "ready": False, "seen_s": 600.0, "sessions": 3, "writes": True},
        {"name": "sched2", "active": False, "ready": True, "seen_s": 0.2, "sessions": 0, "writes": False},
    ],
}  # fmt: skip
KEEPERS = {"sched1": {"state": "active", "ready": False}, "sched2": {"state": "standby", "ready": True}}
RESULT = {
    "kind": "switchover", "from": "sched1", "to": "sched2", "epoch": 8, "fenced": True, "pause_s": 0.42,
    "first_task_s": 0.7, "orphans": 3, "orphans_adopted_s": 0.25,
}  # fmt: skip


class Fleet:
    """Stands for all hosts: what they were asked and what they answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.lease: dict[str, Any] = {"lease": LEASE}
        self.result: dict[str, Any] = RESULT
        self.failure: Exception | None = None
        self.down = ""
        self.operation: Any = None

    def survey(self, hosts: Sequence[Host], words: Sequence[str], *, timeout_seconds: float) -> list[agent.Reply]:
        assert timeout_seconds > 0
        self.asked.append(" ".join(words))
        if self.down and hosts[0].tier == "database":
            return [agent.Reply(host, reachable=True, error=self.down, status=3) for host in hosts]
        answers = [self.lease if host.tier == "database" else KEEPERS[host.name] for host in hosts]
        return [agent.Reply(host, reachable=True, answer=answer) for host, answer in zip(hosts, answers, strict=True)]

    def lines(
        self, host: Host, words: Sequence[str], *, stdin: str, silence_seconds: float
    ) -> Iterator[dict[str, Any]]:
        assert (host.name, words, silence_seconds > 45) == ("pg1", ["lease", "change"], True)
        self.requests.append(json.loads(stdin))
        if self.failure:
            raise self.failure
        yield {"event": "fenced", "proved": True, "milliseconds": 4.2}
        yield {"result": self.result}

    @contextlib.contextmanager
    def hold(self, fleet: Inventory, verb: str, *, lock: str, reason: str = "") -> Iterator[Any]:
        assert (fleet.env, verb, lock) == ("lab", "failover", "scheduler")
        self.operation = type("Operation", (), {"check": lambda _: None, "reason": reason})()
        yield self.operation


@pytest.fixture
def fleet(root: Any, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    found = Fleet()
    monkeypatch.setenv("OPS_HOME", str(root))
    monkeypatch.setattr(agent, "survey", found.survey)
    monkeypatch.setattr(agent, "lines", found.lines)
    monkeypatch.setattr(failover, "operation", found.hold)
    return found


def test_switchover_prints_the_promised_keys(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    reason = 'it\'s "late";\n$(reboot)'
    assert main.run(["failover", "--yes", "--reason", reason, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == RESULT
    # The database is asked last: its answer must not grow old.
    assert fleet.asked == ["lease keeper", "lease status"]
    (request,) = fleet.requests
    assert (request["why"], request["to"], request["epoch"], request["force"]) == (reason, "sched2", 7, False)
    assert fleet.operation.hosts == ["sched1", "sched2"]
    assert fleet.operation.result.startswith("switchover from sched1 to sched2, epoch 8, pause 0.42 s")
    assert fleet.operation.reason == reason


@pytest.mark.usefixtures("fleet")
def test_table_shows_the_topology_the_steps_and_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["failover", "--yes"]) == 0
    printed = capsys.readouterr()
    assert "shut out of the database, in 4.2 ms" in printed.err
    assert "sched2" in printed.err
    for words in ("sched1 -> sched2, epoch 8", "0.42 s", "3, adopted in 0.25 s"):
        assert words in printed.out


def test_dry_run_changes_nothing_and_takes_no_lock(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["failover", "--dry-run", "--format", "json"]) == 0
    expected = {"dry_run": True, "kind": "switchover", "from": "sched1", "to": "sched2", "epoch": 8}
    assert json.loads(capsys.readouterr().out) == expected
    assert (fleet.requests, fleet.operation) == ([], None)


def test_nobody_at_the_terminal_means_nothing_is_done(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main.run(["failover"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert fleet.requests == []


def test_force_is_told_to_the_agent_and_kept_in_the_audit_line(fleet: Fleet) -> None:
    assert main.run(["failover", "--yes", "--force"]) == 0
    assert fleet.requests[0]["force"] is True
    assert fleet.operation.result.endswith("(--force)")


DOWN = "connection refused"


@pytest.mark.parametrize(
    ("words", "answer", "refusal"),
    [
        (["--to", "sched9"], {}, (2, "inventories/lab has no host sched9")),
        (["--to", "web1"], {}, (2, "web1 is no scheduler")),
        (["--to", "sched1"], {}, (2, "sched1 is active already")),
        ([], {"lease": None}, (4, "has no scheduler lease")),
        ([], {"lease": LEASE | {"suspended": True}}, (4, "active_standby")),
        ([], DOWN, (3, "Not checked: who is active")),
        (["--history"], DOWN, (3, "Not checked: the lease's history")),
    ],
)
def test_refusal_has_its_exit_code_and_changes_nothing(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], words: list[str], answer: Any, refusal: tuple[int, str]
) -> None:
    if answer == DOWN:
        fleet.down = DOWN
    fleet.lease = answer or fleet.lease
    assert main.run(["failover", "--yes", *words]) == refusal[0]
    assert refusal[1] in capsys.readouterr().err
    assert (fleet.requests, fleet.operation) == ([], None)


def test_database_host_that_cannot_be_reached_is_exit_code_3(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        agent,
        "survey",
        lambda hosts, *_, **__: [agent.Reply(host, reachable=False, error="no answer") for host in hosts],
    )
    assert main.run(["failover", "--yes"]) == 3
    assert "pg1 is unreachable: no answer. Not checked" in capsys.readouterr().err
    assert fleet.requests == []


def test_lock_that_another_holds_is_exit_code_5(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def held(*_: Any, **__: Any) -> Iterator[None]:
        raise LockHeldError("alice has run ops failover")
        yield

    monkeypatch.setattr(failover, "operation", held)
    assert main.run(["failover", "--yes"]) == 5
    assert fleet.requests == []


@pytest.mark.parametrize(("status", "code"), [(1, 1), (3, 3)])
def test_agent_that_gives_up_says_how_far_it_came(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    fleet.failure = RemoteError(Host("pg1", "10.0.0.1", "database"), status, "sched1 is not proved to be fenced")
    assert main.run(["failover", "--yes"]) == code
    assert "sched1 is not proved to be fenced; type: ops failover --env lab --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"to": "sched3"}, "sched3 took the lease instead of sched2"),
        ({"pause_s": None}, "its scheduler has not begun"),
        ({"orphans_adopted_s": None}, "not all of 3 orphaned tasks are adopted yet"),
    ],
)
def test_change_that_did_not_end_well_fails_with_its_result(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], result: dict[str, Any], text: str
) -> None:
    fleet.result = RESULT | result
    assert main.run(["failover", "--yes", "--format", "json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == RESULT | result
    assert text in printed.err


def test_history_is_printed_with_the_operators_words_on_one_line(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {
        "epoch": 8,
        "at": "2026-01-02T03:04:05Z",
        "kind": "switchover",
        "why": "a\nb [red]",
        "by": "alice@control",
    }
    figures = {"gap_s": 0.1, "pause_s": 0.4, "first_task_s": None, "orphans": 0, "orphans_adopted_s": None}
    fleet.lease = {"history": [{**change, **figures, "from": None, "to": "sched2", "fenced": False, "fence_ms": 4.0}]}
    assert main.run(["failover", "--history"]) == 0
    printed = capsys.readouterr().out
    assert "a b [red]" in printed
    assert "(fence not proved)" in printed
    assert main.run(["failover", "--history", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == fleet.lease["history"]
