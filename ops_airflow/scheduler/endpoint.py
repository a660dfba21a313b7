"""The keeper's end of its HTTP endpoint: it tells a process of its own what to say, and never waits for it."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from ops_airflow.scheduler import listener

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("ops_airflow.endpoint")

_BACKLOG = 1024


class Endpoint:
    """The listening socket, and the process that serves it (listener.py)."""

    def __init__(self, address: str, port: int, readers: Sequence[str]) -> None:
        """Listen and serve at once; `readers` are addresses that may read everything. Raises OSError."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # Kept here for the next process should this one end; nobody accepts from it here.
        self._server = socket.create_server((address, port), family=family, backlog=_BACKLOG)
        self._readers = readers
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.getsockname()[1])

    @property
    def pid(self) -> int:
        """The serving process, 0 if there is none."""
        return self._process.pid if self._process else 0

    def all_files(self) -> list[int]:
        """Return every descriptor that a fork must not keep."""
        return [self._server.fileno(), *([self._channel.fileno()] if self._channel else [])]

    def tell(self, said: bytes) -> None:
        """Hand over what is to be told from now on. What does not fit is dropped: more will follow."""
        if self._channel:
            with contextlib.suppress(OSError):
                self._channel.send(said)

    def tend(self) -> None:
        """Start the process anew if it has ended."""
        if self._process and self._process.poll() is None:
            return
        if self._process:
            log.warning("the endpoint's process ended with %s: starting another", self._process.returncode)
        try:
            self._start()
        except OSError as error:
            log.warning("the endpoint cannot be served: %s", error)

    def close(self) -> None:
        """Listen no longer; the process ends by itself."""
        self._server.close()
        if self._channel:
            self._channel.close()
        if self._process:
            self._process.wait()

    def _start(self) -> None:
        if self._channel:
            self._channel.close()
        # Messages, an end that is noticed when either side dies, and a full buffer that is an error rather than a wait.
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(0)
        with theirs:
            files = (self._server.fileno(), theirs.fileno())
            words = [sys.executable, "-I", "-S", listener.__file__, *map(str, files), *self._readers]
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=files, env={}, process_group=0)
