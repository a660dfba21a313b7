"""Many questions to `ops-agent` on one host over one login: a login costs more than most answers."""

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

from ops_cli.console import hints
from ops_cli.console.errors import OpsError
from ops_cli.fleet import ssh
from ops_cli.fleet.conversation import Conversation, RemoteError
from ops_cli.fleet.inventory import Host

# Runs ops-agent with each line it reads, quoted for a shell, and ends each answer with a line of its own.
_LOOP = 'while IFS= read -r words; do eval "{agent} $words" </dev/null 2>&1; echo "exit $?"; done'
_END = "exit "


class Sessions:
    """Open logins by host; a host that does not answer any more is logged in to again by the next question."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[ExitStack, Conversation]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self._open):
            self._drop(host)

    def ask(self, host: Host, words: str, *, timeout_seconds: float) -> dict[str, Any]:
        """Run `ops-agent` with `words` and return the JSON it prints last.

        Raises UnreachableError, RemoteError if the command fails or goes silent, OpsError if it prints something else.
        """
        try:
            conversation = self._conversation(host)
            conversation.send(words)
            lines, status = _answer(conversation.lines(timeout_seconds))
        except (OSError, RemoteError) as error:
            self._drop(host.name)
            if isinstance(error, RemoteError):
                raise
            raise ssh.UnreachableError(f"{host.name} ({host.address}): the connection was lost: {error}") from error
        if status is None:
            self._drop(host.name)
            raise ssh.UnreachableError(f"{host.name} ({host.address}): the connection was lost")
        if status:
            raise RemoteError(host, status, " ".join(" ".join(lines).split()) or f"exit code {status}")
        try:
            answer: dict[str, Any] = json.loads(lines[-1])
        except (ValueError, IndexError):
            look = hints.ops(host.env, "status")
            raise OpsError(f"{host.name}: ops-agent printed {' '.join(lines)[:80]!r}; type: {look}") from None
        return answer

    def _conversation(self, host: Host) -> Conversation:
        if host.name not in self._open:
            stack = ExitStack()
            # sudo once for all questions; what follows it in AGENT is the command that each of them runs.
            agent = ssh.AGENT.removeprefix("sudo -n ")
            command = f"sudo -n sh -c {shlex.quote(_LOOP.format(agent=agent))}"
            self._open[host.name] = (stack, stack.enter_context(ssh.converse(host, command)))
        return self._open[host.name][1]

    def _drop(self, host: str) -> None:
        if opened := self._open.pop(host, None):
            opened[0].close()


def _answer(lines: Iterator[str]) -> tuple[list[str], int | None]:
    """Read up to the end of one answer; the status is None if the line was cut before."""
    read: list[str] = []
    for line in lines:
        if line.startswith(_END) and line[len(_END) :].isdecimal():
            return read, int(line[len(_END) :])
        read.append(line)
    return read, None
