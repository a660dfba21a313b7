"""The database goes away, for one scheduler or for all of them."""

import time

from tests.chaos import machines
from tests.chaos.lab import DATABASE, Database, health, settled, shell, until
from tests.chaos.load import Load
from tests.chaos.recovery import first_task, newest_job, probing

POSTGRES = "postgresql@17-main.service"


def test_active_host_cut_off_from_the_database(database: Database, load: Load) -> None:
    """Packets are dropped, not refused: it stops in time by its own clock, and is fenced in any case."""
    active, standby = settled()
    job = newest_job(database)
    with probing(load):
        struck = time.time()
        machines.cut(active, DATABASE)
        try:
            first_task(database, struck, 20, after_job=job)
            until(lambda: not health(active)["scheduler_pid"], 5, f"{active} to stop its scheduler")
        finally:
            machines.mend(active)
    until(lambda: health(active)["ready"], 30, f"{active} to be a standby")
    assert health(standby)["state"] == "active"


def test_standby_cut_off_from_the_database(database: Database, load: Load) -> None:
    active, standby = settled()
    epoch = health(active)["epoch"]
    machines.cut(standby, DATABASE)
    try:
        until(lambda: not health(standby)["ready"], 15, f"{standby} to say that it could not take over")
        with probing(load):
            first_task(database, time.time(), 60)
    finally:
        machines.mend(standby)
    until(lambda: health(standby)["ready"], 30, f"{standby} to be ready again")
    assert (health(active)["state"], health(active)["epoch"]) == ("active", epoch)


def test_database_restarted(database: Database, load: Load) -> None:
    settled()
    with probing(load):
        shell(DATABASE, f"systemctl restart {POSTGRES}")
        first_task(database, time.time(), 30)


def test_database_down_for_40_s(database: Database, load: Load) -> None:
    """Nobody schedules without the database; when it is back somebody does."""
    active, _ = settled()
    shell(DATABASE, f"systemctl stop {POSTGRES}")
    try:
        stopped = time.time()
        until(lambda: not health(active)["scheduler_pid"], 10, f"{active} to stop its scheduler")
        while time.time() < stopped + 40:
            time.sleep(0.5)
    finally:
        shell(DATABASE, f"systemctl start {POSTGRES}")
    with probing(load):
        first_task(database, time.time(), 30)
