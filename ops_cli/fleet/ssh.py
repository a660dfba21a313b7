"""Commands on hosts over SSH: one on many at once, or one to talk with; the only module that imports fabric."""

import io
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO

import paramiko
from fabric import Config, Connection
from invoke.exceptions import CommandTimedOut

from ops_cli.console.errors import ExitCode, OpsError, UsageError
from ops_cli.fleet.conversation import Conversation
from ops_cli.fleet.inventory import Host

AGENT = "sudo -n /usr/local/bin/ops-agent"

# A machine that is down costs the operator at most this long, whichever step of the login it hangs in.
REACH_SECONDS = 4.5
_STEP_SECONDS = 3

# Without a handler of its own paramiko writes tracebacks of failed logins to stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Reply:
    """What a host said: its output, or why there is none."""

    host: Host
    reachable: bool
    stdout: str = ""
    error: str = ""


def ask(hosts: Sequence[Host], command: str, *, timeout_seconds: float) -> list[Reply]:
    """Run `command` on every host in parallel and return the replies in the order of `hosts`.

    A host that cannot be logged in to within REACH_SECONDS is unreachable; one that was reached has
    `timeout_seconds` more. Raises UsageError if a key file of the inventory does not exist.
    """
    for host in hosts:
        _refuse_missing_key(host)
    calls = [_Call(host, command, timeout_seconds) for host in hosts]
    started = time.monotonic()
    for call in calls:
        # Daemons: a thread stuck in a dead connection must not keep the command from ending.
        Thread(target=call.run, daemon=True).start()
    return [call.collect(started) for call in calls]


class UnreachableError(OpsError):
    """A host cannot be logged in to."""

    exit_code = ExitCode.UNREACHABLE


@contextmanager
def converse(host: Host, command: str) -> Iterator[Conversation]:
    """Start `command` on one host and talk with it. Raises UnreachableError if it cannot be logged in to."""
    _refuse_missing_key(host)
    connection = _connection(host)
    try:
        connection.open()
        channel = connection.transport.open_session(timeout=_STEP_SECONDS)
        channel.exec_command(command)
    except (OSError, EOFError, paramiko.SSHException) as error:
        connection.close()
        raise UnreachableError(f"{host.name} ({host.address}) is unreachable: {_reason(host, error)}") from error
    try:
        yield Conversation(host, channel)
    finally:
        connection.close()


def stream(host: Host, command: str, *, stdin: BinaryIO | None = None, timeout_seconds: float) -> Iterator[str]:
    """Run `command` on one host and yield the lines it prints, as they come.

    `timeout_seconds` is the longest silence between two lines. Raises UnreachableError, and RemoteError if the command
    fails or goes silent.
    """
    with converse(host, command) as conversation:
        conversation.feed(stdin or io.BytesIO())
        yield from conversation.lines(timeout_seconds)
        conversation.check()


class _Call:
    def __init__(self, host: Host, command: str, timeout_seconds: float) -> None:
        self.host = host
        self.connection = _connection(host)
        self.command = command
        self.timeout_seconds = timeout_seconds
        self.login_over = Event()
        self.over = Event()
        self.reply = Reply(host, reachable=True, error=f"no answer within {timeout_seconds:g} s")

    def run(self) -> None:
        try:
            self._run()
        finally:
            self.login_over.set()
            self.over.set()

    def _run(self) -> None:
        try:
            self.connection.open()
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.reply = Reply(self.host, reachable=False, error=_reason(self.host, error))
            return
        self.login_over.set()
        try:
            done = self.connection.run(
                self.command, hide=True, warn=True, in_stream=False, encoding="utf-8", timeout=self.timeout_seconds
            )
        except CommandTimedOut:
            return
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.reply = Reply(self.host, reachable=False, error=_reason(self.host, error))
            return
        finally:
            self.connection.close()
        failure = "" if done.ok else done.stderr.strip() or f"exit code {done.exited}"
        self.reply = Reply(self.host, reachable=True, stdout=done.stdout, error=failure)

    def collect(self, started: float) -> Reply:
        if not self.login_over.wait(max(0, started + REACH_SECONDS - time.monotonic())):
            return Reply(self.host, reachable=False, error=f"no login within {REACH_SECONDS:g} s")
        # Fabric's own timeout comes first, unless the connection itself hangs.
        self.over.wait(self.timeout_seconds + 0.5)
        return self.reply


def _refuse_missing_key(host: Host) -> None:
    if host.identity_file and not Path(host.identity_file).expanduser().is_file():
        raise UsageError(
            f"{host.name}: its SSH key {host.identity_file} does not exist; "
            "for the lab type: make lab; elsewhere set ansible_ssh_private_key_file"
        )


def _connection(host: Host) -> Connection:
    config = Config(runtime_ssh_path=host.ssh_config)
    options: dict[str, object] = {"banner_timeout": _STEP_SECONDS, "auth_timeout": _STEP_SECONDS}
    if host.identity_file:
        options |= {
            "key_filename": str(Path(host.identity_file).expanduser()),
            "allow_agent": False,
            "look_for_keys": False,
        }
    gateway = None
    for jump in (host.jump or "").split(","):
        if jump:
            gateway = _strict(host, Connection(jump, config=config, gateway=gateway, connect_kwargs=options))
    connection = Connection(
        host.address,
        user=host.user,
        port=host.port,
        config=config,
        gateway=gateway,
        connect_timeout=_STEP_SECONDS,
        connect_kwargs=options,
    )
    return _strict(host, connection)


def _strict(host: Host, connection: Connection) -> Connection:
    if host.known_hosts:
        known_hosts = Path(host.known_hosts).expanduser()
        if known_hosts.is_file():
            connection.client.load_host_keys(str(known_hosts))
    else:
        connection.client.load_system_host_keys()
    # Fabric's default accepts and remembers any key.
    connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
    return connection


def _reason(host: Host, error: Exception) -> str:
    where = host.known_hosts or "~/.ssh/known_hosts"
    if isinstance(error, paramiko.BadHostKeyException):
        return f"its host key is not the one in {where}"
    if isinstance(error, paramiko.AuthenticationException):
        return f"it refuses {host.user or 'this user'}'s key"
    if "not found in known_hosts" in str(error):
        return f"its host key is not in {where}"
    if isinstance(error, TimeoutError):
        return f"no answer on port {host.port or 22} within {_STEP_SECONDS} s"
    return str(error) or type(error).__name__
