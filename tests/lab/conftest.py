"""Fixtures for tests against a running lab.

A module names its machines with `testinfra_hosts = ["ansible://web"]` (any group or host of the inventory) and gets
testinfra's `host`, already root. Beside it: `machine(name)` for another machine, `fleet` for Airflow's public API
through HAProxy, `add_dags({name: text})` for DAGs beside those of the current release, `ops(*words)` for the command
line, and `wait_until(predicate, deadline=..., what=...)`, the only way to wait. A failed test prints the failed units
and the journals of the machines that it touched.
"""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests
import testinfra
from testinfra.host import Host as Machine

from ops_cli.fleet import inventory as inventories
from tests.lab.signing import sign

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
SECRETS = Path("/var/lib/airfleet/lab/secrets")
UNITS = ("airflow-*", "haproxy", "pgbouncer", "postgresql@*", "rabbitmq-server", "nfs-*", "srv-*")


def pytest_configure(config: pytest.Config) -> None:
    # testinfra starts `ansible-inventory` by name and reads ansible.cfg from the current directory.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ.setdefault("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg"))
    os.environ.setdefault("ANSIBLE_INVENTORY", str(ROOT / "inventories" / "lab"))
    # One SSH connection a machine for the whole run: a handshake a command would double the run's length.
    sockets = tempfile.TemporaryDirectory(prefix="fleet-")
    config.add_cleanup(sockets.cleanup)
    os.environ["ANSIBLE_SSH_EXTRA_ARGS"] = f"-o ControlPath={sockets.name}/%C"


@pytest.fixture(scope="session")
def inventory() -> inventories.Inventory:
    return inventories.load("lab", ROOT)


@pytest.fixture(scope="session", autouse=True)
def _lab_is_up(inventory: inventories.Inventory) -> None:
    with ThreadPoolExecutor(len(inventory.hosts)) as pool:
        silent = [name for name in pool.map(_silent, inventory.hosts) if name]
    if silent:
        pytest.exit(f"the lab is not up ({', '.join(silent)} do not answer on SSH): type `make lab`", returncode=1)


def _silent(host: inventories.Host) -> str | None:
    try:
        with socket.create_connection((host.address, host.port or 22), timeout=3) as connection:
            connection.settimeout(3)
            answers = connection.recv(4) == b"SSH-"
    except OSError:
        answers = False
    return None if answers else host.name


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return poll


def poll(predicate: Callable[[], T], *, deadline: float, what: str, every: float = 0.5) -> T:
    """Call `predicate` until it is true and return its value; fail after `deadline` seconds.

    An exception counts as false and is quoted if it is the last: what is being waited for may refuse connections.
    """
    end = time.monotonic() + deadline
    while True:
        try:
            value, last = predicate(), "it stayed false"
        except Exception as error:  # noqa: BLE001
            value, last = None, repr(error)
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {deadline:g} s ({last})")
        time.sleep(every)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Callable[[str], Machine]:
    def get(name: str) -> Machine:
        found = testinfra.get_host(f"ansible://{name}")
        request.node.stash.setdefault(TOUCHED, {})[name] = found
        return found

    return get


@dataclass
class Fleet:
    """Airflow's public API through HAProxy, logged in as admin."""

    base_url: str
    password: str
    session: requests.Session

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """Call `/api/v2` + path and return the JSON answer; a status of 400 or more raises."""
        answer = self.session.request(method, f"{self.base_url}/api/v2{path}", timeout=30, **kwargs)
        if answer.status_code == requests.codes.unauthorized:
            self.log_in()
            answer = self.session.request(method, f"{self.base_url}/api/v2{path}", timeout=30, **kwargs)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def log_in(self) -> None:
        login = {"username": "admin", "password": self.password}
        answer = self.session.post(f"{self.base_url}/auth/token", json=login, timeout=30)
        answer.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


@pytest.fixture(scope="session")
def fleet(inventory: inventories.Inventory) -> Iterator[Fleet]:
    password = (SECRETS / "airflow_admin").read_text().strip()
    with requests.Session() as session:
        fleet = Fleet(f"http://{inventory.tier('lb')[0].address}:8080", password, session)
        fleet.log_in()
        yield fleet


@pytest.fixture
def unpaused(fleet: Fleet, wait_until: Callable[..., Any]) -> Iterator[Callable[[str], None]]:
    """Let a DAG's runs start, as soon as the fleet has it, and pause it again if it was: a new fleet's DAGs are."""
    before: dict[str, bool] = {}

    def unpause(dag_id: str) -> None:
        path = f"/dags/{dag_id}"
        before.setdefault(dag_id, wait_until(lambda: fleet.call("GET", path), deadline=120, what=dag_id)["is_paused"])
        fleet.call("PATCH", path, json={"is_paused": False})

    yield unpause
    for dag_id, paused in before.items():
        fleet.call("PATCH", f"/dags/{dag_id}", json={"is_paused": paused})


ADD = """
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -a /srv/airflow/dags/current/dags/. "$work"
echo {files} | base64 -d | tar -x -C "$work"
ops-agent release publish --tree "$work" --author tests --message 'for a test'
"""


@dataclass
class ExtraDags:
    """Serves the current release with some files more, by name and text, until they are taken back."""

    publisher: Machine
    before: str

    def __call__(self, files: dict[str, str]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as out:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                out.addfile(member, io.BytesIO(text.encode()))
        script = ADD.format(files=base64.b64encode(packed.getvalue()).decode())
        made = json.loads(self.publisher.check_output("bash -c %s", script))["release"]
        sign(self.publisher.check_output, made)
        self.publisher.check_output("ops-agent release flip %s && ops-agent release refresh", made)

    def take_back(self) -> None:
        self.publisher.check_output("ops-agent release flip %s && ops-agent release refresh", self.before)


@pytest.fixture
def add_dags(inventory: inventories.Inventory) -> Iterator[ExtraDags]:
    publisher = testinfra.get_host(f"ansible://{inventory.tier('scheduler')[0].name}")
    extra = ExtraDags(publisher, Path(publisher.check_output("readlink /srv/airflow/dags/current")).name)
    yield extra
    extra.take_back()


@dataclass
class Answer:
    """What one run of `ops` printed, and how long it took in seconds."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    def json(self) -> Any:
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def ops() -> Callable[..., Answer]:
    def run(*words: str, **environment: str) -> Answer:
        start = time.monotonic()
        command = [str(Path(sys.executable).with_name("ops")), *words]
        settings = os.environ | {"OPS_HOME": str(ROOT)} | environment
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)
        return Answer(done.returncode, done.stdout, done.stderr, time.monotonic() - start)

    return run


TOUCHED = pytest.StashKey[dict[str, Machine]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ARG001
    report = yield
    if report.failed:
        machines = item.stash.get(TOUCHED, {})
        if host := getattr(item, "funcargs", {}).get("host"):
            machines = {host.backend.get_pytest_id(): host, **machines}
        for name, touched in machines.items():
            report.sections.append((f"units of {name}", _journal(touched)))
    return report


def _journal(machine: Machine) -> str:
    units = " ".join(f"-u '{unit}'" for unit in UNITS)
    try:
        return str(machine.run(f"systemctl --failed --no-legend; journalctl --no-pager -n 50 {units}").stdout)
    except Exception as error:  # noqa: BLE001
        return f"no journal: {error!r}"
