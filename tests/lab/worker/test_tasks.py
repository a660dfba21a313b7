"""Tasks: one outlives the stop of its worker, and the sandbox lets through what tasks do."""

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testinfra.host import Host

from ops_cli.fleet import inventory as inventories

# The publisher of the DAG share.
testinfra_hosts = ["ansible://sched1"]

Machine = Callable[[str], Host]
Wait = Callable[..., Any]
Publish = Callable[..., str]
DAG = """
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("{dag_id}", schedule=None, catchup=False):
    BashOperator(
        task_id="bash", queue="{queue}", retries=0, execution_timeout=timedelta(minutes=2), bash_command={command!r}
    )
"""
SANDBOX = """
set -e
file=$(mktemp /tmp/sandbox-XXXX)
echo kept >"$file"
python3 -c "import multiprocessing, subprocess; multiprocessing.Lock(); subprocess.check_call(['cat', '$file'])"
getent hosts pg1
! touch /etc/changed
! cat /etc/shadow
! cat /etc/airflow/migrate.env
"""


@pytest.fixture
def publish(add_dags: Any, fleet: Any, wait_until: Wait) -> Iterator[Publish]:
    """Publish a DAG of one BashOperator beside the released ones, start a run, and take it all away afterwards."""
    published: list[str] = []

    def start(dag_id: str, queue: str, command: str) -> str:
        published.append(dag_id)
        add_dags({f"{dag_id}.py": DAG.format(dag_id=dag_id, queue=queue, command=command)})
        wait_until(
            lambda: fleet.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False}),
            deadline=120,
            what="the DAG processor to find the test's DAG",
        )
        run = fleet.call("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None})["dag_run_id"]
        return f"/dags/{dag_id}/dagRuns/{run}/taskInstances/bash"

    yield start
    add_dags.take_back()
    for dag_id in published:
        fleet.call("DELETE", f"/dags/{dag_id}")


def test_task_outlives_the_stop_of_its_worker(publish: Publish, fleet: Any, machine: Machine, wait_until: Wait) -> None:
    worker = machine("worker-cpu1")
    task = publish("stopped_by_test", "cpu", "sleep 30")
    wait_until(lambda: fleet.call("GET", task)["state"] == "running", deadline=60, what="the task to run")
    stopping = threading.Thread(target=worker.run, args=("systemctl stop airflow-worker",))
    try:
        stopping.start()
        wait_until(
            lambda: worker.run("systemctl is-active airfleet-worker-drain").stdout.strip() == "deactivating",
            deadline=20,
            what="the stop to wait",
        )
        wait_until(lambda: fleet.call("GET", task)["state"] != "running", deadline=90, what="the task to end")
        ended = fleet.call("GET", task)
        assert (ended["state"], ended["try_number"], ended["hostname"]) == ("success", 1, "worker-cpu1")
        assert ended["duration"] >= 30
        stopping.join(60)
        assert worker.run("systemctl is-active airflow-worker").stdout.strip() == "inactive"
    finally:
        worker.check_output("systemctl start airflow-worker")


def test_sandbox_lets_tasks_work_and_keeps_them_in(publish: Publish, fleet: Any, wait_until: Wait) -> None:
    task = publish("sandboxed_by_test", "io", SANDBOX)
    state = wait_until(
        lambda: (found := fleet.call("GET", task)["state"]) in ("success", "failed") and found,
        deadline=60,
        what="the task to end",
    )
    log = str(fleet.call("GET", f"{task}/logs/1", headers={"Accept": "application/json"}))
    assert state == "success", log
    # The log comes from the worker's own log server, by its name.
    assert "kept" in log
    assert "Permission denied" in log


def test_slot_is_free_when_its_task_has_ended(
    fleet: Any, unpaused: Callable[[str], None], machine: Machine, inventory: inventories.Inventory, wait_until: Wait
) -> None:
    """Stock, most of these thirty tasks, which do nothing, hold their slot for 5 s after their end."""
    workers = [machine(host.name) for host in inventory.tier("worker")]
    unpaused("fleet_chain")
    began = workers[0].check_output("date +%s")
    run = fleet.call("POST", "/dags/fleet_chain/dagRuns", json={"logical_date": None})["dag_run_id"]
    path = f"/dags/fleet_chain/dagRuns/{run}"
    wait_until(lambda: fleet.call("GET", path)["state"] == "success", deadline=180, what="the chain to end")
    ask = f"journalctl -u airflow-worker --since @{began} --no-pager"

    def durations() -> list[float]:
        said = "".join(worker.check_output(ask) for worker in workers)
        return [float(seconds) for seconds in re.findall(r"Workload finished .* duration=([0-9.]+)", said)]

    wait_until(lambda: len(durations()) >= 30, deadline=30, what="the workers to finish")
    slow = [seconds for seconds in durations() if seconds > 4.5]
    assert len(slow) < 5, durations()
