"""The failovers that others have, on the same lab under the same load, to hold ours against.

`cold`: a standby that is installed and stopped, started by a controller that asks over SSH every 10 s whether the
active scheduler's service runs, as public failover controllers do. `pair`: Airflow's own active-active pair with stock
settings; there somebody always schedules, and what takes time is the dead one's tasks.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests

from tests.chaos.lab import ADDRESS, SCHEDULERS, UNIT, Database, settled, shell, strike, until
from tests.chaos.recovery import first_task, newest_job, probing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.chaos.load import Load

POLL_SECONDS = 10
DROP_IN = f"/run/systemd/system/{UNIT}.d/peers.conf"
# What role airflow sets otherwise is Airflow's own default again. Killed means dead: nothing starts it by itself.
STOCK = """[Service]
Type=exec
WatchdogSec=0
Restart=no
ExecStart=
ExecStart=/opt/airflow/current/bin/airflow scheduler --skip-serve-logs
Environment=AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL=300
Environment=AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME=1
Environment=AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK=True
"""
# An adoption each 300 s, by a scheduler that must have missed heartbeats for 30 s; and some patience.
ADOPTED_SECONDS = 400
ADOPTION_EVERY_SECONDS = 300


@contextmanager
def stock(database: Database, running: int) -> Iterator[None]:
    """Run Airflow's own schedulers, on so many of the hosts, with the lease out of the way."""
    settled(180)
    database.run("SELECT ops.suspend(true);")
    try:
        for host in SCHEDULERS:
            write = f"mkdir -p $(dirname {DROP_IN}) && cat >{DROP_IN} <<'END'\n{STOCK}END\n"
            shell(host, f"{write}systemctl daemon-reload && systemctl stop {UNIT}", timeout=90)
        for host in SCHEDULERS[:running]:
            start(host)
        yield
    finally:
        for host in SCHEDULERS:
            shell(host, f"systemctl stop {UNIT}; rm -f {DROP_IN}; systemctl daemon-reload", timeout=90)
        database.run("SELECT ops.suspend(false);")
        for host in SCHEDULERS:
            shell(host, f"systemctl start {UNIT}", timeout=120)
        settled(180)


def healthy(host: str) -> bool:
    """Return whether a scheduler there says that it works."""
    return bool(requests.get(f"http://{ADDRESS[host]}:8974/health", timeout=2).ok)


def start(host: str) -> None:
    """Start the scheduler there and wait until it works."""
    shell(host, f"systemctl reset-failed {UNIT}; systemctl start {UNIT}", timeout=60)
    until(lambda: healthy(host), 60, f"a scheduler on {host}", every=0.5)


@contextmanager
def polled(active: str, standby: str) -> Iterator[None]:
    """Keep a controller that starts the standby when it finds the active one's service not running."""
    end = threading.Event()

    def control() -> None:
        while not end.wait(POLL_SECONDS):
            if shell(active, f"systemctl is-active {UNIT} || true") != "active":
                shell(standby, f"systemctl reset-failed {UNIT}; systemctl start {UNIT}", timeout=60)
                return

    controller = threading.Thread(target=control, daemon=True)
    controller.start()
    try:
        yield
    finally:
        end.set()
        controller.join(60)


def cold(database: Database, load: Load, rounds: int, take: Callable[[str, float], None]) -> None:
    """Kill the only scheduler, at any moment between two polls, and wait for the other one's first task."""
    with stock(database, running=1):
        active, standby = SCHEDULERS
        for _ in range(rounds):
            job = newest_job(database)
            with polled(active, standby), probing(load, 0.5):
                time.sleep(random.uniform(0, POLL_SECONDS))  # noqa: S311
                struck = strike(active, f"systemctl kill --signal KILL {UNIT}")
                seconds = first_task(database, struck, 120, after_job=job)
            take("cold standby, polled over SSH every 10 s: first new task", seconds)
            until(lambda host=standby: healthy(host), 60, f"a scheduler on {standby}", every=0.5)
            active, standby = standby, active


def pair(database: Database, _: Load, rounds: int, take: Callable[[str, float], None]) -> None:
    """Kill one of two, at any moment between two adoptions, and wait until the other takes its job for dead.

    That is when it adopts the tasks. A round takes 5 to 10 minutes.
    """
    with stock(database, running=len(SCHEDULERS)):
        for number in range(rounds):
            time.sleep(random.uniform(0, ADOPTION_EVERY_SECONDS))  # noqa: S311
            victim = SCHEDULERS[number % len(SCHEDULERS)]
            mine = f"FROM job WHERE job_type = 'SchedulerJob' AND hostname = '{victim}'"
            job = int(database.value(f"SELECT max(id) {mine}"))
            owned = f"SELECT count(*) FROM task_instance WHERE state = 'running' AND queued_by_job_id = {job}"
            until(lambda owned=owned: database.value(owned), 180, f"a running task of {victim}")
            struck = strike(victim, f"systemctl kill --signal KILL {UNIT}")
            failed = f"SELECT count(*) FROM job WHERE id = {job} AND state <> 'running'"
            until(lambda failed=failed: database.value(failed), ADOPTED_SECONDS, "the adoption", every=0.5)
            take("active-active pair with stock settings: the dead one's tasks adopted", time.time() - struck)
            start(victim)
