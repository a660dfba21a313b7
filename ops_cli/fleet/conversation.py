"""A command that runs on a host, and what is said to it and heard from it."""

from collections.abc import Iterator
from threading import Lock
from typing import BinaryIO

import paramiko

from ops_cli.console import hints
from ops_cli.console.errors import OpsError
from ops_cli.fleet.inventory import Host

_BLOCK_BYTES = 1 << 20
_END_SECONDS = 3


class RemoteError(OpsError):
    """A command on a host failed; `status` is its exit code, or -1 if it went silent."""

    def __init__(self, host: Host, status: int, reason: str) -> None:
        super().__init__(f"{host.name}: {hints.of_agent(reason, host.env)}")
        self.host = host
        self.status = status


class Conversation:
    """A command that runs on a host while this side sends and reads lines."""

    def __init__(self, host: Host, channel: paramiko.Channel) -> None:
        self.host = host
        self._channel = channel
        self._sending = Lock()

    @property
    def alive(self) -> bool:
        """Whether the command still runs, as far as this side knows."""
        return not self._channel.closed and not self._channel.exit_status_ready()

    def send(self, line: str) -> None:
        """Send one line. Raises OSError if the command has ended."""
        with self._sending:
            self._channel.sendall(line.encode() + b"\n")

    def say_last(self, line: str) -> None:
        """Send one line, end the command's input and wait until it has ended; a command that is gone is no error."""
        try:
            self.send(line)
            self._channel.shutdown_write()
        except OSError:
            return
        self._channel.status_event.wait(_END_SECONDS)

    def feed(self, source: BinaryIO) -> None:
        """Send all of `source` and end the command's input; a command that ends before says why itself."""
        try:
            while block := source.read(_BLOCK_BYTES):
                self._channel.sendall(block)
            self._channel.shutdown_write()
        except OSError:
            return

    def lines(self, silence_seconds: float) -> Iterator[str]:
        """Yield the lines it prints until it ends. Raises RemoteError after `silence_seconds` without one."""
        self._channel.settimeout(silence_seconds)
        with self._channel.makefile("r") as output:
            try:
                for line in output:
                    yield line.rstrip("\n")
            except TimeoutError:
                raise RemoteError(self.host, -1, f"nothing heard for {silence_seconds:g} s") from None

    def failure(self) -> str:
        """Wait for the end; return what it wrote to stderr, or its exit code, or nothing if it succeeded."""
        status = self._channel.recv_exit_status()
        stderr = self._channel.makefile_stderr("rb").read().decode().strip()
        return (stderr or f"exit code {status}") if status else ""

    def check(self) -> None:
        """Wait for the end. Raises RemoteError if it failed."""
        if reason := self.failure():
            raise RemoteError(self.host, self._channel.recv_exit_status(), reason)
