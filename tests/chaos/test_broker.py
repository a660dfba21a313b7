"""The broker goes away, for everybody or for the active scheduler: tasks wait for it, and no failover is made of it."""

import time

from tests.chaos import machines
from tests.chaos.lab import BROKER, Database, health, settled, shell
from tests.chaos.load import Load
from tests.chaos.recovery import first_task, probing

# Longer than the scheduler's loop may hang (airflow_scheduler_stall_seconds).
AWAY_SECONDS = 45


def stand_by(host: str, epoch: int) -> None:
    end = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < end:
        assert (health(host)["state"], health(host)["epoch"]) == ("active", epoch)
        time.sleep(1)


def test_broker_down_for_45_s(database: Database, load: Load) -> None:
    active, _ = settled()
    epoch = health(active)["epoch"]
    with probing(load, 4):
        shell(BROKER, "systemctl stop rabbitmq-server", timeout=60)
        try:
            stand_by(active, epoch)
        finally:
            shell(BROKER, "systemctl start rabbitmq-server", timeout=120)
        first_task(database, time.time(), 60)


def test_active_host_cut_off_from_the_broker(database: Database, load: Load) -> None:
    active, _ = settled()
    epoch = health(active)["epoch"]
    with probing(load, 4):
        machines.cut(active, BROKER)
        try:
            stand_by(active, epoch)
        finally:
            machines.mend(active)
        first_task(database, time.time(), 60)
