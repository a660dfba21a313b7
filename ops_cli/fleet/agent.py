"""Runs a verb of `ops-agent` that prints JSON lines on one host; the last line is its result."""

import getpass
import io
import json
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.text import Text

from ops_cli.console import hints
from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.console.tables import console
from ops_cli.fleet import ssh
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host
from ops_cli.fleet.lock import LockHeldError

Line = dict[str, Any]

# Between two lines: counting a large table before the first is one statement.
_SILENCE_SECONDS = 900


def lines(host: Host, words: Sequence[str], *, stdin: str = "") -> Iterator[Line]:
    """Run `ops-agent` with `words` and give the objects it prints.

    A check that failed is no error: what it found is in the last line. Raises LockHeldError if another is at work,
    OpsError if the verb fails or prints something else, UnreachableError if the host cannot be logged in to.
    """
    command = f"{ssh.AGENT} {shlex.join(words)}"
    try:
        for line in ssh.stream(host, command, stdin=io.BytesIO(stdin.encode()), timeout_seconds=_SILENCE_SECONDS):
            yield _read(host, line)
    except RemoteError as error:
        if error.status != ExitCode.CHECK_FAILED:
            raise meaning(error) from error


def result(host: Host, words: Sequence[str], *, stdin: str = "", tell: Callable[[Line], str] = lambda _: "") -> Line:
    """Run a verb to its end and return its last line; what `tell` makes of the others is shown on a terminal."""
    last: Line | None = None
    with console(stderr=True).status(Text(f"{host.name}: {words[0]}"), spinner="line") as status:
        for line in lines(host, words, stdin=stdin):
            if "event" not in line:
                last = line
            elif text := tell(line):
                status.update(Text(text))
    if last is None:
        raise OpsError(f"{host.name}: ops-agent {words[0]} ended without a result; look at its journal")
    return last


def meaning(error: RemoteError) -> OpsError:
    """Say what an agent's failure means to the operator."""
    reason = str(error).replace("ops-agent: ", "")
    if error.status == ExitCode.LOCKED:
        return LockHeldError(f"{reason}; wait until it is over, then type the command again")
    if "invalid choice" in reason or "command not found" in reason:
        repair = hints.playbook(error.host.env, "--tags ops_agent,metadata_archive")
        return OpsError(f"{reason.splitlines()[-1]}; the host's ops-agent is another version: type {repair}")
    return OpsError(reason)


def who() -> str:
    """Return who types, and where, as locks and archives name them."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _read(host: Host, line: str) -> Line:
    try:
        found = json.loads(hints.of_agent(line, host.env))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise OpsError(f"{host.name}: ops-agent printed {line[:80]!r}, which is no answer")
    return found
