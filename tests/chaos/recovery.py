"""How long until work goes on: the first new task, the running tasks' new owner, the tasks that were never sent."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests

from tests.chaos.lab import Database, health, settled, until
from tests.chaos.load import Api, Load

if TYPE_CHECKING:
    from collections.abc import Iterator

# Often enough for a story; a benchmark asks oftener.
PROBE_EVERY_SECONDS = 1.0
MINE = "dag_id LIKE 'chaos\\_%'"


def newest_job(database: Database) -> int:
    """Return the id of the youngest scheduler job: what a later scheduler queues carries a higher one."""
    return int(database.value("SELECT coalesce(max(id), 0) FROM job WHERE job_type = 'SchedulerJob'"))


@contextmanager
def probing(load: Load, every: float = PROBE_EVERY_SECONDS) -> Iterator[None]:
    """Start a short run every so often, so that there is always something new to be scheduled."""
    end = threading.Event()

    def probe() -> None:
        api = Api()
        while not end.wait(every):
            try:
                load.start("chaos_probe", api)
            except requests.RequestException:
                continue

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(15)


def first_task(database: Database, since: float, deadline: float, after_job: int = 0) -> float:
    """Return how many seconds after `since` the first task started that a scheduler queued after it.

    `after_job`: count only what a scheduler younger than this job queued.
    """
    query = f"""SELECT extract(epoch FROM min(start_date)) FROM task_instance
        WHERE {MINE} AND queued_by_job_id > {after_job}
          AND queued_dttm > to_timestamp({since}) AND start_date > to_timestamp({since})"""
    return float(until(lambda: database.value(query), deadline, "the first new task")) - since


def orphans(database: Database, job: int) -> int:
    """Return how many running tasks belong to this job or to older ones."""
    query = f"SELECT count(*) FROM task_instance WHERE {MINE} AND state = 'running' AND queued_by_job_id <= {job}"
    return int(database.value(query))


def hand_over(database: Database, why: str = "chaos") -> tuple[str, str]:
    """Switch over in order; return who scheduled before and who does now."""
    active, standby = settled()
    epoch = health(active)["epoch"]
    database.run(f"SELECT ops.hand_over('{standby}', '{why}');")
    until(lambda: health(standby)["state"] == "active", 15, f"{standby} to take over")
    assert health(standby)["epoch"] == epoch + 1
    return active, standby


def longest_pause(database: Database, since: float) -> float:
    """Return the longest time from `since` until now in which no task was queued, in seconds."""
    return float(
        database.value(
            f"""SELECT extract(epoch FROM max(at - before)) FROM (
                  SELECT at, lag(at) OVER (ORDER BY at) AS before FROM (
                    SELECT queued_dttm AS at FROM task_instance WHERE {MINE} AND queued_dttm > to_timestamp({since})
                    UNION VALUES (to_timestamp({since})), (clock_timestamp())
                  ) AS moments) AS pauses"""
        )
    )
