"""Tells a keeper's state over HTTP: a program of its own, so that no client reaches the keeper's loop.

`python -I -S listener.py SERVER KEEPER READER...`: two open sockets, and the addresses that may read everything. The
keeper sends what it is, a JSON object a message (report.py), and never waits for an answer; this process ends with it.
Run as a file and with the standard library alone, it holds none of the keeper's memory, passwords or sessions.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import selectors
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MOST_CLIENTS = 64
MOST_BYTES = 8192
PATIENCE_SECONDS = 2.0
# A keeper tells its state every second at least; one that does not is frozen.
SILENCE_SECONDS = 3.0
_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}
_NICENESS = 10

# Status, content type, body.
Answer = tuple[int, str, str]
_GAUGES = {
    "epoch": "Newest epoch that it knows of",
    "ready": "1 if it would take the lease now",
    "renewed_seconds_ago": "Time since its last renewal was sent; 0 as standby",
    "last_failover_seconds": "Lease taken to scheduler started",
    "preloaded": "1 if the scheduler's code is in memory",
}


@dataclass
class Snapshot:
    """What the keeper said last, and when by the monotonic clock, which all processes of a machine share."""

    health: dict[str, Any] = field(default_factory=lambda: {"state": "starting", "ready": False})
    states: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    renewed: float | None = None
    at: float = field(default_factory=time.monotonic)

    def now(self) -> dict[str, Any]:
        """Return the health as it is by now."""
        if (age := time.monotonic() - self.at) > SILENCE_SECONDS:
            return {"state": "silent", "ready": False, "failure": f"the keeper's loop has said nothing for {age:.0f} s"}
        ago = 0.0 if self.renewed is None else time.monotonic() - self.renewed
        return {**self.health, "renewed_seconds_ago": round(ago, 3)}


def answer(request: bytes, said: Snapshot, *, whole: bool) -> Answer:
    """Answer GET /health (200 if active or ready, else 503) and GET /metrics; only in part unless `whole`."""
    words = request.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or words[0] != b"GET":  # noqa: PLR2004
        return 400, "text/plain", "GET /health or /metrics\n"
    if words[1] == b"/health":
        health = said.now()
        well = health["ready"] or health["state"] == "active"
        told = health if whole else {"state": health["state"]}
        return 200 if well else 503, "application/json", json.dumps(told) + "\n"
    if words[1] != b"/metrics":
        return 404, "text/plain", "GET /health or /metrics\n"
    if not whole:
        return 403, "text/plain", "for this machine and the addresses in airflow_scheduler_keeper_readers alone\n"
    return 200, "text/plain; version=0.0.4; charset=utf-8", _metrics(said)


def _metrics(said: Snapshot) -> str:
    health = said.now()
    figures = said.figures | {name: float(health[name]) for name in _GAUGES if name in health}
    states = {f'{{state="{each}"}}': float(health["state"] == each) for each in said.states}
    lines = _metric("state", "gauge", "1 for the state it is in", states)
    for name, text in _GAUGES.items():
        lines += _metric(name, "gauge", text, {"": figures.get(name, 0.0)})
    lines += _metric("failovers_total", "counter", "Leases that it took", {"": figures.get("failovers_total", 0.0)})
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, values: dict[str, float]) -> list[str]:
    full = f"airflow_keeper_{name}"
    head = [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
    return head + [f"{full}{label} {value}" for label, value in values.items()]


def _render(told: Answer) -> bytes:
    status, kind, text = told
    body = text.encode()
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def _address(name: tuple[Any, ...]) -> str:
    """Return the address of a socket's name, an IPv4 one as such even where the socket speaks IPv6."""
    found = ipaddress.ip_address(str(name[0]).partition("%")[0])
    return str(getattr(found, "ipv4_mapped", None) or found)


@dataclass(eq=False)
class _Client:
    connection: socket.socket
    address: str
    whole: bool
    give_up_at: float
    request: bytes = b""
    answer: bytes = b""


class Listener:
    """One request a connection, each with a deadline; when all places are taken, whoever takes most makes room."""

    def __init__(self, server: socket.socket, keeper: socket.socket, readers: frozenset[str]) -> None:
        """`server` listens already; `keeper` brings snapshots."""
        self._server, self._keeper, self._readers = server, keeper, readers
        self._said = Snapshot()
        # In the order in which they came, which is that of their deadlines.
        self._clients: dict[_Client, None] = {}
        self._selector = selectors.DefaultSelector()
        for each in (server, keeper):
            each.settimeout(0)
            self._selector.register(each, selectors.EVENT_READ, each)

    def run(self) -> None:
        """Serve until the keeper is gone."""
        while True:
            ready = {key.data for key, _ in self._selector.select(self._patience())}
            if self._keeper in ready and not self._listen_to_keeper():
                return
            for client in ready & self._clients.keys():
                self._go_on(client)
            if self._server in ready:
                self._accept()
            self._drop_the_slow()

    def _patience(self) -> float | None:
        oldest = next(iter(self._clients), None)
        return None if oldest is None else max(0.0, oldest.give_up_at - time.monotonic())

    def _listen_to_keeper(self) -> bool:
        try:
            while said := self._keeper.recv(65536):
                self._said = Snapshot(**json.loads(said))
        except BlockingIOError:
            return True
        return False

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            for _ in range(MOST_CLIENTS):
                connection, name = self._server.accept()
                self._admit(connection, name)

    def _admit(self, connection: socket.socket, name: tuple[Any, ...]) -> None:
        connection.settimeout(0)
        address = _address(name)
        # Nobody elsewhere can connect from an address of this machine.
        whole = (
            address in self._readers or address == _address(connection.getsockname()) or address in {"127.0.0.1", "::1"}
        )
        if len(self._clients) >= MOST_CLIENTS:
            [(busiest, _)] = Counter(client.address for client in self._clients).most_common(1)
            self._drop(next(client for client in self._clients if client.address == busiest))
        client = _Client(connection, address, whole, time.monotonic() + PATIENCE_SECONDS)
        self._clients[client] = None
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _go_on(self, client: _Client) -> None:
        try:
            done = self._write(client) if client.answer else self._read(client)
        except BlockingIOError:
            return
        except OSError:
            done = True
        if done:
            self._drop(client)

    def _read(self, client: _Client) -> bool:
        data = client.connection.recv(MOST_BYTES)
        client.request += data
        if not data or len(client.request) > MOST_BYTES:
            return True
        if b"\r\n\r\n" not in client.request:
            return False
        client.answer = _render(answer(client.request, self._said, whole=client.whole))
        self._selector.modify(client.connection, selectors.EVENT_WRITE, client)
        return self._write(client)

    @staticmethod
    def _write(client: _Client) -> bool:
        client.answer = client.answer[client.connection.send(client.answer) :]
        return not client.answer

    def _drop_the_slow(self) -> None:
        now = time.monotonic()
        for client in [client for client in self._clients if client.give_up_at <= now]:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client]
        self._selector.unregister(client.connection)
        client.connection.close()


def main(server: str, keeper: str, *readers: str) -> None:
    """Serve until the keeper is gone, giving way to it and its scheduler meanwhile."""
    os.nice(_NICENESS)
    Listener(socket.socket(fileno=int(server)), socket.socket(fileno=int(keeper)), frozenset(readers)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
