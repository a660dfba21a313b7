"""A command that runs on a host, and what is said to it and heard from it."""

from collections.abc import Iterator
from threading import Lock
from typing import BinaryIO

import paramiko

from ops_cli.console import hints
from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.fleet.inventory import Host

_BLOCK_BYTES = 1 << 20
_END_SECONDS = 3


SILENT = -1


class RemoteError(OpsError):
    """A command on a host failed; `status` is its exit code, or SILENT if nothing was heard of it for too long."""

    def __init__(self, host: Host, status: int, reason: str) -> None:
        self.reason = hints.of_agent(reason, host.env)
        super().__init__(f"{host.name}: {self.reason}")
        self.host = host
        self.status = status
        if status == ExitCode.USAGE:
            self.exit_code = ExitCode.USAGE


class Conversation:
    """A command that runs on a host while this side sends and reads lines."""

    def __init__(self, host: Host, channel: paramiko.Channel) -> None:
        self.host = host
        self._channel = channel
        self._sending = Lock()
        # One reader to the end: it may have read more than was asked of it.
        self._output = channel.makefile("rb")

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
        """Send all of `source`. Raises OSError if the command has ended."""
        while block := source.read(_BLOCK_BYTES):
            self._channel.sendall(block)

    def lines(self, silence_seconds: float) -> Iterator[str]:
        """Return the lines it prints until it ends; from here on nothing waits longer than `silence_seconds`.

        To read one raises RemoteError after so long.
        """
        self._channel.settimeout(silence_seconds)
        return self._lines(silence_seconds)

    def _lines(self, silence_seconds: float) -> Iterator[str]:
        try:
            while line := self._output.readline():
                yield line.decode(errors="replace").rstrip("\n")
        except TimeoutError:
            raise RemoteError(self.host, SILENT, f"no answer within {silence_seconds:g} s") from None

    def failure(self) -> str:
        """Wait for the end; return what it wrote to stderr, or its exit code, or nothing if the line was lost."""
        status = self._channel.recv_exit_status()
        stderr = self._channel.makefile_stderr("rb").read().decode(errors="replace").strip()
        return stderr or (f"exit code {status}" if status > 0 else "")
