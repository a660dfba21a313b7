"""`ops status` sees what is wrong, names it, and says nothing when all is well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BAD_DAG = "broken_by_test.py"
# Airflow reads only files that mention both airflow and dag.
BAD_DAG_TEXT = "import airflow.no_such_module_for_any_dag"


@pytest.fixture
def healthy(ops: Callable[..., Any], wait_until: Callable[..., Any]) -> Callable[..., Any]:
    """Give a call that answers as soon as the fleet is healthy; by then it was so once."""

    def when_healthy(*words: str) -> Any:
        def ask() -> Any:
            answer = ops("status", *words)
            return answer if answer.code == 0 else None

        return wait_until(ask, deadline=120, what="a healthy fleet")

    when_healthy()
    return when_healthy


def test_status_of_a_healthy_fleet_exits_with_0(healthy: Callable[..., Any]) -> None:
    status = healthy("--format", "json").json()
    assert (status["healthy"], status["problems"]) == (True, [])
    assert status["env"] == "lab"
    scheduler = status["scheduler"]
    assert sorted([scheduler["active"], *scheduler["standby"]]) == ["sched1", "sched2"]
    assert len(status["hosts"]) == 12
    assert all(host["reachable"] and host["units"] for host in status["hosts"])
    queues = {queue["name"]: queue for queue in status["queues"]}
    assert all(queues[pool]["consumers"] > 0 for pool in ("cpu", "memory", "io"))
    assert status["database"]["size_bytes"] > 0
    assert 0 < sum(status["database"]["connections"].values()) < status["database"]["max_connections"]
    assert status["dags"]["total"] > 0
    assert status["dags"]["import_errors"] == 0


def test_status_shows_what_each_tier_runs(healthy: Callable[..., Any]) -> None:
    table = healthy().stdout
    for words in ("haproxy active", "airflow-worker active", "lab is healthy"):
        assert words in table
    assert "sched1 active; standby sched2" in table or "sched2 active; standby sched1" in table


def test_status_tells_of_runs_that_wait_for_a_paused_dag(healthy: Callable[..., Any], fleet: Any) -> None:
    before = fleet.call("GET", "/dags/fleet_chain")["is_paused"]
    fleet.call("PATCH", "/dags/fleet_chain", json={"is_paused": True})
    run = fleet.call("POST", "/dags/fleet_chain/dagRuns", json={"logical_date": None})["dag_run_id"]
    try:
        assert healthy("--format", "json").json()["dags"]["paused_with_queued_runs"] == {"fleet_chain": 1}
        assert "fleet_chain is paused, and 1 run waits in its queue" in healthy().stdout
    finally:
        fleet.call("DELETE", f"/dags/fleet_chain/dagRuns/{run}")
        fleet.call("PATCH", "/dags/fleet_chain", json={"is_paused": before})


def test_agent_answers_within_two_seconds(machine: Callable[[str], Any]) -> None:
    for name in ("pg1", "mq1", "worker-io1"):
        report = machine(name).run("/usr/local/bin/ops-agent status --json")
        assert report.rc == 0
        assert '"errors": {}' in report.stdout
        assert float(report.stdout.rsplit('"seconds": ', 1)[1].rstrip("}\n")) < 2


@pytest.mark.usefixtures("healthy")
def test_stopped_worker_is_named_until_it_is_back(
    ops: Callable[..., Any], machine: Callable[[str], Any], wait_until: Callable[..., Any]
) -> None:
    worker = machine("worker-cpu1")
    worker.check_output("systemctl stop airflow-worker")
    try:
        answer = ops("status", "--format", "json")
        assert answer.code == 4
        stopped = "worker-cpu1: airflow-worker.service is inactive, should be active"
        assert any(problem.startswith(stopped) for problem in answer.json()["problems"])
        wait_until(lambda: "queue cpu has no consumer" in ops("status").stdout, deadline=30, what="the pool's queue")
    finally:
        worker.check_output("systemctl start airflow-worker")
    wait_until(lambda: ops("status").code == 0, deadline=60, what="a healthy fleet after the worker's start")


@pytest.fixture
def home_with_a_dead_host(root: Path, tmp_path: Path) -> Path:
    """Give a checkout whose lab has one host more, at an address where nobody is."""
    directory = tmp_path / "inventories" / "lab"
    directory.mkdir(parents=True)
    (tmp_path / "ansible.cfg").symlink_to(root / "ansible.cfg")
    for name in ("hosts.yml", "group_vars"):
        (directory / name).symlink_to(root / "inventories" / "lab" / name)
    (directory / "dead.yml").write_text("web: {hosts: {web9: {ansible_host: 10.77.0.250}}}\n")
    return tmp_path


@pytest.mark.usefixtures("healthy")
def test_dead_host_is_named_and_costs_five_seconds_at_most(
    ops: Callable[..., Any], home_with_a_dead_host: Path
) -> None:
    before = ops("status").seconds
    answer = ops("status", "--format", "json", OPS_HOME=str(home_with_a_dead_host))
    after = ops("status").seconds
    assert answer.code == 3
    (problem,) = answer.json()["problems"]
    assert problem.startswith("web9 (10.77.0.250) is unreachable")
    assert [host["name"] for host in answer.json()["hosts"] if not host["reachable"]] == ["web9"]
    assert answer.seconds <= max(before, after) + 5


@pytest.mark.usefixtures("healthy")
def test_dag_file_that_cannot_be_imported_is_counted_and_breaks_nothing_else(
    ops: Callable[..., Any], add_dags: Any, wait_until: Callable[..., Any]
) -> None:
    before = ops("status", "--format", "json").json()["dags"]
    add_dags({BAD_DAG: f"{BAD_DAG_TEXT}\n"})
    try:
        status = wait_until(lambda: with_import_error(ops), deadline=120, what="the import error in ops status")
        assert status["dags"]["total"] == before["total"]
        (problem,) = status["problems"]
        assert BAD_DAG in problem
        assert all(unit["state"] != "failed" for host in status["hosts"] for unit in host["units"])
    finally:
        add_dags.take_back()
    wait_until(lambda: ops("status").code == 0, deadline=120, what="no import error after the file's removal")


def with_import_error(ops: Callable[..., Any]) -> Any:
    answer = ops("status", "--format", "json")
    return answer.json() if answer.code == 4 and answer.json()["dags"]["import_errors"] == 1 else None
