"""The share as the fleet sees it: mounted everywhere, read by Airflow, written by the publisher alone."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from testinfra.host import Host as Machine

from ops_cli.fleet import inventory as inventories

testinfra_hosts = ["ansible://airflow"]

SHARE = "/srv/airflow/dags"
UNIT = "srv-airflow-dags.mount"
# Reads what the page cache does not hold, six seconds long, and prints the longest wait.
READER = """
import os, sys, time
fd, worst = os.open(sys.argv[1], os.O_RDONLY), 0.0
for _ in range(30):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.monotonic()
    assert os.pread(fd, 64, 0) == b'seventeen\\n'
    worst = max(worst, time.monotonic() - start)
    time.sleep(0.2)
print(worst)
"""


@pytest.fixture
def publisher(machine: Callable[[str], Machine]) -> Machine:
    return machine("sched1")


@pytest.fixture
def folder(publisher: Machine) -> Iterator[str]:
    """Yield a folder on the share that holds `dag.py`, as published."""
    path = f"{SHARE}/lab-test-{secrets.token_hex(4)}"
    publish(publisher, f"mkdir {path} && echo seventeen > {path}/dag.py")
    yield path
    publish(publisher, f"rm -r {path}")


def publish(machine: Machine, script: str) -> str:
    return str(machine.check_output("runuser -u dagpublisher -- sh -ec %s", script))


def test_share_is_mounted_now_and_at_boot(host: Machine) -> None:
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled
    mount = host.check_output(f"findmnt -no SOURCE,FSTYPE {SHARE}").split()
    assert mount[0] == "10.77.0.71:/srv/nfs/dags"
    assert mount[1] in {"nfs4", "fuse.nfs4"}


def test_service_user_reads_and_cannot_write(host: Machine, folder: str) -> None:
    assert host.check_output(f"runuser -u airflow -- cat {folder}/dag.py") == "seventeen"
    for command in (f"touch {folder}/mine", f"rm {folder}/dag.py", f"mv {folder} {folder}-mine", f"mkdir {SHARE}/mine"):
        refused = host.run(f"runuser -u airflow -- {command}")
        assert refused.rc != 0
        assert "Permission denied" in refused.stderr


def test_root_is_squashed_on_the_publisher_too(host: Machine, publisher: Machine, folder: str) -> None:
    publish(publisher, f"echo secret > {folder}/private && chmod 600 {folder}/private")
    assert host.run(f"cat {folder}/private").rc != 0
    assert host.run(f"touch {folder}/of_root").rc != 0
    assert host.run(f"chown airflow {folder}/dag.py").rc != 0


def test_publishers_user_writes_on_the_publisher_alone(host: Machine, publisher: Machine, folder: str) -> None:
    written = host.run(f"runuser -u dagpublisher -- touch {folder}/more")
    if host.backend.get_pytest_id() == publisher.backend.get_pytest_id():
        assert written.rc == 0
    else:
        assert written.rc != 0
        assert "Read-only file system" in written.stderr


def test_publisher_flips_a_link_and_the_fleet_sees_it_within_two_seconds(
    publisher: Machine,
    folder: str,
    inventory: inventories.Inventory,
    machine: Callable[[str], Machine],
    wait_until: Callable[..., Any],
) -> None:
    publish(publisher, f"mkdir {folder}/one {folder}/two && ln -s one {folder}/current")
    readers = [machine(name) for name in inventory.groups["airflow"]]

    marker = f"/run/{folder.rpartition('/')[2]}"

    def watch(reader: Machine) -> float:
        # Having read the old link, a watcher has it cached. One clock: the lab's machines share a kernel.
        link = f"$(readlink {folder}/current)"
        steps = f'[ "{link}" = one ]; touch {marker}; until [ "{link}" = two ]; do sleep 0.05; done; date +%s.%N'
        return float(reader.check_output(f"timeout 60 sh -ec '{steps}'; rm {marker}"))

    with ThreadPoolExecutor(len(readers)) as pool:
        seen = [pool.submit(watch, reader) for reader in readers]
        for reader, watching in zip(readers, seen, strict=True):
            ready = partial(lambda reader, watching: watching.done() or reader.file(marker).exists, reader, watching)
            wait_until(ready, deadline=30, what="a watcher that has read the old link")
        flip = f"ln -s two {folder}/next && mv -T {folder}/next {folder}/current && date +%s.%N"
        flipped = float(publish(publisher, flip))
        assert max(future.result() for future in seen) - flipped < 2


def test_open_file_survives_a_restart_of_the_server(folder: str, machine: Callable[[str], Machine]) -> None:
    web = machine("web1")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(web.run, "timeout 120 runuser -u airflow -- python3 -c %s %s", READER, f"{folder}/dag.py")
        machine("nfs1").check_output(
            "systemctl restart nfs-ganesha.service 2>/dev/null || systemctl restart nfs-server"
        )
        done = reading.result()
    assert done.rc == 0, done.stderr
    # the grace period is 15 s
    assert float(done.stdout) < 30


def test_mount_comes_back_when_it_was_taken_away(
    machine: Callable[[str], Machine], wait_until: Callable[..., Any]
) -> None:
    web = machine("web1")
    web.check_output(f"umount -l {SHARE}")
    wait_until(lambda: web.run(f"findmnt {SHARE}").rc == 0, deadline=30, what=f"{UNIT} mounted again")


def test_mount_waits_for_a_server_that_is_away(
    machine: Callable[[str], Machine], wait_until: Callable[..., Any]
) -> None:
    web, server = machine("web1"), machine("nfs1")
    unit = "nfs-ganesha" if server.service("nfs-ganesha").is_enabled else "nfs-server"
    server.check_output(f"systemctl stop {unit}")
    try:
        web.check_output(f"systemctl restart --no-block {UNIT}")
        state = f"systemctl show -P ActiveState {UNIT}"
        wait_until(lambda: web.check_output(state) == "activating", deadline=10, what="a mount that waits")
    finally:
        server.check_output(f"systemctl start {unit}")
    wait_until(lambda: web.run(f"ls {SHARE}/").rc == 0 and web.run(f"findmnt {SHARE}").rc == 0, deadline=30, what=UNIT)
    assert web.check_output(state) == "active"
