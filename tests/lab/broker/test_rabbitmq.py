"""The broker as it runs: where it listens, who gets in, what a queue is, what survives a restart."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from testinfra.host import Host as Machine

testinfra_hosts = ["ansible://broker"]

ROOT = Path(__file__).parents[3]
SECRETS = Path("/var/lib/airfleet/lab/secrets")
POOLS = ["cpu", "io", "memory"]
USERS = ["admin", "monitor", "scheduler", *(f"worker_{pool}" for pool in POOLS)]
PORTS = [5672, 15672, 15692, 25672, 4369]


def secret(name: str) -> str:
    return (SECRETS / f"rabbitmq_{name}").read_text().strip()


@pytest.fixture
def address(host: Machine) -> str:
    return str(host.check_output("hostname -I").split()[0])


@pytest.fixture
def api(address: str) -> Callable[..., requests.Response]:
    def call(method: str, path: str, user: str = "admin", **options: Any) -> requests.Response:
        login = (user, options.pop("password", None) or secret(user))
        return requests.request(method, f"http://{address}:15672/api{path}", auth=login, timeout=10, **options)

    return call


@pytest.fixture
def queue(api: Callable[..., requests.Response]) -> Any:
    """Yield the path of a durable queue that was declared without a type."""
    api("PUT", "/queues/airflow/lab-test", json={"durable": True}).raise_for_status()
    yield "/queues/airflow/lab-test"
    api("DELETE", "/queues/airflow/lab-test").raise_for_status()


def publish(api: Callable[..., requests.Response], text: str, user: str = "admin") -> requests.Response:
    message = {
        "properties": {"delivery_mode": 2},
        "routing_key": "lab-test",
        "payload": text,
        "payload_encoding": "string",
    }
    return api("POST", "/exchanges/airflow/amq.default/publish", user, json=message)


def test_broker_runs_now_and_at_boot(host: Machine) -> None:
    assert host.service("rabbitmq-server").is_running
    assert host.service("rabbitmq-server").is_enabled
    assert host.check_output("systemctl show -P LimitNOFILE rabbitmq-server") == "65536"


@pytest.mark.parametrize("port", PORTS)
def test_broker_listens_on_the_internal_address(host: Machine, address: str, port: int) -> None:
    listening = [line.split()[3] for line in host.check_output("ss -Hltn").splitlines()]
    own = {where for where in listening if where.endswith(f":{port}")}
    assert f"{address}:{port}" in own
    assert own <= {f"{address}:{port}", f"127.0.0.1:{port}"}


def test_users_are_exactly_ours(api: Callable[..., requests.Response]) -> None:
    assert sorted(user["name"] for user in api("GET", "/users").json()) == USERS


@pytest.mark.parametrize(
    ("user", "password"),
    [("guest", "guest"), ("admin", "wrong"), ("scheduler", None)],
    ids=["guest", "wrong", "program"],
)
def test_management_refuses(api: Callable[..., requests.Response], user: str, password: str | None) -> None:
    # the scheduler's password is right, but it holds no tag that lets it into the management API
    assert api("GET", "/overview", user, password=password).status_code == 401


def test_queue_without_a_type_is_a_quorum_queue(api: Callable[..., requests.Response], queue: str) -> None:
    assert api("GET", queue).json()["type"] == "quorum"


def test_queues_are_the_pools_and_drop_nothing(api: Callable[..., requests.Response]) -> None:
    queues = {queue["name"]: queue for queue in api("GET", "/queues/airflow").json()}
    assert set(queues) == set(POOLS)
    assert {queue["type"] for queue in queues.values()} == {"quorum"}
    assert [queues[pool]["effective_policy_definition"]["delivery-limit"] for pool in POOLS] == [-1, -1, -1]


def test_workers_are_connected_as_their_pools_user(
    api: Callable[..., requests.Response], wait_until: Callable[..., Any]
) -> None:
    def users() -> bool:
        found = {connection.get("user") for connection in api("GET", "/vhosts/airflow/connections").json()}
        return {f"worker_{pool}" for pool in POOLS} <= found <= set(USERS)

    wait_until(users, deadline=30, what="every pool's worker to be connected, and nobody else")


def test_every_slot_is_asked_for(api: Callable[..., requests.Response]) -> None:
    asked = dict.fromkeys(("cpu", "io", "memory"), 0)
    for consumer in api("GET", "/consumers/airflow").json():
        asked[consumer["queue"]["name"]] += consumer["prefetch_count"]
    assert asked == {"cpu": 2, "io": 4, "memory": 2}


def test_monitor_sees_queues_and_touches_none(api: Callable[..., requests.Response], queue: str) -> None:
    assert api("GET", queue, "monitor").status_code == 200
    assert publish(api, "nothing", "monitor").status_code in {400, 401, 403}
    assert api("DELETE", queue, "monitor").status_code in {400, 401, 403}


def test_limits_are_the_inventorys(host: Machine) -> None:
    # milliseconds; then MiB of memory, and MiB of disk that must stay free
    question = (
        "{ok, T} = application:get_env(rabbit, consumer_timeout), [T, vm_memory_monitor:get_total_memory() div 1048576,"
        " rabbit_disk_monitor:get_disk_free_limit() div 1048576, rabbit_alarm:get_alarms()]."
    )
    assert json.loads(host.check_output(f"rabbitmqctl eval '{question}'")) == [25 * 3600 * 1000, 1024, 1024, []]


def test_metrics_answer_prometheus(address: str) -> None:
    answer = requests.get(f"http://{address}:15692/metrics", timeout=10)
    assert answer.status_code == 200
    assert "rabbitmq_identity_info" in answer.text


@pytest.mark.parametrize(
    ("path", "owner", "group", "mode"),
    [
        ("/var/lib/rabbitmq/.erlang.cookie", "rabbitmq", "rabbitmq", 0o400),
        ("/etc/rabbitmq/definitions.json", "root", "rabbitmq", 0o640),
        ("/etc/rabbitmq/rabbitmq.conf", "root", "root", 0o644),
    ],
)
def test_file_belongs_to_whom_it_should(host: Machine, path: str, owner: str, group: str, mode: int) -> None:
    file = host.file(path)
    assert (file.user, file.group, file.mode) == (owner, group, mode)


def test_no_password_is_on_disk_in_the_clear(host: Machine) -> None:
    patterns = "\n".join(secret(user) for user in USERS)
    found = host.run(f"grep -rlFf - /etc/rabbitmq /var/log/rabbitmq <<'END'\n{patterns}\nEND")
    assert (found.rc, found.stdout) == (1, "")


def test_message_survives_a_restart(
    host: Machine, api: Callable[..., requests.Response], queue: str, wait_until: Callable[..., Any]
) -> None:
    assert publish(api, "seventeen").json() == {"routed": True}
    host.check_output("systemctl restart rabbitmq-server")
    take = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
    taken = wait_until(
        lambda: api("POST", f"{queue}/get", json=take).json(), deadline=30, what="the message after the restart"
    )
    assert [message["payload"] for message in taken] == ["seventeen"]


def test_converge_undoes_what_was_changed_by_hand(api: Callable[..., requests.Response]) -> None:
    api("PUT", "/users/guest", json={"password": "guest", "tags": "administrator"}).raise_for_status()
    api("PUT", "/permissions/airflow/worker_io", json={"configure": "", "write": "", "read": ".*"}).raise_for_status()
    api("DELETE", "/policies/airflow/tasks").raise_for_status()
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventories/lab", "site.yml"]
    settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(
        [*command, "--limit", "broker", "--tags", "rabbitmq"],
        cwd=ROOT,
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(user["name"] for user in api("GET", "/users").json()) == USERS
    permissions = api("GET", "/permissions/airflow/worker_io").json()
    assert [permissions[right] for right in ("configure", "write", "read")] == ["^$", "^$", "^io$"]
    assert api("GET", "/policies/airflow/tasks").json()["definition"] == {"delivery-limit": -1}
