"""No converge and no `systemctl stop` ends a task: it waits, names what it waits for, and in the end refuses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://worker-cpu1"]
pytestmark = pytest.mark.story

ROOT = Path(__file__).resolve().parents[3]
UNIT = "airflow-worker"
STARTS = "/var/lib/airflow/drain_by_test.starts"
DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("drain_by_test", schedule=None, catchup=False):
    BashOperator(
        task_id="long", queue="cpu", retries=0,
        bash_command="echo {{{{ ti.try_number }}}} >>{starts}; until [ -e {starts}.end ]; do sleep 1; done",
    )
with DAG("drain_by_test_short", schedule=None, catchup=False):
    BashOperator(task_id="short", queue="cpu", retries=0, bash_command="true")
"""

Wait = Callable[..., Any]


def _words(**variables: Any) -> list[str]:
    playbook = str(Path(sys.executable).with_name("ansible-playbook"))
    words = ["-i", "inventories/lab", "site.yml", "--tags", "airflow_worker", "--limit", "worker-cpu1"]
    return [playbook, *words, "-e", json.dumps(variables)]


def _converge(**variables: Any) -> "subprocess.CompletedProcess[str]":
    settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    return subprocess.run(
        _words(**variables), cwd=ROOT, env=settings, capture_output=True, text=True, timeout=400, check=False
    )


def _main_pid(host: Host) -> str:
    return str(host.check_output(f"systemctl show -p MainPID --value {UNIT}"))


def _start(fleet: Any, wait_until: Wait, dag: str, task: str) -> str:
    unpause = {"is_paused": False}
    wait_until(
        lambda: fleet.call("PATCH", f"/dags/{dag}", json=unpause), deadline=120, what="the DAG processor to find it"
    )
    run = fleet.call("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None})["dag_run_id"]
    return f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}"


@pytest.fixture
def task(add_dags: Any, fleet: Any, host: Host, wait_until: Wait) -> Iterator[str]:
    """Start a task that runs until its file `.end` is there, and wait until it does."""
    add_dags({"drain_by_test.py": DAG.format(starts=STARTS)})
    try:
        task = _start(fleet, wait_until, "drain_by_test", "long")
        wait_until(lambda: host.file(STARTS).exists, deadline=90, what="the task to run")
        yield task
    finally:
        host.check_output(f"touch {STARTS}.end")
        wait_until(lambda: host.run("ops-agent worker tasks").stdout == "", deadline=60, what="the worker to be idle")
        add_dags.take_back()
        for dag in ("drain_by_test", "drain_by_test_short"):
            fleet.call("DELETE", f"/dags/{dag}")
        done = _converge()
        host.check_output(f"rm -f {STARTS} {STARTS}.end")
        assert done.returncode == 0, done.stdout + done.stderr


def _ends(task: str, fleet: Any, host: Host, wait_until: Wait) -> None:
    host.check_output(f"touch {STARTS}.end")
    wait_until(lambda: fleet.call("GET", task)["state"] not in ("running", None), deadline=60, what="the task to end")
    ended = fleet.call("GET", task)
    assert (ended["state"], ended["try_number"], ended["hostname"]) == ("success", 1, "worker-cpu1")
    assert host.file(STARTS).content_string == "1\n"


def _is_draining(host: Host) -> bool:
    return host.run("systemctl is-active airfleet-worker-drain").stdout.strip() == "deactivating"


def test_converge_and_stop_refuse_while_a_task_runs_and_restart_when_it_has_ended(
    task: str, fleet: Any, host: Host, wait_until: Wait
) -> None:
    before = _main_pid(host)
    refused = _converge(airflow_worker_concurrency=3, airflow_worker_drain_seconds=10)
    assert refused.returncode != 0
    said = " ".join(refused.stdout.split())
    assert "restarts when these have ended, if they do within 10 s: drain_by_test.long of run" in said
    assert "airflow-worker was not restarted and goes on with its former settings" in said
    assert "-e airflow_worker_drain_seconds=40" in said

    stopped = host.run(f"systemctl stop {UNIT}")
    assert stopped.rc != 0
    assert "canceled" in stopped.stderr
    journal = host.check_output("journalctl -u airfleet-worker-drain -n 20 -o cat --no-pager")
    assert "refused to stop the worker, which takes tasks again: after 10 s still runs drain_by_test.long" in journal

    assert _main_pid(host) == before
    wait_until(lambda: host.run("ops-agent worker ready").rc == 0, deadline=20, what="the worker to take tasks")
    short = _start(fleet, wait_until, "drain_by_test_short", "short")
    wait_until(lambda: fleet.call("GET", short)["state"] == "success", deadline=90, what="a task beside the long one")

    with subprocess.Popen(
        _words(airflow_worker_concurrency=3, airflow_worker_drain_seconds=300),
        cwd=ROOT, env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}, stdout=subprocess.PIPE, text=True,
    ) as converge:  # fmt: skip
        wait_until(lambda: _is_draining(host), deadline=120, what="the converge to wait for the task")
        assert fleet.call("GET", task)["state"] == "running"
        _ends(task, fleet, host, wait_until)
        output = converge.communicate(timeout=200)[0]
    assert converge.returncode == 0, output
    assert _main_pid(host) != before
    assert "--concurrency 3" in host.file(f"/etc/systemd/system/{UNIT}.service").content_string


def test_worker_is_back_after_a_converge_that_was_killed_while_it_waited(
    task: str, fleet: Any, host: Host, wait_until: Wait
) -> None:
    before = _main_pid(host)
    with subprocess.Popen(
        _words(airflow_worker_concurrency=3, airflow_worker_drain_seconds=300),
        cwd=ROOT, env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}, stdout=subprocess.DEVNULL,
    ) as converge:  # fmt: skip
        wait_until(lambda: _is_draining(host), deadline=120, what="the converge to wait for the task")
        converge.kill()
    assert host.service(UNIT).is_running
    _ends(task, fleet, host, wait_until)
    wait_until(
        lambda: _main_pid(host) not in (before, "0") and host.run("ops-agent worker ready").rc == 0,
        deadline=120,
        what="the worker to take tasks, from its new text",
    )


def test_drain_that_is_killed_itself_ends_no_task(task: str, fleet: Any, host: Host, wait_until: Wait) -> None:
    before = _main_pid(host)
    host.check_output(f"systemctl restart --no-block {UNIT}")
    wait_until(lambda: _is_draining(host), deadline=20, what="the restart to wait")
    host.check_output("systemctl kill --signal=KILL airfleet-worker-drain")
    wait_until(
        lambda: host.run(f"systemctl is-active {UNIT}").stdout.strip() == "deactivating",
        deadline=20,
        what="the worker to be told to stop",
    )
    assert fleet.call("GET", task)["state"] == "running"
    _ends(task, fleet, host, wait_until)
    wait_until(
        lambda: _main_pid(host) not in (before, "0") and host.run("ops-agent worker ready").rc == 0,
        deadline=120,
        what="the worker to take tasks again",
    )
