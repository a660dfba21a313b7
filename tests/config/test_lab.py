"""What the lab decides and refuses, proved without booting a machine."""

import importlib.util
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LAB = ipaddress.IPv4Network("10.77.0.0/24")
ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
lab0 00004D0A 00000000 0001 0 0 0 00FFFFFF 0 0 0
eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0
"""
VPN = "tun0 0000000A 00000000 0001 0 0 0 000000FF 0 0 0\n"


def beside(name: str) -> str:
    """Return a command of this environment's: PATH has it only under make."""
    return str(Path(sys.executable).with_name(name))


def load(role: str, module: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module, ROOT / f"roles/{role}/library/{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    return loaded


host = load("lab_host", "lab_host_probe")
machine = load("lab_machine", "lab_machine")


def test_own_bridge_and_default_route_are_no_conflict() -> None:
    assert host.range_conflicts(ROUTES, LAB, "lab0") == []


def test_foreign_routes_into_the_range_are_conflicts() -> None:
    assert host.range_conflicts(ROUTES, LAB, "lab9") == ["10.77.0.0/24 on lab0"]
    assert host.range_conflicts(ROUTES + VPN, LAB, "lab0") == ["10.0.0.0/8 on tun0"]


def test_loopback_resolvers_are_unusable() -> None:
    text = "search example.org\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n"
    assert host.usable_nameservers(text) == ["192.0.2.1", "fe80::1%eth0"]


def test_firewall_is_opened_only_where_it_drops() -> None:
    docker = "-P INPUT ACCEPT\n-P FORWARD DROP\n-A FORWARD -i lab0 -j ACCEPT\n"
    opened = ["FORWARD -i lab0"]
    assert host.firewall_openings(docker, "lab0") == {"present": opened, "missing": ["FORWARD -o lab0"]}
    assert host.firewall_openings("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n", "lab0") == {"present": [], "missing": []}


def test_machine_without_an_id_is_known() -> None:
    assert host.is_machine_id(f"{'0a' * 16}\n")
    assert not host.is_machine_id("")
    assert not host.is_machine_id("uninitialized\n")


def test_recipe_digest_follows_contents_and_packages(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("one")
    first = host.recipe_digest(tmp_path, ["trixie"])
    assert host.recipe_digest(tmp_path, ["trixie"]) == first
    assert host.recipe_digest(tmp_path, ["trixie", "zstd"]) != first
    (tmp_path / "build").write_text("two")
    assert host.recipe_digest(tmp_path, ["trixie"]) != first


def test_recipe_digest_is_the_same_wherever_the_checkout_lies(tmp_path: Path) -> None:
    before, certificates, after = (tmp_path / name for name in ("a", "certificates", "z"))
    for directory in (before, certificates, after):
        directory.mkdir()
    (certificates / "own.crt").write_text("authority")
    (before / "build").write_text("recipe")
    (after / "build").write_text("recipe")
    assert host.recipe_digest(before, [], certificates) == host.recipe_digest(after, [], certificates)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bash", "/srv/x/lab-machine", "run", "web1", "/dir"], Path("/dir")),
        (["bash", "/srv/x/lab-machine", "run", "web10", "/dir"], None),
        (["bash", "/srv/x/lab-machine", "kill", "web1"], None),
        (["sleep", "300"], None),
    ],
)
def test_only_a_keeper_of_that_name_is_taken_for_the_machines(words: list[str], expected: Path | None) -> None:
    assert machine.kept_directory("\0".join([*words, "/base", "--boot"]).encode(), "web1") == expected


@pytest.mark.parametrize(
    ("bridge", "names", "expected"),
    [
        ("lab0", [], ["web1 of /var/lib/other"]),
        ("lab5", ["web1"], ["web1 of /var/lib/other"]),
        ("lab5", ["web2"], []),
    ],
    ids=["bridge", "name", "neither"],
)
def test_another_labs_machine_is_foreign_by_name_or_bridge(bridge: str, names: list[str], expected: list[str]) -> None:
    keeper = ["bash", "/srv/x/lab-machine", "run", "web1", "/var/lib/other/lab/machines/web1", "--network-bridge=lab0"]
    cmdlines = ["\0".join(words).encode() for words in (keeper, keeper, ["sleep", "300"])]
    assert host.foreign_machines(cmdlines, "/var/lib/airfleet", bridge, names) == expected
    assert host.foreign_machines(cmdlines, "/var/lib/other", bridge, names) == []


def settings(**changed: Any) -> Any:
    values = {"name": "nfs1", "address": "10.77.0.71", "gateway": "10.77.0.1/24", "bridge": "lab0", "base": "/base"}
    return machine.Settings(**values | changed)


def test_machine_gets_a_static_address_and_no_other() -> None:
    unit = machine.network_unit(settings())
    assert "Address=10.77.0.71/24\nGateway=10.77.0.1\n" in unit
    assert "LinkLocalAddressing=no\nIPv6AcceptRA=no\n" in unit


def test_machine_never_gets_the_hosts_clock() -> None:
    options = machine.nspawn_options(settings(), Path("/lab"))
    assert "--drop-capability=CAP_SYS_TIME,CAP_SYS_MODULE" in options
    assert not any(option.startswith("--system-call-filter") for option in options)


def test_share_host_gets_its_bind_and_system_call() -> None:
    binds = [{"source": "/data", "target": "/srv/nfs"}]
    options = machine.nspawn_options(settings(binds=binds, system_calls=["open_by_handle_at"]), Path("/lab"))
    assert {"--bind=/data:/srv/nfs", "--system-call-filter=open_by_handle_at"} <= set(options)


def test_lab_addresses_are_unique_and_on_the_bridge() -> None:
    command = [beside("ansible-inventory"), "-i", "inventories/lab", "--list"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    hosts = json.loads(listing)["_meta"]["hostvars"]
    addresses = [ipaddress.IPv4Address(host["ansible_host"]) for host in hosts.values()]
    assert len(set(addresses)) == len(addresses) >= 12
    assert all(address in LAB for address in addresses)
    assert all(re.fullmatch("[a-z][a-z0-9-]{0,11}", name) for name in hosts)


def refuse(tmp_path: Path, **variables: object) -> str:
    """Run create-lab where it cannot work, in a directory of its own, and return why it refused."""
    extra = {"lab_host_root": str(tmp_path / "lab"), "lab_host_bridge": "lab7", "lab_host_address": "10.79.0.1/24"}
    command = [beside("ansible-playbook"), "-e", json.dumps(extra | variables), "ansible/playbooks/create-lab.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0, done.stdout
    assert not (tmp_path / "lab").exists()
    assert not Path("/sys/class/net/lab7").exists()
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="the lab is root's")
def test_small_host_is_refused_with_every_reason_before_any_change(tmp_path: Path) -> None:
    said = refuse(tmp_path, lab_host_memory_min_mb=10**9, lab_host_disk_min_mb=10**12)
    assert "too little memory" in said
    assert "too little disk" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="the lab is root's")
def test_range_of_the_hosts_own_network_is_refused(tmp_path: Path) -> None:
    routes = host.parse_routes(Path("/proc/net/route").read_text())
    device, network = next((device, net) for device, net in routes if not device.startswith("lab"))
    said = refuse(tmp_path, lab_host_address=f"{network[1]}/{network.prefixlen}")
    assert f"overlaps {network} on {device}" in " ".join(said.split())


def test_user_without_root_is_told_to_use_sudo() -> None:
    # Read by us: the checkout may lie in a directory that the other user may not enter, such as root's home.
    command = ["setpriv", "--reuid=65534", "--clear-groups", "bash", "-s", "lab-up", "true"]
    script = (ROOT / "bin/lab-lock").read_text()
    done = subprocess.run(command, input=script, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "type sudo make lab-up" in done.stderr


def test_proxy_script_kills_no_stranger(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "apt-proxy.pid").write_text(str(stranger.pid))
        command = [f"{ROOT}/roles/lab_host/files/apt-proxy", "stop", str(tmp_path), str(tmp_path)]
        subprocess.run(command, check=True)
        assert stranger.poll() is None
        stranger.kill()


def test_listens_tells_an_open_port_from_a_closed_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert host.listens("127.0.0.1", port)
    assert not host.listens("127.0.0.1", port)
