"""A Celery program with the fleet's settings and a task that naps; sent to a worker's machine by test_connection.py."""

import os
import signal
import time
from pathlib import Path

from celery import Celery

from ops_airflow.celery.config import for_the_fleet

HERE = Path(__file__).parent
# As Airflow sets them.
BASE = {
    "broker_url": os.environ.get("BROKER", ""),
    "result_backend": f"db+sqlite:///{HERE}/results.db",
    "accept_content": ["json"],
    "task_acks_late": True,
    "task_default_exchange": "pool",
    "task_default_queue": "pool",
    "task_track_started": True,
    "worker_prefetch_multiplier": 1,
}
config = for_the_fleet(BASE, ["pool"])
config["imports"] = ()
app = Celery("scratch", config_source=config)


@app.task(name="nap")
def nap(name: str, seconds: float) -> None:
    (HERE / f"began-{name}-{time.monotonic_ns()}").touch()
    time.sleep(seconds)


class TimeUpError(BaseException):
    """What Airflow's executor raises round a publish, by the same signal."""


def _time_up(*_: object) -> None:
    raise TimeUpError


def send(name: str, seconds: float, patience: float = 5.0) -> None:
    """Publish as Airflow's executor does, which gives up after [celery] operation_timeout."""
    signal.signal(signal.SIGALRM, _time_up)
    signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        nap.apply_async(args=(name, seconds), queue="pool")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
