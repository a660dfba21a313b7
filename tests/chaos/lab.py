"""The running lab as the failure stories see it: shells on its machines, its database, its keepers."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from ops_cli.fleet import inventory as inventories

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
LAB = Path("/var/lib/airfleet/lab")
INVENTORY = inventories.load("lab", ROOT)
ADDRESS = {host.name: host.address for host in INVENTORY.hosts}
SCHEDULERS = tuple(host.name for host in INVENTORY.tier("scheduler"))
WORKERS = tuple(host.name for host in INVENTORY.tier("worker"))
DATABASE = INVENTORY.tier("database")[0].name
BROKER = INVENTORY.tier("broker")[0].name
KEEPER_PORT = 8976
UNIT = "airflow-scheduler.service"
SSH = [
    "ssh",
    *("-i", str(LAB / "ssh/id_ed25519"), "-o", f"UserKnownHostsFile={LAB / 'ssh/known_hosts'}"),
    *("-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=3"),
    *("-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=2"),
]


def until(what: Callable[[], T], deadline: float, name: str, every: float = 0.1) -> T:
    """Call `what` until it is true and return its value; raise AssertionError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        error = ""
        try:
            if found := what():
                return found
        except (OSError, ValueError, LookupError, subprocess.SubprocessError) as caught:
            error = f" ({caught})"
        assert time.monotonic() < end, f"{name}: not within {deadline:g} s{error}"
        time.sleep(every)


def ssh(machine: str, *options: str) -> list[str]:
    """Return the words that open a connection to a machine."""
    return [*SSH, *options, f"fleet@{ADDRESS[machine]}"]


def shell(machine: str, script: str, timeout: float = 30) -> str:
    """Run a script as root and return what it prints; raise AssertionError if it fails, OSError if nobody answers."""
    command = [*ssh(machine), "sudo bash -s"]
    try:
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        raise OSError(f"{machine} did not answer within {timeout:g} s") from late
    if done.returncode == 255:
        raise OSError(f"{machine}: {done.stderr.strip()}")
    assert done.returncode == 0, f"{machine}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Database:
    """One session of the superuser on the database machine, reopened when the server has closed it."""

    def __init__(self) -> None:
        self._psql: subprocess.Popen[str] | None = None

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of one SELECT. Raises OSError when the server does not answer or refuses."""
        return list(json.loads(self.run(f"SELECT coalesce(json_agg(t), '[]') FROM ({query}) AS t;")))

    def value(self, query: str) -> Any:
        """Return the first column of the first row."""
        return next(iter(self.rows(query)[0].values()))

    def run(self, statements: str) -> str:
        """Run statements and return what psql prints. Raises OSError as rows() does."""
        psql = self._open()
        assert psql.stdin
        assert psql.stdout
        try:
            psql.stdin.write(statements + "\n\\echo -- done\n")
            psql.stdin.flush()
            lines: list[str] = []
            while line := psql.stdout.readline():
                if line == "-- done\n":
                    return "".join(lines)
                lines.append(line)
        except OSError:
            lines = []
        self.close()
        raise OSError(f"{DATABASE}: psql gave up: {''.join(lines)[-300:]}")

    def _open(self) -> subprocess.Popen[str]:
        if self._psql is None or self._psql.poll() is not None:
            psql = "cd / && exec sudo runuser -u postgres -- psql -XqAt -v ON_ERROR_STOP=1 airflow 2>&1"
            self._psql = subprocess.Popen(
                [*ssh(DATABASE), psql], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._psql

    def close(self) -> None:
        """End the session."""
        if self._psql is not None:
            self._psql.kill()
            self._psql.wait()
            self._psql = None


def health(host: str) -> dict[str, Any]:
    """Return what a keeper tells about itself; its state is `down` where none answers."""
    try:
        answer = requests.get(f"http://{ADDRESS[host]}:{KEEPER_PORT}/health", timeout=2)
        return dict(answer.json())
    except (requests.RequestException, ValueError):
        return {"state": "down", "ready": False, "epoch": 0, "scheduler_pid": None}


def pair() -> tuple[str, str] | None:
    """Return the active host and the standby, once there is one of each and the standby would take over at once."""
    healths = {host: health(host) for host in SCHEDULERS}
    active = [host for host, each in healths.items() if each["state"] == "active"]
    ready = [host for host, each in healths.items() if each["ready"]]
    return (active[0], ready[0]) if len(active) == len(ready) == 1 else None


def settled(deadline: float = 90) -> tuple[str, str]:
    """Wait until one host schedules and the other is ready; return both."""
    return until(pair, deadline, "an active scheduler and a ready standby")


def keeper_pid(host: str) -> int:
    """Return the pid, on its machine, of the keeper."""
    return int(shell(host, f"systemctl show --property MainPID --value {UNIT}"))


def scheduler_pid(host: str) -> int:
    """Return the pid, on its machine, of the scheduler that the keeper there has forked."""
    pid = health(host)["scheduler_pid"]
    assert pid, f"{host} has no scheduler"
    return int(pid)


def strike(host: str, command: str) -> float:
    """Run a command on a machine as root; return the date, as seconds, just before it. All machines share the clock."""
    return float(shell(host, f"date +%s.%N; {command}").splitlines()[0])
