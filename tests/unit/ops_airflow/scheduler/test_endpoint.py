"""What the network can do to a keeper: a real one, real sockets. Its database is away; its watchdog tells its loop."""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ops_airflow.scheduler import listener

ROOT = Path(__file__).parents[4]
READER = "127.0.0.3"
KEEP = f"""
from ops_airflow.scheduler.config import Config
from ops_airflow.scheduler.keeper import Keeper
from ops_airflow.scheduler.process import SchedulerProcess
from ops_airflow.scheduler.protocol import Timing

nowhere = {{"host": "127.0.0.1", "port": 1, "dbname": "airflow", "user": "keeper"}}
config = Config(nowhere, "127.0.0.1", 0, Timing(), ("{READER}",))
keeper = Keeper(config, SchedulerProcess(lambda report, since: 0), preloaded=True)
print(keeper.port, flush=True)
keeper.run()
"""
FLOOD = 1000


def until(what: Callable[[], Any], deadline: float = 30.0) -> Any:
    end = time.monotonic() + deadline
    while not (found := what()):
        assert time.monotonic() < end, f"not within {deadline:g} s"
        time.sleep(0.01)
    return found


class Running:
    """A keeper as a process of its own, with this test as its service manager."""

    def __init__(self, directory: Path) -> None:
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(directory / "notify"))
        self.manager.settimeout(30)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(directory / "notify")}
        self.process = subprocess.Popen([sys.executable, "-c", KEEP], stdout=subprocess.PIPE, env=environment)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(source, 0))

    def say(self, words: bytes, source: str = "127.0.0.1") -> bytes:
        """Send and hang up half; return what comes until the other side hangs up, which it may do rudely."""
        said = b""
        with self.connect(source) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(words)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                said += data
        return said

    def get(self, path: str, source: str = "127.0.0.1") -> tuple[int, str]:
        head, _, body = self.say(f"GET {path} HTTP/1.1\r\n\r\n".encode(), source).partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def health(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/health")[1]))

    def endpoint(self) -> int:
        """Return the pid of the process that serves."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def assert_turning(self) -> None:
        """The loop pings its watchdog again, twice: what was under way at the first has ended by the second."""
        while select.select([self.manager], [], [], 0)[0]:
            self.manager.recv(100)
        for _ in range(2):
            assert self.manager.recv(100) == b"WATCHDOG=1"
        assert self.process.poll() is None

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.manager.close()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * FLOOD), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


lines = st.lists(st.binary(max_size=40) | st.sampled_from([b"GET", b"/health", b"HTTP/1.1", b" "]), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3 * listener.MOST_BYTES) | lines.map(b" ".join).map(lambda line: line + b"\r\n\r\n"))
@example(b"\r\n\r\n")
@example(b"GET\r\n\r\n")
@example(b"GET  HTTP/1.1\r\n\r\n")
@example(b"\0" * (listener.MOST_BYTES + 1))
def test_whatever_bytes_come_the_next_one_is_answered(keeper: Running, words: bytes) -> None:
    serving = keeper.endpoint()
    keeper.say(words)
    assert keeper.health()["state"] == "standby"
    assert (keeper.process.poll(), keeper.endpoint()) == (None, serving)


@pytest.mark.usefixtures("many_files")
def test_thousand_connections_at_once_leave_the_loop_and_the_next_client_alone(keeper: Running) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(FLOOD):
            connection = opened.enter_context(socket.socket())
            connection.setblocking(False)  # noqa: FBT003
            connection.connect_ex(("127.0.0.1", keeper.port))
        keeper.assert_turning()
        assert until(lambda: keeper.get("/health", "127.0.0.2")[1] == '{"state": "standby"}\n')
        most = len(list(Path(f"/proc/{keeper.endpoint()}/fd").iterdir()))
        assert most < 2 * listener.MOST_CLIENTS
        assert keeper.process.poll() is None


def test_slow_and_half_open_clients_are_dropped(keeper: Running) -> None:
    with keeper.connect() as silent, keeper.connect() as slow:
        slow.sendall(b"GET /health")
        assert (silent.recv(1), slow.recv(1)) == (b"", b"")
    keeper.assert_turning()


def test_client_of_another_address_has_its_place_in_a_flood(keeper: Running) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(2 * listener.MOST_CLIENTS):
            opened.enter_context(keeper.connect("127.0.0.2"))
        with keeper.connect() as early:
            early.sendall(b"GET /health HTTP/1.1\r\n")
            for _ in range(listener.MOST_CLIENTS):
                opened.enter_context(keeper.connect("127.0.0.2"))
            early.sendall(b"\r\n")
            assert early.recv(100).startswith(b"HTTP/1.1 503 ")


def test_killed_endpoint_is_replaced_and_the_keeper_stays(keeper: Running) -> None:
    first = keeper.endpoint()
    os.kill(first, signal.SIGKILL)
    assert until(lambda: keeper.endpoint() not in {0, first})
    assert keeper.health()["state"] == "standby"
    keeper.assert_turning()


def test_frozen_endpoint_does_not_hold_the_loop_up(keeper: Running) -> None:
    os.kill(keeper.endpoint(), signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as opened:
            for _ in range(listener.MOST_CLIENTS):
                opened.enter_context(keeper.connect()).sendall(b"GET /health HTTP/1.1\r\n\r\n")
            keeper.assert_turning()
    finally:
        os.kill(keeper.endpoint(), signal.SIGCONT)


def test_frozen_keeper_is_silent_rather_than_what_it_was(keeper: Running) -> None:
    assert keeper.health()["state"] == "standby"
    keeper.process.send_signal(signal.SIGSTOP)
    assert until(lambda: keeper.health()["state"] == "silent")
    assert keeper.get("/health")[0] == 503
    keeper.process.send_signal(signal.SIGCONT)
    assert until(lambda: keeper.health()["state"] == "standby")


def test_endpoint_ends_with_its_keeper(keeper: Running) -> None:
    serving = keeper.endpoint()
    keeper.process.kill()
    keeper.process.wait()
    until(lambda: not Path(f"/proc/{serving}").exists() or "Z" in Path(f"/proc/{serving}/stat").read_text().split()[2])


def test_strangers_learn_the_state_alone(keeper: Running) -> None:
    assert keeper.get("/health", "127.0.0.2") == (503, '{"state": "standby"}\n')
    assert keeper.get("/metrics", "127.0.0.2")[0] == 403
    for reader in ("127.0.0.1", READER):
        assert json.loads(keeper.get("/health", reader)[1])["failure"]
        assert 'airflow_keeper_state{state="standby"} 1.0' in keeper.get("/metrics", reader)[1]


def test_other_paths_and_verbs_are_refused(keeper: Running) -> None:
    assert keeper.get("/etc/passwd") == (404, "GET /health or /metrics\n")
    assert keeper.say(b"POST /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_answer_follows_what_the_keeper_said_last() -> None:
    health = {"state": "active", "ready": False, "epoch": 7}
    said = listener.Snapshot(health, ["active", "standby"], {"failovers_total": 2.0}, time.monotonic() - 1)
    status, _, text = listener.answer(b"GET /health HTTP/1.1\r\n\r\n", said, whole=True)
    assert (status, json.loads(text)["epoch"]) == (200, 7)
    assert 1 <= json.loads(text)["renewed_seconds_ago"] < 2.5
    metrics = listener.answer(b"GET /metrics HTTP/1.1\r\n\r\n", said, whole=True)[2]
    assert "airflow_keeper_epoch 7.0\n" in metrics
    assert "airflow_keeper_failovers_total 2.0\n" in metrics
    said.at -= listener.SILENCE_SECONDS
    assert listener.answer(b"GET /health HTTP/1.1\r\n\r\n", said, whole=False) == (
        503, "application/json", '{"state": "silent"}\n',
    )  # fmt: skip
