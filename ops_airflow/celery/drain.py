"""What passes between a Celery worker and who waits for its tasks: a file that asks it to rest, and its report.

Told to stop (SIGTERM), a worker cannot change its mind; asked by a file, it can, with the broker away too, and a lost
connection does not make it forget. Every second it writes down which tasks it has: see consumer.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# In a directory that is root's: no task asks a worker to rest.
ASKED = Path("/run/airflow-worker-drain/asked")
REPORT = Path("/run/airflow-worker/report.json")
EVERY_SECONDS = 1.0


def is_asked() -> bool:
    """Tell whether the worker is asked to take no more tasks."""
    return ASKED.exists()


def report(requests: Iterable[Any], *, resting: bool) -> None:
    """Write down which of Celery's requests the worker has, and whether it takes more."""
    found = {"pid": os.getpid(), "at": time.monotonic(), "resting": resting, "tasks": described(requests)}
    # The directory is not there where nobody made it: a worker started by hand reports to nobody.
    with contextlib.suppress(FileNotFoundError):
        part = REPORT.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(REPORT)


def described(requests: Iterable[Any]) -> list[dict[str, Any]]:
    """Return what an operator calls each of Celery's requests by, without the tokens that come with it, oldest first.

    `since` is seconds since the epoch, or None for one that waits behind the worker's running ones.
    """
    found = [{**_named(request), "since": request.time_start} for request in requests]
    return sorted(found, key=lambda task: (task["since"] is None, task["since"] or 0, task["id"]))


def _named(request: Any) -> dict[str, Any]:
    try:
        task: Mapping[str, Any] = json.loads(request.args[0])["ti"]
        names = {name: task[name] for name in ("dag_id", "run_id", "task_id", "map_index", "try_number")}
    except (IndexError, KeyError, TypeError, ValueError):
        # Not a task of a DAG, but a callback, say.
        names = {}
    return {"id": request.id, **names}
