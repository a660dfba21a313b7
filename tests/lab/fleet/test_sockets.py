"""Every machine listens for what its tier is for, on its own address or the loopback, and for nothing else."""

import re
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://fleet"]

# What may listen, by protocol and port, and where a machine of that tier listens for it.
TIERS: dict[str, set[str]] = {
    "lb": {"tcp 8080", "tcp 8081", "tcp 8404"},
    "web": {"tcp 8080"},
    "scheduler": {"tcp 8976", "tcp 8794"},
    "worker": {"tcp 8793"},
    "broker": {"tcp 5672", "tcp 15672", "tcp 15692", "tcp 25672", "tcp 4369"},
    "database": {"tcp 5432", "tcp 6432"},
    "share": {"tcp 2049", "udp 2049"},
}
EVERYWHERE = {
    # Operators come from networks that the fleet does not know.
    "tcp 22",
    # ganesha ignores Bind_Addr, and is the lab's alone; the kernel's server has `host`.
    "tcp 2049",
    "udp 2049",
    # Airflow's log servers take no address; whoever asks must sign.
    "tcp 8793",
    "tcp 8794",
}


def _sockets(host: Host) -> set[tuple[str, str]]:
    """Return (protocol and port, address) of every listening socket."""
    lines = host.check_output("ss -Htuln").splitlines()
    fields = [line.split() for line in lines]
    return {(f"{protocol} {at.rpartition(':')[2]}", at.rpartition(":")[0]) for protocol, _, _, _, at, *_ in fields}


@pytest.fixture
def own(host: Host, inventory: Any) -> Any:
    name = host.check_output("hostname")
    return next(known for known in inventory.hosts if known.name == name)


def test_machine_listens_for_its_tier_alone(host: Host, own: Any) -> None:
    found = {port for port, _ in _sockets(host)}
    assert "tcp 22" in found
    assert found <= TIERS[own.tier] | {"tcp 22"}


def test_sockets_are_on_the_machines_own_address(host: Host, own: Any) -> None:
    open_to_all = {
        f"{port} on {address}"
        for port, address in _sockets(host)
        if port not in EVERYWHERE and address != own.address and not re.fullmatch(r"127\.[\d.]+(%lo)?|\[::1\]", address)
    }
    assert open_to_all == set()
