"""The share in every state that stops a deploy: tasks go on, no DAG vanishes, and it is said plainly."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testinfra.host import Host

from tests.lab.deploy.deployer import Done, Repository
from tests.lab.deploy.story import begin, reports, tell

testinfra_hosts = ["ansible://sched1"]
pytestmark = pytest.mark.story

Wait = Callable[..., Any]
Machine = Callable[[str], Host]
SHARE = "/srv/airflow/dags"
UNIT = "srv-airflow-dags.mount"
OUTAGE_SECONDS = 300
RUN_EVERY_SECONDS = 50


@pytest.fixture
def served(repository: Repository) -> str:
    """Deploy the story and return its release."""
    tell(repository, 1, "second", "third", seconds=5)
    done = repository.deploy()
    assert done.code == 0, done.stderr
    return str(done.json()["release"])


@pytest.fixture
def refused(
    repository: Repository, served: str, fleet: Any, current: Callable[[], str], wait_until: Wait
) -> Iterator[Callable[[str], None]]:
    """Check that a deploy is refused with these words and tasks go on; after the test, that the next one works."""

    def check(words: str) -> None:
        tell(repository, 2, "second", "third", seconds=5)
        done = repository.deploy()
        assert (done.code, current()) == (1, served), done.stderr
        assert words in done.stderr
        assert reports(fleet, begin(fleet, wait_until), wait_until)["third"] == [1, 1, served]

    yield check
    again = repository.deploy()
    assert again.code == 0, again.stderr
    assert current() == again.json()["release"]


def test_full_share_refuses_a_deploy_and_keeps_nothing_of_it(refused: Callable[[str], None], host: Host) -> None:
    # A real full filesystem, where releases are written; filling the server's disk would fill this machine's.
    host.check_output(f"mount -t tmpfs -o size=8k,uid=dagpublisher,mode=755 full {SHARE}/staging")
    try:
        refused("the DAG share /srv/airflow/dags cannot be written: it is full")
        assert host.check_output(f"ls {SHARE}/staging") == ""
    finally:
        host.check_output(f"umount {SHARE}/staging")


def test_read_only_share_refuses_a_deploy(refused: Callable[[str], None], host: Host) -> None:
    host.check_output(f"mount -o remount,bind,ro {SHARE}")
    try:
        refused("the DAG share /srv/airflow/dags cannot be written: it is mounted read-only")
    finally:
        host.check_output(f"mount -o remount,bind,rw {SHARE}")


def test_worker_without_its_mount_runs_what_it_has_and_is_named(
    refused: Callable[[str], None], machine: Machine, run_ops: Callable[..., Done], wait_until: Wait
) -> None:
    worker = machine("worker-io1")
    # Its target upholds it: stopped alone, it would be back at once.
    drop_in = f"/run/systemd/system/{UNIT}.d/away.conf"
    forbid = f"mkdir -p $(dirname {drop_in}) && printf '[Unit]\\nConditionPathExists=/nowhere\\n' >{drop_in}"
    worker.check_output(f"{forbid} && systemctl daemon-reload && systemctl stop {UNIT}")
    try:
        wait_until(lambda: worker.run(f"findmnt {SHARE}").rc != 0, deadline=30, what="the mount to be gone")
        status = run_ops("status", "--format", "json")
        assert status.code == 4
        assert any(line.startswith(f"worker-io1: {UNIT} is ") for line in status.json()["problems"]), status.stdout
        refused("not every host can serve")
    finally:
        worker.check_output(f"rm {drop_in} && systemctl daemon-reload && systemctl start {UNIT}")
    wait_until(lambda: worker.run(f"findmnt {SHARE}").rc == 0, deadline=30, what="the mount to be back")


def test_five_minutes_without_the_server_stop_no_task_and_lose_no_dag(
    served: str, fleet: Any, machine: Machine, run_ops: Callable[..., Done], wait_until: Wait
) -> None:
    server = machine("nfs1")
    unit = "nfs-ganesha" if server.service("nfs-ganesha").is_enabled else "nfs-server"

    def known() -> set[str]:
        return {dag["dag_id"] for dag in fleet.call("GET", "/dags", params={"limit": 1000})["dags"]}

    before = known()
    runs = [begin(fleet, wait_until)]
    server.check_output(f"systemctl stop {unit}")
    try:
        end = time.monotonic() + OUTAGE_SECONDS
        while (left := end - time.monotonic()) > 0:
            runs.append(begin(fleet, wait_until))
            assert known() == before
            status = run_ops("status", "--format", "json")
            assert status.code == 4
            assert any("the DAG share does not respond" in line for line in status.json()["problems"]), status.stdout
            time.sleep(min(left, RUN_EVERY_SECONDS))
        assert run_ops("releases", "list").code != 0
    finally:
        server.check_output(f"systemctl start {unit}")
    assert len(runs) > OUTAGE_SECONDS / (2 * RUN_EVERY_SECONDS)
    for path in runs:
        assert reports(fleet, path, wait_until) == {task: [1, 1, served] for task in ("first", "second", "third")}
        tries = fleet.call("GET", path)["task_instances"]
        assert {task["try_number"] for task in tries} == {1}
    wait_until(lambda: run_ops("status").code == 0, deadline=120, what="a healthy fleet", every=5)
    assert known() == before
