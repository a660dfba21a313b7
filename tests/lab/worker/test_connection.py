"""A worker and a publisher whose connection to the broker breaks, freezes or is refused; in a vhost of the test's."""

import secrets
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from testinfra.host import Host

testinfra_hosts = ["ansible://worker-io1"]

Wait = Callable[..., Any]
BROKER = "10.77.0.61"
SLOTS = 4
APP = Path(__file__).with_name("scratch_app.py").read_text()
ADMIN = Path("/var/lib/airfleet/lab/secrets/rabbitmq_admin")
# Passes bytes on to the broker, until it is frozen or killed.
PROXY = """
import socket, threading
def pump(a, b):
    while data := a.recv(65536):
        b.sendall(data)
server = socket.create_server(("127.0.0.1", 5673))
while True:
    near, _ = server.accept()
    far = socket.create_connection(("{broker}", 5672))
    for pair in ((near, far), (far, near)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


class Broker:
    """A vhost with one pool's queue, a worker's login and a scheduler's, with the rights that the fleet's have."""

    def __init__(self) -> None:
        self.name = f"test-{secrets.token_hex(4)}"
        self.password = secrets.token_hex(16)
        rights = {"worker": ("^$", "^pool$"), "scheduler": (r"^amq\.default$", "^$")}
        self.call("PUT", f"vhosts/{self.name}")
        self.call("PUT", f"permissions/{self.name}/admin", {"configure": ".*", "write": ".*", "read": ".*"})
        for part, (write, read) in rights.items():
            self.call("PUT", f"users/{self.name}-{part}", {"password": self.password, "tags": ""})
            permissions = {"configure": "^$", "write": write, "read": read}
            self.call("PUT", f"permissions/{self.name}/{self.name}-{part}", permissions)
        queue = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
        self.call("PUT", f"queues/{self.name}/pool", queue)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        login = ("admin", ADMIN.read_text().strip())
        address = f"http://{BROKER}:15672/api/{path}"
        answer = requests.request(method, address, auth=login, json=body, timeout=10)
        answer.raise_for_status()
        return answer.json() if method == "GET" else None

    def url(self, part: str, place: str = f"{BROKER}:5672") -> str:
        return f"amqp://{self.name}-{part}:{self.password}@{place}/{self.name}"

    def prefetch(self) -> int:
        return sum(consumer["prefetch_count"] for consumer in self.call("GET", f"consumers/{self.name}"))

    def break_connections(self) -> int:
        """Close every connection of the worker; return how many there were."""
        found = self.call("GET", f"vhosts/{self.name}/connections")
        mine = [connection["name"] for connection in found if connection.get("user") == f"{self.name}-worker"]
        for name in mine:
            self.call("DELETE", f"connections/{quote(name, safe='')}")
        return len(mine)

    def remove(self) -> None:
        self.call("DELETE", f"vhosts/{self.name}")
        for part in ("worker", "scheduler"):
            self.call("DELETE", f"users/{self.name}-{part}")


class Place:
    """A directory on the worker's machine with the program in it, and what was started there."""

    def __init__(self, host: Host, broker: Broker) -> None:
        self.host = host
        self.broker = broker
        self.path = host.check_output("runuser -u airflow -- mktemp -d")
        self.pids: list[str] = []
        host.check_output(f"cat >{self.path}/scratch_app.py <<'END'\n{APP}\nEND")

    def command(self, part: str, place: str, words: str) -> str:
        settings = f"BROKER={shlex.quote(self.broker.url(part, place))} PYTHONPATH={self.path} AIRFLOW_HOME={self.path}"
        return f"cd {self.path} && exec runuser -u airflow -- env {settings} /opt/airflow/current/bin/{words}"

    def start(self, command: str, log: str) -> str:
        run = f"setsid sh -c {shlex.quote(command)} >{self.path}/{log} 2>&1 </dev/null & echo $!"
        self.pids.append(self.host.check_output(run))
        return self.pids[-1]

    def worker(self) -> None:
        options = f"-O fair --queues pool --concurrency {SLOTS} --pool prefork --without-gossip --without-mingle"
        self.start(self.command("worker", f"{BROKER}:5672", f"celery -A scratch_app worker {options}"), "worker.log")

    def python(self, code: str, place: str = f"{BROKER}:5672") -> str:
        script = f"import time; from scratch_app import send, TimeUpError\n{code}"
        return str(self.host.check_output(self.command("scheduler", place, f"python -c {shlex.quote(script)}")))

    def began(self) -> list[str]:
        return [line.split("-")[1] for line in self.host.check_output(f"ls {self.path}").split() if "began-" in line]

    def remove(self) -> None:
        for pid in self.pids:
            self.host.run(f"kill -KILL -- -{pid}")
        self.host.check_output(f"rm -rf {self.path}")


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.remove()


@pytest.fixture
def place(host: Host, broker: Broker) -> Iterator[Place]:
    place = Place(host, broker)
    yield place
    place.remove()


def test_worker_takes_what_it_has_slots_for_after_a_lost_connection(
    place: Place, broker: Broker, wait_until: Wait
) -> None:
    place.worker()
    wait_until(lambda: broker.prefetch() == SLOTS, deadline=60, what="the worker to subscribe")
    place.python("for name in 'abc': send('long' + name, 45)")
    wait_until(lambda: len(place.began()) == 3, deadline=30, what="three tasks to run")
    began = time.monotonic()
    # The management API hears of a connection a few seconds late.
    wait_until(broker.break_connections, deadline=30, what="the worker's connection")
    wait_until(lambda: broker.prefetch() == SLOTS - 3, deadline=30, what="one slot of four to be asked for")
    # Airflow refuses a second start of what runs; here it would only nap.
    broker.call("DELETE", f"queues/{broker.name}/pool/contents")
    place.python("for name in 'abcdef': send('short' + name, 0)")
    wait_until(lambda: sum("short" in name for name in place.began()) == 6, deadline=120, what="the short tasks")
    wait_until(lambda: broker.prefetch() == SLOTS, deadline=120, what="every slot to be asked for again")
    assert time.monotonic() - began < 180


def test_refused_publish_waits_for_the_broker_until_airflow_ends_it(place: Place) -> None:
    code = """
began = time.monotonic()
try:
    send("refused", 0)
except TimeUpError:
    print("in time", time.monotonic() - began)
"""
    assert place.python(code, "127.0.0.1:1").startswith("in time")


FROZEN = """
import os, signal, socket, subprocess, sys, threading
proxy = subprocess.Popen([sys.executable, "-c", {proxy!r}])
while socket.socket().connect_ex(("127.0.0.1", 5673)):
    time.sleep(0.1)
send("before", 0)
proxy.send_signal(signal.SIGSTOP)
# Should the publish hang for as long as the broker is frozen.
threading.Timer({longest}, proxy.send_signal, [signal.SIGCONT]).start()
began = time.monotonic()
try:
    send("frozen", 0)
except TimeUpError:
    pass
print(time.monotonic() - began, flush=True)
proxy.send_signal(signal.SIGCONT)
send("after", 0, patience=30)
proxy.kill()
os._exit(0)
"""


def test_publish_to_a_frozen_broker_ends_while_it_is_frozen(place: Place, broker: Broker, wait_until: Wait) -> None:
    longest = 40
    code = FROZEN.format(proxy=PROXY.format(broker=BROKER), longest=longest)
    assert float(place.python(code, "127.0.0.1:5673")) < longest / 2
    count = f"queues/{broker.name}/pool"
    wait_until(lambda: broker.call("GET", count).get("messages", 0) >= 2, deadline=30, what="the messages")


def test_worker_and_scheduler_can_do_no_more_than_they_need(place: Place) -> None:
    code = """
from scratch_app import app
from kombu.exceptions import OperationalError
with app.connection_for_write() as connection:
    for what in (
        lambda c: c.queue_declare("new", durable=True),
        lambda c: c.exchange_declare("new", "direct"),
        lambda c: c.basic_consume("pool"),
        lambda c: c.basic_get("pool"),
        lambda c: c.queue_purge("pool"),
    ):
        try:
            with connection.channel() as channel:
                what(channel)
            print("allowed")
        except Exception as error:
            print(type(error).__name__)
"""
    assert place.python(code).split() == ["AccessRefused"] * 5
