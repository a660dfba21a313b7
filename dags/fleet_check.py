"""One task on each worker pool: proves that tasks reach the pool they ask for, and that it runs them."""

import os
import socket
from datetime import timedelta

from airflow.sdk import dag, get_current_context, task
from common.pools import POOLS


@dag(schedule=None, catchup=False, tags=["airfleet"], default_args={"owner": "airfleet", "retries": 0})
def fleet_check() -> None:
    """Run one task on each pool."""

    @task(execution_timeout=timedelta(minutes=1))
    def report(pool: str) -> str:
        """Return the hostname; raises RuntimeError on a worker of another pool, or when another queue was used."""
        queue = get_current_context()["ti"].queue
        worker_pool = os.environ.get("AIRFLEET_POOL")
        host = socket.gethostname()
        if (queue, worker_pool) != (pool, pool):
            raise RuntimeError(
                f"meant for pool {pool}, taken from queue {queue} by {host}, which is of pool {worker_pool}"
            )
        return host

    for pool in POOLS:
        report.override(task_id=f"report_{pool}", queue=pool)(pool)


fleet_check()
