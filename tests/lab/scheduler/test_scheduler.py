"""One host schedules and the other waits, hot; DAG processor and triggerer run on both; a bad DAG harms nobody."""

from collections.abc import Callable
from typing import Any

import pytest
import requests
from testinfra.host import Host

testinfra_hosts = ["ansible://scheduler"]

Machine = Callable[[str], Host]
Wait = Callable[..., Any]
BAD = "bad_by_test.py"


def keeper(address: str) -> dict[str, Any]:
    return dict(requests.get(f"http://{address}:8976/health", timeout=10).json())


def is_active(host: Host) -> bool:
    return bool(keeper(host.backend.get_variables()["ansible_host"])["state"] == "active")


def test_keeper_runs_on_every_host(host: Host) -> None:
    scheduler = host.service("airflow-scheduler")
    assert (scheduler.is_running, scheduler.is_enabled) == (True, True)


def test_one_keeper_is_active_and_the_other_ready(inventory: Any) -> None:
    keepers = sorted((keeper(host.address) for host in inventory.tier("scheduler")), key=lambda health: health["state"])
    assert [health["state"] for health in keepers] == ["active", "standby"]
    active, standby = keepers
    assert (standby["ready"], standby["preloaded"]) == (True, True)
    assert active["renewed_seconds_ago"] < 3
    assert {health["epoch"] for health in keepers} == {active["epoch"]}


def test_standby_could_not_write_even_if_it_tried(host: Host, machine: Machine) -> None:
    ask = "SELECT writes, admitted FROM ops.lease_status WHERE host = '%s'"
    found = machine("pg1").check_output(
        f'cd / && runuser -u postgres -- psql -qAtc "{ask % host.check_output("hostname")}" airflow'
    )
    assert found == ("t|t" if is_active(host) else "f|t")


def test_keeper_answers_for_its_scheduler_whose_own_health_check_is_off(host: Host) -> None:
    assert host.check_output("ss -Hltn sport = :8974") == ""


def test_stranger_learns_the_state_alone(host: Host, machine: Machine) -> None:
    url = f"http://{host.backend.get_variables()['ansible_host']}:8976"
    asked = machine("worker-io1").run(f"curl -sS {url}/health; curl -sSo /dev/null -w '%{{http_code}}' {url}/metrics")
    assert asked.stdout in {'{"state": "active"}\n403', '{"state": "standby"}\n403'}


THROW = """
import random, resource, socket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
words = [b"\\r\\n\\r\\n", b"GET\\r\\n\\r\\n", *(random.Random(n).randbytes(n * 50) for n in range(200))]
for address in {addresses}:
    held = [socket.socket() for _ in range(1000)]
    for one in held:
        one.setblocking(False)
        one.connect_ex((address, 8976))
    for word in words:
        try:
            with socket.create_connection((address, 8976), timeout=10) as one:
                one.sendall(word)
        except ConnectionError:
            pass
"""


def test_bytes_from_a_worker_leave_keepers_and_scheduler_alone(inventory: Any, machine: Machine) -> None:
    addresses = [host.address for host in inventory.tier("scheduler")]
    known = ("state", "epoch", "scheduler_pid")
    before = [[keeper(address)[name] for name in known] for address in addresses]
    assert "active" in [state for state, *_ in before]
    script = THROW.format(addresses=addresses)
    machine("worker-io1").check_output(f"timeout 60 python3 - <<'END'\n{script}END")
    assert [[keeper(address)[name] for name in known] for address in addresses] == before


def test_scheduler_logs_in_as_itself_and_directly(host: Host, machine: Machine) -> None:
    ask = "SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE usename = 'scheduler_%s'"
    found = machine("pg1").check_output(
        f'cd / && runuser -u postgres -- psql -qAtc "{ask % host.check_output("hostname")}" airflow'
    )
    assert found == (host.backend.get_variables()["ansible_host"] if is_active(host) else "")


@pytest.mark.parametrize("name", ["airflow-dag-processor", "airflow-triggerer"])
def test_parallel_components_run_on_both_hosts(host: Host, name: str, wait_until: Wait) -> None:
    # A triggerer ends when its database restarts, as another test has it do, and comes back.
    wait_until(lambda: host.service(name).is_running, deadline=60, what=f"{name} to run")
    assert host.service(name).is_enabled


def test_triggerer_serves_its_logs(host: Host, wait_until: Wait) -> None:
    def serves() -> bool:
        return bool(host.socket("tcp://:::8794").is_listening or host.socket("tcp://0.0.0.0:8794").is_listening)

    wait_until(serves, deadline=60, what="the triggerer's log server")


@pytest.fixture
def bad_dag(add_dags: Callable[..., None]) -> str:
    """Publish a DAG file that cannot be imported, past the gate that would refuse it."""
    add_dags({BAD: "from airflow.sdk import DAG; import no_such_module\n"})
    return BAD


def test_bad_dag_is_an_import_error_and_nothing_else(host: Host, bad_dag: str, fleet: Any, wait_until: Wait) -> None:
    if not is_active(host):
        pytest.skip("once is enough")

    def reported() -> list[str]:
        errors = fleet.call("GET", "/importErrors")["import_errors"]
        return [error["stack_trace"] for error in errors if error["filename"].endswith(bad_dag)]

    trace = wait_until(reported, deadline=120, what="the import error")
    assert "no_such_module" in trace[0]
    run = fleet.call("POST", "/dags/fleet_check/dagRuns", json={"logical_date": None})["dag_run_id"]

    def ended() -> str | None:
        state = fleet.call("GET", f"/dags/fleet_check/dagRuns/{run}")["state"]
        return str(state) if state in ("success", "failed") else None

    assert wait_until(ended, deadline=120, what="fleet_check to end beside a bad DAG") == "success"
