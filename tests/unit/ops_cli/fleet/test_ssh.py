import socket
import time
from pathlib import Path

import pytest

from ops_cli.console.errors import UsageError
from ops_cli.fleet import agent
from ops_cli.fleet import ssh as remote
from ops_cli.fleet.inventory import Host


def host(address: str = "10.0.0.1", **login: str) -> Host:
    return Host("web1", address, "web", user="fleet", port=22, **login)


def test_survey_ends_in_time_when_a_host_hangs_in_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        mute = Host("web1", "127.0.0.1", "web", user="fleet", port=silent.getsockname()[1])
        (reply,) = agent.survey([mute], ["status"], timeout_seconds=5)
    assert (reply.reachable, reply.error) == (False, "no login within 0.2 s")
    assert time.monotonic() - started < 4


def test_survey_names_the_reason_when_nothing_listens() -> None:
    refused = Host("web1", "127.0.0.1", "web", user="fleet", port=1)
    (reply,) = agent.survey([refused], ["status"], timeout_seconds=5)
    assert not reply.reachable
    assert "127.0.0.1" in reply.error


def test_survey_refuses_a_key_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make lab"):
        agent.survey([host(identity_file=str(tmp_path / "none"))], ["status"], timeout_seconds=5)


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
