"""The api-servers: where they listen, and that they are warm when they answer."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from testinfra.host import Host

testinfra_hosts = ["ansible://web"]

UNIT = "airflow-api-server"


@pytest.fixture
def address(host: Host) -> str:
    return str(host.backend.get_variables()["ansible_host"])


def test_api_server_runs_now_and_at_boot(host: Host) -> None:
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled


def test_api_server_listens_on_its_own_address_alone(host: Host, address: str) -> None:
    assert host.socket(f"tcp://{address}:8080").is_listening
    assert not host.socket("tcp://127.0.0.1:8080").is_listening


def test_api_server_sees_a_healthy_airflow(address: str) -> None:
    health = requests.get(f"http://{address}:8080/api/v2/monitor/health", timeout=30).json()
    assert {name: part["status"] for name, part in health.items()} == dict.fromkeys(
        ("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy"
    )


def test_execution_api_refuses_who_has_no_token(address: str) -> None:
    url = f"http://{address}:8080/execution/task-instances/00000000-0000-0000-0000-000000000000/heartbeat"
    assert requests.put(url, json={}, timeout=30).status_code == requests.codes.unauthorized


def test_api_server_is_warm_when_it_first_answers(host: Host, address: str, wait_until: Callable[..., Any]) -> None:
    if host.check_output("hostname") != "web3":
        pytest.skip("one restart is enough")
    host.check_output(f"systemctl restart {UNIT}")
    url = f"http://{address}:8080/execution/health"
    began: list[float] = []

    def answers() -> bool:
        began[:] = [time.monotonic()]
        return requests.get(url, timeout=60).ok

    wait_until(answers, deadline=120, what="the api-server to listen")
    # Cold, its first answer from the execution API takes 2.6 s of CPU at least.
    assert time.monotonic() - began[0] < 2
