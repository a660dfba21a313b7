"""A Celery worker that takes no more tasks while it is asked not to, and then takes them again.

Told to stop (SIGTERM), a worker cannot change its mind; asked by a file, it can, with the broker away too, and a lost
connection does not make it forget. Every second it writes down which tasks it has, for who waits for them.
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


class Rest:
    """Stops consuming for as long as it is asked to."""

    def __init__(self, asked: Path = ASKED, report: Path = REPORT) -> None:
        self._asked, self._report = asked, report
        self._left: list[str] = []

    def look(self, consumer: Any, requests: Iterable[Any]) -> None:
        """Leave Celery's queues or come back to them, and write the report."""
        asked = self._asked.exists()
        if asked:
            self._leave(consumer)
        elif self._left:
            self._come_back(consumer)
        report = {
            "pid": os.getpid(),
            "at": time.monotonic(),
            "asked": asked,
            "consuming": sorted(consumer.app.amqp.queues.consume_from),
            "tasks": described(requests),
        }
        # The directory is not there where nobody made it: a worker started by hand reports to nobody.
        with contextlib.suppress(FileNotFoundError):
            part = self._report.with_suffix(".part")
            part.write_text(json.dumps(report), encoding="utf-8")
            part.replace(self._report)

    def _leave(self, consumer: Any) -> None:
        for queue in list(consumer.app.amqp.queues.consume_from):
            consumer.cancel_task_queue(queue)
            self._left.append(queue)

    def _come_back(self, consumer: Any) -> None:
        # Celery's add_task_queue forgets to select a queue that it knows: the next lost connection would lose it too.
        consumer.app.amqp.queues.select(self._left)
        for queue in self._left:
            consumer.add_task_queue(queue)
        self._left = []


def install(app: Any) -> None:
    """Give the consumer of every worker of `app` a Rest that looks once a second, after every reconnect again."""
    from celery import bootsteps  # noqa: PLC0415
    from celery.worker import state  # noqa: PLC0415

    class Drain(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, parent: Any, **options: Any) -> None:
            super().__init__(parent, **options)
            self._rest = Rest()

        def start(self, parent: Any) -> None:
            self._look(parent)
            # A lost connection clears the timer.
            parent.timer.call_repeatedly(EVERY_SECONDS, self._look, (parent,))

        def _look(self, consumer: Any) -> None:
            self._rest.look(consumer, {*state.reserved_requests, *state.active_requests})

    app.steps["consumer"].add(Drain)
