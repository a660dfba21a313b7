"""Commands on hosts over SSH: one on many at once, or one to talk with; the only module that imports fabric."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import paramiko
from fabric import Config, Connection

from ops_cli.console.errors import ExitCode, OpsError, UsageError
from ops_cli.fleet.conversation import Conversation
from ops_cli.fleet.inventory import Host

# A machine that is down costs the operator at most this long, whichever step of the login it hangs in.
REACH_SECONDS = 4.5
_STEP_SECONDS = 3

# Without a handler of its own paramiko writes tracebacks of failed logins to stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class UnreachableError(OpsError):
    """A host cannot be logged in to, or the line to it was lost."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason or text


@contextmanager
def converse(host: Host, command: str) -> Iterator[Conversation]:
    """Start `command` on one host and talk with it. Raises UnreachableError if it cannot be logged in to."""
    refuse_missing_keys([host])
    connection = _connection(host)
    try:
        connection.open()
        channel = connection.transport.open_session(timeout=_STEP_SECONDS)
        channel.exec_command(command)
    except (OSError, EOFError, paramiko.SSHException) as error:
        connection.close()
        reason = _reason(host, error)
        raise UnreachableError(f"{host.name} ({host.address}) is unreachable: {reason}", reason) from error
    try:
        yield Conversation(host, channel)
    finally:
        connection.close()


def refuse_missing_keys(hosts: Sequence[Host]) -> None:
    """Raise UsageError if a key file of the inventory does not exist."""
    for host in hosts:
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
