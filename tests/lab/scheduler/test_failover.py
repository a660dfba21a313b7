"""`ops failover` on the running fleet: planned, forced, refused, raced and killed; each leaves a healthy pair."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from ops_cli.fleet import inventory as inventories
from ops_cli.fleet.lock import operation
from tests.chaos import machines

ROOT = Path(__file__).parents[3]
OPS = str(Path(sys.executable).with_name("ops"))
KEYS = {"kind", "from", "to", "epoch", "fenced", "pause_s", "first_task_s", "orphans", "orphans_adopted_s"}
REASON = 'it\'s "late";\n$(reboot) \\ ü'

Ops = Callable[..., Any]
Wait = Callable[..., Any]
Sql = Callable[[str], str]


@pytest.fixture
def sql(machine: Callable[[str], Host]) -> Sql:
    def ask(statement: str) -> str:
        return str(machine("pg1").check_output("cd / && runuser -u postgres -- psql -XqAt airflow -c %s", statement))

    return ask


@pytest.fixture(autouse=True)
def pair(ops: Ops, wait_until: Wait) -> Iterator[tuple[str, str]]:
    """Give the active host and the ready standby; afterwards the fleet is whole again without a hand."""

    def whole() -> dict[str, Any] | None:
        scheduler: dict[str, Any] = ops("status", "--format", "json").json()["scheduler"]
        return scheduler if scheduler["active"] and scheduler["ready"] else None

    found = wait_until(whole, deadline=60, what="an active scheduler and a ready standby")
    yield found["active"], found["ready"][0]
    wait_until(lambda: ops("status").code == 0, deadline=120, what="a healthy fleet afterwards")


@pytest.fixture
def load(fleet: Any) -> Iterator[None]:
    """Start a run every three seconds: there is always a next task, and no backlog that it would wait behind."""
    over = threading.Event()

    def trigger() -> None:
        while not over.wait(3):
            fleet.call("POST", "/dags/fleet_check/dagRuns", json={"logical_date": None})

    thread = threading.Thread(target=trigger)
    thread.start()
    yield
    over.set()
    thread.join()


def epoch(sql: Sql) -> int:
    return int(sql("SELECT epoch FROM ops.scheduler_lease"))


@pytest.mark.usefixtures("load")
def test_switchover_there_and_back_is_measured_and_recorded(
    ops: Ops, sql: Sql, wait_until: Wait, machine: Callable[[str], Host], pair: tuple[str, str]
) -> None:
    for source, target in (pair, pair[::-1]):
        before = epoch(sql)
        wait_until(lambda: ops("failover", "--dry-run").code == 0, deadline=30, what="a ready standby")
        answer = ops("failover", "--to", target, "--yes", "--reason", REASON, "--format", "json")
        assert answer.code == 0, answer.stderr
        result = answer.json()
        assert set(result) == KEYS
        expected = {"kind": "switchover", "from": source, "to": target, "epoch": before + 1, "fenced": True}
        assert result | expected == result
        assert result["first_task_s"] is not None, result
        assert 0 < result["pause_s"] < result["first_task_s"]
        assert ops("status", "--format", "json").json()["scheduler"]["active"] == target
        last = ops("failover", "--history", "--format", "json").json()[0]
        assert (last["epoch"], last["why"], last["pause_s"]) == (before + 1, REASON, result["pause_s"])
        assert "@" in last["by"]
    audit = json.loads(machine("pg1").check_output("tail -n 1 /var/log/ops-agent/audit.jsonl"))
    assert (audit["verb"], audit["reason"]) == ("failover", REASON)
    assert audit["result"].startswith(f"switchover from {pair[1]} to {pair[0]}")
    assert set(audit["hosts"]) == set(pair)


def test_dry_run_and_refusals_change_nothing(ops: Ops, sql: Sql, pair: tuple[str, str]) -> None:
    before = epoch(sql)
    answer = ops("failover", "--dry-run", "--format", "json")
    assert (answer.code, answer.json()["to"], answer.json()["epoch"]) == (0, pair[1], before + 1)
    for target, text in ((pair[0], "is active already"), ("sched9", "has no host sched9"), ("web1", "is no scheduler")):
        answer = ops("failover", "--yes", "--to", target)
        assert (answer.code, text in answer.stderr) == (2, True), answer.stderr
    # Nobody is at a terminal to agree.
    assert ops("failover").code == 2
    assert epoch(sql) == before


def test_lock_of_another_operation_stops_it(ops: Ops, sql: Sql, inventory: inventories.Inventory) -> None:
    before = epoch(sql)
    with operation(inventory, "test", lock="scheduler"):
        answer = ops("failover", "--yes")
    assert (answer.code, "has run ops test since" in answer.stderr) == (5, True), answer.stderr
    assert epoch(sql) == before


def start(*words: str) -> subprocess.Popen[str]:
    settings = os.environ | {"OPS_HOME": str(ROOT)}
    return subprocess.Popen(
        [OPS, "failover", "--yes", *words], env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_at_once_move_it_once(sql: Sql, pair: tuple[str, str]) -> None:
    before = epoch(sql)
    both = [start() for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    # The other meets the lock, or finds that the lease is not what it has seen.
    assert codes in ([0, 1], [0, 5], [0, 4]), errors
    assert epoch(sql) == before + 1
    assert sql("SELECT holder FROM ops.scheduler_lease") == pair[1]


def test_killed_in_the_middle_leaves_nothing_half_done(
    ops: Ops, sql: Sql, wait_until: Wait, pair: tuple[str, str]
) -> None:
    before = epoch(sql)
    process = start()
    asked = f"SELECT count(*) FROM ops.lease_event WHERE event = 'hand-over asked' AND epoch = {before}"
    wait_until(lambda: int(sql(asked)), deadline=30, what="the hand-over to be asked for", every=0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: epoch(sql) == before + 1, deadline=40, what="the hand-over to complete")
    assert sql("SELECT holder FROM ops.scheduler_lease") == pair[1]
    # Nor is the lock left behind.
    wait_until(lambda: ops("failover", "--yes").code == 0, deadline=90, what="the next failover")


def test_stopped_machine_is_failed_over_with_proof_of_fencing(
    ops: Ops, sql: Sql, wait_until: Wait, pair: tuple[str, str]
) -> None:
    active, standby = pair
    before = epoch(sql)
    machines.freeze(active)
    try:
        # As with a long lease: otherwise the standby takes over by itself before anybody has typed a command.
        sql("UPDATE ops.scheduler_lease SET expires_at = clock_timestamp() + interval '60 s'")
        stale = "SELECT renewed_at < clock_timestamp() - interval '3 s' FROM ops.scheduler_lease"
        wait_until(lambda: sql(stale) == "t", deadline=10, what="two missed renewals")
        answer = ops("failover", "--yes", "--format", "json")
        assert answer.code == 0, answer.stderr
        expected = {"kind": "failover", "from": active, "to": standby, "epoch": before + 1, "fenced": True}
        assert answer.json() | expected == answer.json()
        fence = f"SELECT admitted, writes, sessions FROM ops.lease_status WHERE host = '{active}'"
        assert sql(fence) == "f|f|0"
        refused = ops("failover", "--yes")
        assert (refused.code, f"{active} is unreachable" in refused.stderr) == (4, True), refused.stderr
    finally:
        machines.thaw(active)
    assert epoch(sql) == before + 1


def test_database_that_is_down_is_said_and_nothing_done(
    ops: Ops, sql: Sql, machine: Callable[[str], Host], wait_until: Wait
) -> None:
    before = epoch(sql)
    machine("pg1").check_output("systemctl stop postgresql@17-main")
    try:
        answer = ops("failover", "--yes")
    finally:
        machine("pg1").check_output("systemctl start postgresql@17-main")
    assert answer.code == 3
    assert re.search(r"database on pg1 does not answer.*Not checked: who is active", answer.stderr)
    wait_until(lambda: epoch(sql) >= before, deadline=30, what="the database")
    asked = f"SELECT count(*) FROM ops.lease_event WHERE event IN ('revoked', 'hand-over asked') AND epoch >= {before}"
    assert sql(asked) == "0"
