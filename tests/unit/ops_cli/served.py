"""What a login would run, run here: the real `ops-agent serve`, over sockets in place of SSH."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ops_cli.fleet.conversation import Conversation
from ops_cli.fleet.inventory import Host

if TYPE_CHECKING:
    import paramiko

ROOT = Path(__file__).resolve().parents[3]
_END_SECONDS = 60

# What serves: the loop of ops-agent, with a test's own `main` for the verbs.
LOOP = """
import sys
from argparse import Namespace
from ops_agent.verbs import serve
{verbs}
sys.exit(serve.run(Namespace(main=main, settings="/etc/x")))
"""


class Channel:
    """As much of paramiko's as a conversation uses."""

    def __init__(self, words: Sequence[str]) -> None:
        (self.input, read), (self.output, written) = socket.socketpair(), socket.socketpair()
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=read, stdout=written, stderr=subprocess.PIPE)
        for theirs in (read, written):
            theirs.close()
        self.closed = False
        self.status_event = Event()
        self.sendall = self.input.sendall

    def settimeout(self, seconds: float) -> None:
        for line in (self.input, self.output):
            line.settimeout(seconds)

    def makefile(self, mode: str) -> BinaryIO:
        return cast("BinaryIO", self.output.makefile(cast("Any", mode)))

    def makefile_stderr(self, _mode: str) -> BinaryIO:
        assert self.process.stderr
        return cast("BinaryIO", self.process.stderr)

    def exit_status_ready(self) -> bool:
        return self.process.poll() is not None

    def recv_exit_status(self) -> int:
        # As paramiko has it where the line was cut.
        return max(-1, self.process.wait(_END_SECONDS))

    def shutdown_write(self) -> None:
        self.input.shutdown(socket.SHUT_WR)
        self.process.wait(_END_SECONDS)
        self.status_event.set()

    def close(self) -> None:
        self.closed = True
        self.input.close()
        self.output.close()
        self.process.kill()
        self.process.wait(_END_SECONDS)
        if self.process.stderr:
            self.process.stderr.close()


class Logins:
    """Stands for `ssh.converse`: each login starts `words`; all are kept, the last one last."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.made: list[Channel] = []
        self.hosts: list[str] = []
        self.commands: set[str] = set()

    @contextmanager
    def converse(self, host: Host, command: str) -> Iterator[Conversation]:
        self.commands.add(command)
        self.hosts.append(host.name)
        channel = Channel(self.words)
        self.made.append(channel)
        try:
            yield Conversation(host, cast("paramiko.Channel", channel))
        finally:
            channel.close()


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]
