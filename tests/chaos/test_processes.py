"""The scheduler, its keeper, or both die, freeze or hang: another host schedules, and what ran goes on."""

import time
from collections.abc import Iterator

import pytest

from tests.chaos.lab import SCHEDULERS, UNIT, Database, health, keeper_pid, scheduler_pid, settled, shell, strike, until
from tests.chaos.load import Load
from tests.chaos.recovery import first_task, newest_job, probing


def fail_over(database: Database, load: Load, command: str, deadline: float) -> tuple[str, float]:
    """Strike the active host with `command`; return it and the seconds to the first task by the other host."""
    active, standby = settled()
    words = {"keeper": keeper_pid(active), "scheduler": scheduler_pid(active)}
    job, epoch = newest_job(database), health(active)["epoch"]
    with probing(load):
        struck = strike(active, command.format(**words))
        seconds = first_task(database, struck, deadline, after_job=job)
    assert (health(standby)["state"], health(standby)["epoch"]) == ("active", epoch + 1)
    return active, seconds


@pytest.mark.parametrize(
    ("command", "deadline"),
    [
        pytest.param("kill -9 {scheduler}", 10, id="scheduler"),
        pytest.param("kill -9 {keeper}", 15, id="keeper"),
        pytest.param("kill -9 {keeper} {scheduler}", 15, id="both"),
    ],
)
def test_killed_process_is_replaced_by_the_other_host(
    database: Database, load: Load, command: str, deadline: float
) -> None:
    fail_over(database, load, command, deadline)


def test_frozen_keeper_and_scheduler_are_replaced_and_killed(database: Database, load: Load) -> None:
    """SIGSTOP for good: the service manager's watchdog ends them; their machine comes back as a standby."""
    active, _ = fail_over(database, load, "kill -STOP {keeper} {scheduler}", 20)
    until(lambda: health(active)["ready"], 60, f"{active} to be a standby")


def restart_both() -> None:
    """Restart the keepers, the standby first: the active one hands over to it."""
    for host in reversed(settled()):
        shell(host, f"systemctl daemon-reload && systemctl restart {UNIT}", timeout=120)
        settled()


@pytest.fixture
def unwatched() -> Iterator[None]:
    """Both keepers without the service manager's watchdog, which would end processes that are stopped."""
    drop_in = f"/run/systemd/system/{UNIT}.d/unwatched.conf"
    for host in SCHEDULERS:
        shell(host, f"mkdir -p $(dirname {drop_in}) && printf '[Service]\\nWatchdogSec=0\\n' >{drop_in}")
    restart_both()
    yield
    for host in SCHEDULERS:
        shell(host, f"rm -f {drop_in}")
    restart_both()


@pytest.mark.usefixtures("unwatched")
def test_keeper_and_scheduler_frozen_for_60_s_wake_as_a_standby(database: Database, load: Load) -> None:
    """SIGSTOP, then SIGCONT to the same processes, the scheduler first: it has work in hand and no keeper yet."""
    active, standby = settled()
    frozen = [scheduler_pid(active), keeper_pid(active)]
    began = time.monotonic()
    fail_over(database, load, "kill -STOP {keeper} {scheduler}", 20)
    time.sleep(max(0, began + 60 - time.monotonic()))
    for pid in frozen:
        shell(active, f"kill -CONT {pid}")
    until(lambda: health(active)["ready"], 60, f"{active} to be a standby")
    assert keeper_pid(active) == frozen[1]
    assert health(standby)["state"] == "active"


def test_hung_loop_loses_the_lease(database: Database, load: Load) -> None:
    """The process lives and its keeper renews, but no loop ends: 30 s (airflow_scheduler_stall_seconds) are allowed."""
    fail_over(database, load, "kill -STOP {scheduler}", 50)
