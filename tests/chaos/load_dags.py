"""The load of the failure stories: short tasks and 60 s tasks on every pool, and many at once. Published by load.py.

Every task appends a line when it starts and one when it ends to a file of its worker: a start that the database does
not know of would stand there all the same.
"""

import os
import socket
import time
from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

POOLS = ("cpu", "memory", "io")
MARKERS = "/var/lib/airflow/chaos.markers"
SETTINGS = {
    "catchup": False,
    "tags": ["chaos"],
    "max_active_runs": 500,
    "default_args": {"owner": "chaos", "retries": 0, "execution_timeout": timedelta(minutes=5)},
}


def mark(what: str) -> None:
    """Append one line, whole, whoever else appends."""
    ti = get_current_context()["ti"]
    words = (what, ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number, time.time(), socket.gethostname())
    file = os.open(MARKERS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(file, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(file)


@task
def work(seconds: float) -> None:
    """Take so long."""
    mark("start")
    time.sleep(seconds)
    mark("end")


@dag(schedule=None, **SETTINGS)
def chaos_short() -> None:
    """One short task on each pool."""
    for pool in POOLS:
        work.override(task_id=pool, queue=pool)(0)


@dag(schedule=None, **SETTINGS)
def chaos_long() -> None:
    """One task of 60 s on each pool: longer than any failover."""
    for pool in POOLS:
        work.override(task_id=pool, queue=pool)(60)


@dag(schedule=None, **SETTINGS)
def chaos_probe() -> None:
    """One short task on the pool with the most free slots, to see when the next task starts."""
    work.override(task_id="io", queue="io")(0)


@dag(schedule=None, max_active_tasks=200, **SETTINGS)
def chaos_bulk() -> None:
    """Two hundred tasks that all become runnable in one loop of the scheduler."""
    work.override(task_id="many", queue="io").expand(seconds=[0] * 200)


chaos_short()
chaos_long()
chaos_probe()
chaos_bulk()
