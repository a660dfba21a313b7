"""The keeper's local HTTP endpoint, served from its own loop: a thread would not survive the fork."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Path to (status, content type, body).
Answer = tuple[int, str, bytes]

_MOST_CLIENTS = 16
_MOST_BYTES = 8192
_PATIENCE_SECONDS = 2.0
_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request = b""
        self.answer = b""
        self.give_up_at = time.monotonic() + _PATIENCE_SECONDS


class Endpoint:
    """One request a connection, GET only, answers small enough to be made at once."""

    def __init__(self, address: str, port: int, answer: Callable[[str], Answer]) -> None:
        """Listen at once; `answer` is asked with the path. Raises OSError."""
        self._answer = answer
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._server = socket.create_server((address, port), family=family, backlog=_MOST_CLIENTS)
        self._server.settimeout(0)
        self._clients: dict[int, _Client] = {}

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.getsockname()[1])

    def files(self) -> tuple[list[int], list[int]]:
        """Return what to watch for reading and for writing."""
        self._drop_the_slow()
        reading = [number for number, client in self._clients.items() if not client.answer]
        writing = [number for number, client in self._clients.items() if client.answer]
        return [self._server.fileno(), *reading], writing

    def all_files(self) -> list[int]:
        """Return every socket."""
        return [self._server.fileno(), *self._clients]

    def serve(self, ready: set[int]) -> None:
        """Go on with those of its files that are ready."""
        if self._server.fileno() in ready and len(self._clients) < _MOST_CLIENTS:
            with contextlib.suppress(OSError):
                connection, _ = self._server.accept()
                connection.settimeout(0)
                self._clients[connection.fileno()] = _Client(connection)
        for number in ready & self._clients.keys():
            try:
                done = self._go_on(self._clients[number])
            except OSError:
                done = True
            if done:
                self._clients.pop(number).connection.close()

    def _go_on(self, client: _Client) -> bool:
        if not client.answer:
            data = client.connection.recv(_MOST_BYTES)
            client.request += data
            if not data or len(client.request) > _MOST_BYTES:
                return True
            if b"\r\n\r\n" not in client.request:
                return False
            words = client.request.split(None, 2)
            path = words[1].decode("latin-1") if words[0] == b"GET" and len(words) > 1 else ""
            client.answer = _render(self._answer(path))
        client.answer = client.answer[client.connection.send(client.answer) :]
        return not client.answer

    def _drop_the_slow(self) -> None:
        now = time.monotonic()
        for number in [number for number, client in self._clients.items() if client.give_up_at < now]:
            self._clients.pop(number).connection.close()


def _render(answer: Answer) -> bytes:
    status, kind, body = answer
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
