"""Thirty tasks, one after the other: how long the fleet takes from one task's end to the next one's start."""

from datetime import timedelta

from airflow.sdk import chain, dag, task


@dag(schedule=None, catchup=False, tags=["airfleet"], default_args={"owner": "airfleet", "retries": 0})
def fleet_chain() -> None:
    """Chain tasks that do nothing, so that what is left is the fleet's own time."""

    @task(execution_timeout=timedelta(minutes=1))
    def link() -> None:
        """Do nothing."""

    chain(*(link.override(task_id=f"link_{number:02}")() for number in range(30)))


fleet_chain()
