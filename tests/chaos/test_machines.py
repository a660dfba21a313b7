"""The active machine loses its power, is paused, or both machines are rebooted at once."""

import time

from tests.chaos import machines
from tests.chaos.lab import SCHEDULERS, Database, health, settled, shell, until
from tests.chaos.load import Load
from tests.chaos.recovery import first_task, newest_job, probing

# The lease's ttl of 6 s, and a start on machines that share two busy cores.
DEADLINE_SECONDS = 20


def test_power_off_of_the_active_machine(database: Database, load: Load) -> None:
    active, standby = settled()
    job = newest_job(database)
    with probing(load):
        struck = time.time()
        machines.power_off(active)
        try:
            first_task(database, struck, DEADLINE_SECONDS, after_job=job)
        finally:
            machines.power_on(active)
    assert health(standby)["state"] == "active"


def test_machine_paused_for_60_s_wakes_as_a_standby(database: Database, load: Load) -> None:
    """Its watchdogs are paused as well, so keeper and scheduler go on where they were, a minute too late."""
    active, standby = settled()
    job = newest_job(database)
    with probing(load):
        struck = time.time()
        machines.freeze(active)
        try:
            first_task(database, struck, DEADLINE_SECONDS, after_job=job)
            while time.time() < struck + 60:
                assert health(standby)["state"] == "active"
                time.sleep(1)
        finally:
            machines.thaw(active)
    until(lambda: health(active)["ready"], 60, f"{active} to be a standby")
    assert health(standby)["state"] == "active"


def test_both_machines_rebooted_at_once(database: Database, load: Load) -> None:
    settled()
    job = newest_job(database)
    with probing(load):
        struck = time.time()
        for host in SCHEDULERS:
            shell(host, "systemd-run --on-active=0.2 systemctl reboot >/dev/null 2>&1")
        first_task(database, struck, 90, after_job=job)
