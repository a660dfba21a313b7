"""What a task, root of another host and root of the share's server can do with DAG code: nothing that a host takes."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testinfra.host import Host as Machine

from ops_cli.fleet import inventory as inventories

testinfra_hosts = ["ansible://worker-cpu1"]

SHARE = "/srv/nfs/dags"
# Calls itself whoever it likes, from whatever port it gets, as a task could with a client of its own.
SPOOF = """
import ctypes, os, sys
sys.path.insert(0, "/usr/local/lib/airfleet/nfs")
from libnfs import LIBRARY
nfs = LIBRARY.nfs_init_context()
LIBRARY.nfs_set_version(nfs, 4)
LIBRARY.nfs_set_autoreconnect(nfs, 0)
LIBRARY.nfs_set_uid(nfs, int(sys.argv[2]))
LIBRARY.nfs_set_gid(nfs, int(sys.argv[2]))
handle, path = ctypes.c_void_p(), f"/forged-{os.getpid()}".encode()
done = LIBRARY.nfs_mount(nfs, sys.argv[1].encode(), b"/srv/nfs/dags")
done = done or LIBRARY.nfs_open2(nfs, path, os.O_WRONLY | os.O_CREAT, 0o644, ctypes.byref(handle))
if not done:
    LIBRARY.nfs_close(nfs, handle)
    LIBRARY.nfs_unlink(nfs, path)
print("wrote" if not done else (LIBRARY.nfs_get_error(nfs) or b"").decode())
"""
TASK = "setpriv --reuid {uid} --regid {uid} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"


def spoof(machine: Machine, server: str, claimed: int, uid: int) -> str:
    """Return what the server says to a process of a user that says it is another."""
    command = f"{TASK.format(uid=uid) if uid else ''} timeout 60 python3 -c %s %s %s"
    return str(machine.check_output(command, SPOOF, server, str(claimed))).strip()


@pytest.fixture
def server(inventory: inventories.Inventory) -> str:
    return inventory.tier("share")[0].address


@pytest.fixture
def speaks(host: Machine) -> None:
    if not host.file("/usr/local/lib/airfleet/nfs/libnfs.py").exists:
        pytest.skip("this kernel mounts NFS itself, so nothing here speaks it without root")


@pytest.mark.usefixtures("speaks")
@pytest.mark.parametrize("claimed", [5000, 5001, 0])
@pytest.mark.parametrize("name", ["worker-cpu1", "sched1"])
def test_task_is_refused_whoever_it_says_it_is(
    machine: Callable[[str], Machine], server: str, name: str, claimed: int
) -> None:
    # Ganesha does not even admit to the export, the kernel's server forbids it.
    said = spoof(machine(name), server, claimed, uid=5000)
    assert "NFS4ERR_NOENT" in said or "NFS4ERR_PERM" in said, said


@pytest.mark.usefixtures("speaks")
def test_root_of_a_host_that_does_not_publish_cannot_write_as_the_publisher(host: Machine, server: str) -> None:
    assert "NFS4ERR_ROFS" in spoof(host, server, 5001, uid=0)


@pytest.mark.usefixtures("speaks")
def test_publisher_writes(machine: Callable[[str], Machine], server: str) -> None:
    assert spoof(machine("sched1"), server, 5001, uid=0) == "wrote"


@pytest.fixture
def current(machine: Callable[[str], Machine]) -> Iterator[str]:
    """Give the release that serves; it does again afterwards."""
    nfs = machine("nfs1")
    release = str(nfs.check_output(f"readlink {SHARE}/current"))
    yield release.removeprefix("releases/")
    # By rename, as the publisher does.
    nfs.check_output(f"ln -sfn {release} {SHARE}/again && mv -T {SHARE}/again {SHARE}/current")


@pytest.fixture
def forged(machine: Callable[[str], Machine], current: str) -> Iterator[str]:
    """Give the id of a release that root of the server made, out of a signed one, and made current."""
    nfs, made = machine("nfs1"), f"20991231T235959Z-{current.partition('-')[2]}"
    folder = f"{SHARE}/releases/{made}"
    nfs.check_output(f"cp -a {SHARE}/releases/{current} {folder} && sed -i s/{current}/{made}/ {folder}/manifest.json")
    yield made
    nfs.check_output(f"rm -rf {folder}")


def test_forged_release_is_materialised_by_no_host_and_status_says_so(  # noqa: PLR0913, PLR0917 - fixtures
    machine: Callable[[str], Machine],
    inventory: inventories.Inventory,
    current: str,
    forged: str,
    ops: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    hosts = [machine(name) for name in inventory.groups["airflow"]]
    for one in hosts:
        refused = one.run("ops-agent release warm %s", forged)
        assert refused.rc == 1
        assert f"release {forged} is not signed by a key that this host trusts" in refused.stderr
    flipped = machine("sched1").run("ops-agent release flip %s", forged)
    assert (flipped.rc, "is not signed by a key" in flipped.stderr) == (1, True)
    machine("nfs1").check_output(f"ln -sfn releases/{forged} {SHARE}/again && mv -T {SHARE}/again {SHARE}/current")

    def told() -> bool:
        problems = ops("status", "--format", "json").json()["problems"]
        return any(
            f"the current release is refused: release {forged} is not signed by a key" in one for one in problems
        )

    wait_until(told, deadline=60, what="ops status to say so", every=2)
    scheduler = machine("sched1")

    def serving() -> Any:
        return json.loads(scheduler.check_output("ops-agent release status"))["dag_processor"]

    wait_until(lambda: forged in serving()["problem"], deadline=60, what="the dag-processor to refuse it")
    assert serving()["release"] == current
    assert not any(one.file(f"/var/cache/airflow/releases/{forged}").exists for one in hosts)
