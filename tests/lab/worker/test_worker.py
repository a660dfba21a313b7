"""The workers: their pool, queue and limits, and what they can reach."""

from collections.abc import Callable

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://worker"]

Machine = Callable[[str], Host]
UNIT = "airflow-worker"


def pool(host: Host) -> str:
    return str(host.backend.get_variables()["airflow_worker_pool"])


def show(host: Host, unit: str, name: str) -> str:
    return str(host.check_output(f"systemctl show -p {name} --value {unit}"))


def test_worker_runs_now_and_at_boot(host: Host) -> None:
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled


def test_worker_serves_its_pools_queue_alone(host: Host) -> None:
    command = host.check_output(f"tr '\\0' ' ' </proc/{show(host, UNIT, 'MainPID')}/cmdline")
    environment = show(host, UNIT, "Environment")
    assert f"AIRFLEET_POOL={pool(host)}" in environment.split()
    if "--queues" in command:  # Celery rewrites its title once it is up
        assert f"--queues {pool(host)} " in command


def test_worker_lives_in_its_pools_slice(host: Host) -> None:
    assert show(host, UNIT, "Slice") == f"airflow-{pool(host)}.slice"


def test_slice_limits_come_from_the_inventory(host: Host) -> None:
    # As properties: the lab's machines have no memory and CPU controllers to enforce them with.
    slice_ = f"airflow-{pool(host)}.slice"
    assert show(host, slice_, "CPUWeight") == "100"
    assert show(host, slice_, "IOWeight") == "100"
    high, most = (int(show(host, slice_, name)) for name in ("MemoryHigh", "MemoryMax"))
    assert high / most == pytest.approx(85 / 90, rel=0.001)


def test_worker_serves_task_logs_to_who_has_a_token(host: Host) -> None:
    ask = "/usr/bin/python3 -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:8793/log/x')\""
    assert "403" in host.run(ask).stderr


def test_workers_have_sessions_as_celery_alone(machine: Machine) -> None:
    ask = "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name LIKE '%airflow-worker%'"
    found = machine("pg1").check_output(f'cd / && runuser -u postgres -- psql -qAtc "{ask}" airflow')
    assert found in ("celery", "")


def test_queues_are_quorum_queues(host: Host, machine: Machine) -> None:
    listing = machine("mq1").check_output("rabbitmqctl -q list_queues -p airflow name type --no-table-headers")
    types = dict(line.split() for line in listing.splitlines())
    assert types[pool(host)] == "quorum"
