"""Archiving on the fleet: a run leaves the database, can be read, and comes back into the UI; and the night does it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host as Machine

from ops_cli.fleet.inventory import Inventory
from ops_cli.fleet.lock import operation
from tests.lab.conftest import Answer, Fleet
from tests.lab.database.sql import superuser

testinfra_hosts = ["ansible://database"]

DAG = "fleet_check"
HOME = "/var/lib/metadata-archive"
STATE = f"{HOME}/state"
ROOT = Path(__file__).parents[3]
# A name of its own each time: what earlier runs archived stays in the archives.
EVENT = f"killed_ops_{time.time_ns()}"
OLD_ROWS = 600_000
Ops = Callable[..., Answer]


@pytest.fixture
def old_run(host: Machine, fleet: Fleet, wait_until: Callable[..., Any]) -> Iterator[str]:
    """Run the DAG twice and make the first run a year old; the newest one never leaves."""
    fleet.call("PATCH", f"/dags/{DAG}", json={"is_paused": False})
    ids = []
    for number in range(2):
        run_id = f"archive_{time.time_ns()}_{number}"
        fleet.call("POST", f"/dags/{DAG}/dagRuns", json={"dag_run_id": run_id, "logical_date": None})
        ids.append(run_id)
    for run_id in ids:
        path = f"/dags/{DAG}/dagRuns/{run_id}"
        wait_until(lambda path=path: fleet.call("GET", path)["state"] == "success", deadline=120, what=path)
    older = ", ".join(f"{name} = {name} - interval '1 year'" for name in ("start_date", "end_date", "run_after"))
    superuser(host, f"UPDATE dag_run SET {older} WHERE run_id = '{ids[0]}'")
    yield ids[0]
    for run_id in ids:
        superuser(host, f"DELETE FROM dag_run WHERE run_id = '{run_id}'")


def seen(fleet: Fleet, run_id: str) -> tuple[Any, Any]:
    """Return the run and its tasks as the UI gets them; ids of tasks and all times are part of it."""
    path = f"/dags/{DAG}/dagRuns/{run_id}"
    tasks = fleet.call("GET", f"{path}/taskInstances")["task_instances"]
    return fleet.call("GET", path), sorted(tasks, key=lambda task: task["task_id"])


def taken(ops: Ops) -> dict[str, Any]:
    words = ["vacuum", "--older-than", "300d", "--dag", DAG, "--tables", "dag_run", "--yes", "--format", "json"]
    answer = ops(*words)
    assert answer.code == 0, answer.stderr
    return dict(answer.json())


def test_run_leaves_is_read_from_the_archive_and_comes_back_into_the_ui(
    fleet: Fleet, ops: Ops, old_run: str, wait_until: Callable[..., Any]
) -> None:
    before = seen(fleet, old_run)
    assert before[1]
    archive_id = taken(ops)["archive_id"]
    gone = fleet.session.get(f"{fleet.base_url}/api/v2/dags/{DAG}/dagRuns/{old_run}", timeout=30)
    assert gone.status_code == 404

    sql = f"SELECT task_id FROM task_instance WHERE run_id = '{old_run}' ORDER BY task_id"
    rows = ops("archive", "query", sql, "--archive", archive_id, "--format", "json")
    assert [json.loads(line)["task_id"] for line in rows.stdout.splitlines()] == [each["task_id"] for each in before[1]]
    assert ops("archive", "verify", archive_id).code == 0

    restored = ops("archive", "restore", "--run", DAG, old_run, "--keep-for", "1s", "--yes", "--format", "json")
    assert (restored.code, restored.json()["runs"]) == (0, 1), restored.stderr
    assert seen(fleet, old_run) == before

    fleet.call("POST", f"/dags/{DAG}/dagRuns/{old_run}/clear", json={"dry_run": False})
    wait_until(lambda: seen(fleet, old_run)[0]["state"] == "success", deadline=120, what="the cleared run's end")
    tries = {each["task_id"]: each["try_number"] for each in before[1]}
    assert all(each["try_number"] == tries[each["task_id"]] + 1 for each in seen(fleet, old_run)[1])


def test_held_run_is_not_taken_again(ops: Ops, old_run: str) -> None:
    taken(ops)
    assert ops("archive", "restore", "--run", DAG, old_run, "--yes").code == 0
    again = taken(ops)
    assert not any(table["deleted"] for table in again["tables"])


def test_dry_run_counts_and_changes_nothing(host: Machine, ops: Ops, old_run: str) -> None:
    answer = ops("vacuum", "--older-than", "300d", "--dag", DAG, "--dry-run", "--format", "json")
    assert answer.code == 0, answer.stderr
    assert {table["name"]: table["rows"] for table in answer.json()["tables"]}["public.dag_run"] >= 1
    assert superuser(host, f"SELECT count(*) FROM dag_run WHERE run_id = '{old_run}'") == ["1"]


def test_altered_archive_is_refused(host: Machine, ops: Ops, old_run: str) -> None:
    archive_id, copy = taken(ops)["archive_id"], "/var/tmp/archive-altered"  # noqa: S108
    try:
        host.check_output(f"cp -a {HOME}/archives {copy}")
        file = f"{copy}/{archive_id}/data/public.dag_run/000001.parquet"
        host.check_output(f"truncate --size=-1 {file}")
        assert ops("archive", "verify", archive_id, "--store", copy).code == 4
        refused = ops("archive", "restore", "--run", DAG, old_run, "--store", copy, "--yes")
        assert refused.code == 1
        assert "000001.parquet has" in refused.stderr
    finally:
        host.check_output(f"rm -rf {copy}")


def test_only_one_at_a_time_may_change_the_metadata(inventory: Inventory, ops: Ops) -> None:
    with operation(inventory, "archive restore", lock="metadata"):
        refused = ops("vacuum", "--yes")
    assert refused.code == 5
    assert "has run ops archive restore since" in refused.stderr


@pytest.fixture
def old_rows(host: Machine) -> Iterator[Callable[[], int]]:
    """Give the audit log old rows; return how many of them are left."""
    superuser(
        host,
        "INSERT INTO log (dttm, event, owner)"
        f" SELECT now() - interval '2 years' - n * interval '1 s', '{EVENT}', 'test'"
        f" FROM generate_series(1, {OLD_ROWS}) AS n",
    )
    yield lambda: int(superuser(host, f"SELECT count(*) FROM log WHERE event = '{EVENT}'")[0])
    superuser(host, f"DELETE FROM log WHERE event = '{EVENT}'")


def test_killed_ops_loses_no_row_and_the_next_one_goes_on(
    host: Machine, ops: Ops, old_rows: Callable[[], int], wait_until: Callable[..., Any]
) -> None:
    words = ("vacuum", "--older-than", "700d", "--tables", "log", "--yes", "--format", "json")
    command = [str(Path(sys.executable).with_name("ops")), *words]
    with subprocess.Popen(command, env=os.environ | {"OPS_HOME": str(ROOT)}, stdout=subprocess.PIPE) as process:
        wait_until(lambda: old_rows() < OLD_ROWS, deadline=60, what="the first rows to be gone", every=0.1)
        assert process.poll() is None, "it was over before it could be killed"
        process.kill()
    wait_until(lambda: host.run("pgrep -f '[o]ps-agent vacuum'").rc == 1, deadline=60, what="the engine to end")
    again = ops(*words)
    assert (again.code, old_rows()) == (0, 0), again.stderr
    count = f"SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM log WHERE event = '{EVENT}'"
    assert ops("archive", "query", count, "--format", "json").json() == {"rows": OLD_ROWS, "ids": OLD_ROWS}


def test_night_vacuums_by_itself_and_tells_prometheus_and_status(host: Machine, ops: Ops) -> None:
    host.check_output("systemctl start metadata-vacuum.service")
    metrics = host.check_output("runuser -u nobody -- cat /var/lib/prometheus/node-exporter/metadata_archive.prom")
    last = next(line for line in metrics.splitlines() if line.startswith("metadata_archive_last_success_timestamp"))
    assert time.time() - float(last.split()[1]) < 120
    vacuum = ops("status", "--format", "json").json()["database"]["last_vacuum"]
    assert vacuum["error"] is None
    assert vacuum["age_seconds"] < 120


def test_timer_waits_for_the_night(host: Machine) -> None:
    timer = host.check_output("systemctl show --property=ActiveState --property=UnitFileState metadata-vacuum.timer")
    assert set(timer.split()) == {"ActiveState=active", "UnitFileState=enabled"}


def test_archives_are_for_their_owner_alone(host: Machine) -> None:
    directory = host.file(f"{HOME}/archives")
    assert (directory.user, directory.mode) == ("archive", 0o750)
    assert host.file("/etc/metadata-archive/archive.json").mode == 0o640
    assert host.run(f"runuser -u nobody -- ls {HOME}/archives").rc != 0


def test_engine_logs_in_by_its_system_user_alone(host: Machine) -> None:
    select = "psql -XqAt -d airflow -U archive -c 'SELECT current_user'"
    assert host.check_output(f"runuser -u archive -- {select}") == "archive"
    for user in ("root", "nobody"):
        assert host.run(f"runuser -u {user} -- {select}").rc != 0


def test_database_report_names_what_it_looked_at(ops: Ops) -> None:
    answer = ops("db", "analyze", "--format", "json")
    assert answer.code == 0, answer.stderr
    report = answer.json()
    assert report["statements"]
    assert report["wraparound"]["transactions"] < report["wraparound"]["limit"]
    assert {"airflow"} <= {row["login"] for row in report["connections"]}
