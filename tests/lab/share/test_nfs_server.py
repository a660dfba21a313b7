"""The share's server: what it speaks, and what of the kernel's server can be tested where the kernel has none."""

import re
import socket
import struct
from pathlib import Path

import pytest
import yaml
from testinfra.host import Host as Machine

from tests.config import plays

testinfra_hosts = ["ansible://share"]

NFS_PROGRAM, PROGRAM_MISMATCH, SUCCESS = 100003, 2, 0


@pytest.fixture
def address(host: Machine) -> str:
    return str(host.check_output("hostname -I").split()[0])


def null_call(address: str, version: int) -> tuple[int, ...]:
    """Call procedure NULL of NFS by TCP and return accept_stat and what follows it (RFC 5531)."""
    call = struct.pack(">10I", 17, 0, 2, NFS_PROGRAM, version, 0, 0, 0, 0, 0)
    with socket.create_connection((address, 2049), timeout=10) as connection:
        connection.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
        reply = connection.recv(4096)
    # fragment header, xid, REPLY, accepted, empty verifier (two words), then the answer
    return struct.unpack(f">{len(reply) // 4}I", reply)[6:]


def test_server_runs_now_and_at_boot(host: Machine) -> None:
    unit = host.check_output(
        "systemctl list-unit-files --state=enabled --no-legend 'nfs-ganesha.service' 'nfs-server.service'"
    )
    assert len(unit.splitlines()) == 1
    assert host.service(unit.split()[0].removesuffix(".service")).is_running


def test_server_speaks_version_4(address: str) -> None:
    assert null_call(address, 4) == (SUCCESS,)


@pytest.mark.parametrize("version", [2, 3])
def test_server_refuses_older_versions(address: str, version: int) -> None:
    assert null_call(address, version) == (PROGRAM_MISMATCH, 4, 4)


def test_no_unit_failed(host: Machine) -> None:
    assert host.check_output("systemctl --failed --no-legend") == ""


def test_server_opens_one_port(host: Machine) -> None:
    ports = {line.split()[3].rpartition(":")[2] for line in host.check_output("ss -Hltn").splitlines()}
    assert ports <= {"22", "2049"}


def test_directory_is_the_publishers_to_write_and_the_groups_to_read(host: Machine) -> None:
    directory = host.file("/srv/nfs/dags")
    assert (directory.user, directory.group, directory.mode) == ("dagpublisher", "airflow", 0o2755)


def test_exports_of_the_kernels_server_are_read_by_exportfs(host: Machine, tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    defaults = yaml.safe_load((plays.ROOT / "roles/nfs_server/defaults/main.yml").read_text())
    plays.run(
        [plays.play("nfs1", defaults, plays.template("roles/nfs_server/templates/airfleet.exports.j2", exports))],
        tmp_path,
    )
    # exportfs needs no kernel to read a file; in a mount namespace of its own it leaves nothing behind.
    table = host.check_output(
        "set -e; cd $(mktemp -d); chmod 755 .; apt-get -q download nfs-kernel-server >&2; dpkg -x *.deb .\n"
        "mkdir -p /etc/exports.d /var/lib/nfs\n"
        "test -e /etc/exports || { touch /etc/exports; trap 'rm /etc/exports' EXIT; }\n"
        "unshare -m sh -ec 'for d in /etc/exports.d /var/lib/nfs; do mount -t tmpfs none $d; done\n"
        "cat > /etc/exports.d/airfleet.exports; usr/sbin/exportfs -ra; cat /var/lib/nfs/etab'"
        f" <<'END'\n{exports.read_text()}END"
    )
    access = dict(re.findall(r"^/srv/nfs/dags\t([0-9.]+)\((r[ow]),.*?,secure,root_squash,", table, re.MULTILINE))
    assert {address for address, kind in access.items() if kind == "rw"} == {"10.77.0.31"}
    assert len(access) == 8
