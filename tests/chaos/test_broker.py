"""The broker goes away, for everybody or for the active scheduler: tasks wait, none fails, nobody fails over."""

import time

from tests.chaos import machines
from tests.chaos.lab import BROKER, Database, health, settled, shell, until
from tests.chaos.load import Load
from tests.chaos.recovery import first_task, probing

# Longer than the scheduler's loop may hang (airflow_scheduler_stall_seconds).
AWAY_SECONDS = 45


def stand_by(host: str, epoch: int) -> None:
    end = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < end:
        assert (health(host)["state"], health(host)["epoch"]) == ("active", epoch)
        time.sleep(1)


FREEZE_SECONDS = 10
BEAM = "pgrep -u rabbitmq beam.smp"


def failed(database: Database, began: float) -> int:
    """Return how many tries have failed since a date, in seconds of the clock."""
    tries = " UNION ALL ".join(
        f"SELECT count(*) AS n FROM {table}"
        f" WHERE state IN ('failed', 'up_for_retry') AND end_date > to_timestamp({began})"
        for table in ("task_instance", "task_instance_history")
    )
    return int(database.value(f"SELECT sum(n) FROM ({tries}) AS tries"))


def asked() -> dict[str, int]:
    """Return how many tasks at once each pool's workers ask the broker for, in all."""
    listing = shell(BROKER, "rabbitmqctl -q list_consumers -p airflow queue_name prefetch_count --no-table-headers")
    asked: dict[str, int] = {}
    for queue, count in (line.split() for line in listing.splitlines()):
        asked[queue] = asked.get(queue, 0) + int(count)
    return asked


def test_broker_down_for_45_s(database: Database, load: Load) -> None:
    active, _ = settled()
    epoch = health(active)["epoch"]
    before, began = asked(), time.time()
    with probing(load, 4):
        shell(BROKER, "systemctl stop rabbitmq-server", timeout=60)
        try:
            stand_by(active, epoch)
        finally:
            shell(BROKER, "systemctl start rabbitmq-server", timeout=120)
        first_task(database, time.time(), 60)
    assert failed(database, began) == 0
    until(lambda: asked() == before, 120, "every slot to be asked for again", every=2)


def test_broker_frozen_for_10_s(database: Database, load: Load) -> None:
    """As a paused machine's: it refuses nothing and answers nothing."""
    active, _ = settled()
    epoch = health(active)["epoch"]
    before, began = asked(), time.time()
    with probing(load, 4):
        shell(BROKER, f"kill -STOP $({BEAM})")
        end = time.monotonic() + FREEZE_SECONDS
        try:
            while time.monotonic() < end:
                assert (health(active)["state"], health(active)["epoch"]) == ("active", epoch)
                time.sleep(1)
        finally:
            shell(BROKER, f"kill -CONT $({BEAM})")
        first_task(database, time.time(), 60)
    assert failed(database, began) == 0
    until(lambda: asked() == before, 120, "every slot to be asked for again", every=2)


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
