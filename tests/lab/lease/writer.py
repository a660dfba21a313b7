"""A keeper with a scheduler that only writes: `python -m tests.lab.lease.writer HOST PORT`. Its rows are the proof."""

import sys
import time
from collections.abc import Callable

import psycopg2

from ops_airflow.scheduler.config import Config
from ops_airflow.scheduler.keeper import Keeper
from ops_airflow.scheduler.process import SchedulerProcess
from ops_airflow.scheduler.protocol import Timing
from tests.lab.lease.cluster import MACHINE, PORT

HOST, HTTP_PORT = sys.argv[1], int(sys.argv[2])
JOB = "INSERT INTO job (job_type, state, hostname) VALUES ('SchedulerJob', 'running', %s) RETURNING id"
ADOPT = "UPDATE task_instance SET queued_by_job_id = %s WHERE state IN ('queued', 'running')"
TASK = "INSERT INTO task_instance (note, state, queued_by_job_id) VALUES (%s, 'running', %s)"
LOGIN = {"host": MACHINE, "port": PORT, "dbname": "airflow"}


def write(report: Callable[[float | None], None], _: float | None) -> int:
    """Adopt all tasks, then insert one every 5 ms, in a new session when the old one ends, as Airflow's pool would."""
    job = None
    while True:
        try:
            session = psycopg2.connect(**LOGIN, user=f"scheduler_{HOST}", connect_timeout=3)
            session.autocommit = True
            with session.cursor() as cursor:
                if job is None:
                    cursor.execute(JOB, (HOST,))
                    job = cursor.fetchone()
                    cursor.execute(ADOPT, job)
                while True:
                    cursor.execute(TASK, (HOST, *job))
                    report(None)
                    time.sleep(0.005)
        except psycopg2.Error:
            time.sleep(0.05)


Keeper(
    Config({**LOGIN, "user": f"keeper_{HOST}"}, "127.0.0.1", HTTP_PORT, Timing(stall=3.0)),
    SchedulerProcess(write),
    preloaded=True,
).run()
