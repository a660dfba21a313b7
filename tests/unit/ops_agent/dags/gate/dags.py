"""DAGs as the gate sees them, with everything in order unless a test says otherwise."""

from typing import Any

from ops_agent.dags.gate.findings import Dag, Imported, Task


def task(task_id: str = "load", **other: Any) -> Task:
    values: dict[str, Any] = {
        "operator": "BashOperator",
        "queue": "io",
        "pool": "default_pool",
        "pool_slots": 1,
        "owner": "finance",
        "retries": 2,
        "has_timeout": True,
        "is_empty": False,
        "hash": "0",
        "line": 7,
    }
    return Task(task_id, **values | other)


def dag(dag_id: str = "nightly", *tasks: Task, **other: Any) -> Dag:
    values: dict[str, Any] = {
        "file": f"{dag_id}.py",
        "line": 3,
        "schedule": "@daily",
        "catchup": False,
        "tags": ("finance",),
        "hash": "0",
        "files": (f"{dag_id}.py",),
    }
    return Dag(dag_id, tasks=tasks or (task(),), **values | other)


def imported(*dags: Dag, source: str = "", seconds: float = 0.1) -> Imported:
    return Imported(dags[0].file, seconds, dags, source=source)
