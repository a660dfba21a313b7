import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from fabric.testing.base import Command, MockRemote, Session

from ops_cli.console.errors import UsageError
from ops_cli.fleet import ssh as remote
from ops_cli.fleet.inventory import Host


@pytest.fixture
def ssh() -> Iterator[Callable[[Command], Mock]]:
    """Answer one command in place of a host; give its SSH client."""
    mock = MockRemote()

    def expect(command: Command) -> Mock:
        session = Session(commands=[command])
        mock.expect_sessions(session)
        return session.client

    yield expect
    mock.stop()


def host(address: str = "10.0.0.1", **login: str) -> Host:
    return Host("web1", address, "web", user="fleet", port=22, **login)


def test_ask_returns_what_the_command_printed(ssh: Callable[[Command], Mock]) -> None:
    client = ssh(Command("uptime", out=b"up\n"))
    (reply,) = remote.ask([host()], "uptime", timeout_seconds=5)
    assert reply == remote.Reply(host(), reachable=True, stdout="up\n")
    login = client.connect.call_args.kwargs
    assert (login["hostname"], login["username"], login["port"]) == ("10.0.0.1", "fleet", 22)
    assert max(login["timeout"], login["banner_timeout"], login["auth_timeout"]) <= 3


def test_ask_reports_a_command_that_fails_as_the_hosts_error(ssh: Callable[[Command], Mock]) -> None:
    ssh(Command("uptime", err=b"uptime: not found\n", exit=127))
    (reply,) = remote.ask([host()], "uptime", timeout_seconds=5)
    assert (reply.reachable, reply.error) == (True, "uptime: not found")


def test_ask_ends_in_time_when_a_host_hangs_in_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        mute = Host("web1", "127.0.0.1", "web", user="fleet", port=silent.getsockname()[1])
        (reply,) = remote.ask([mute], "uptime", timeout_seconds=5)
    assert (reply.reachable, reply.error) == (False, "no login within 0.2 s")
    assert time.monotonic() - started < 4


def test_ask_names_the_reason_when_nothing_listens() -> None:
    refused = Host("web1", "127.0.0.1", "web", user="fleet", port=1)
    (reply,) = remote.ask([refused], "uptime", timeout_seconds=5)
    assert not reply.reachable
    assert "127.0.0.1" in reply.error


def test_ask_refuses_a_key_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make lab"):
        remote.ask([host(identity_file=str(tmp_path / "none"))], "uptime", timeout_seconds=5)


def test_connection_trusts_the_known_hosts_of_the_inventory_alone(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIJ6gGUlZZHWSiVmyKJu5LZeXMVKNpjkFnnrpQFPbzzgf"
    known.write_text(f"10.0.0.1 ssh-ed25519 {key}\n")
    client = remote._connection(host(known_hosts=str(known))).client  # noqa: SLF001
    assert list(client.get_host_keys()) == ["10.0.0.1"]
    assert type(client._policy).__name__ == "RejectPolicy"  # noqa: SLF001


def test_connection_jumps_through_the_named_hosts() -> None:
    connection = remote._connection(host(jump="a@first,b@second:2222"))  # noqa: SLF001
    assert (connection.gateway.user, connection.gateway.host, connection.gateway.port) == ("b", "second", 2222)
    assert connection.gateway.gateway.host == "first"
