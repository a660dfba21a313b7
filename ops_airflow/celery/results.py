"""Celery's results as JSON: what a worker wrote is read, never executed.

Stock, the column `result` is a pickle, and reading a row runs what is in it. Every worker may write every row, so any
task could run code in the scheduler. Here the same column holds JSON: no table changes, and old and new processes work
side by side, because of a row that an old worker wrote Airflow needs the status alone.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from celery.backends.database import DatabaseBackend
from celery.backends.database.models import Task, TaskExtended, TaskSet

LONGEST_TEXT = 1000


class Json(sa.types.TypeDecorator):  # type: ignore[misc]
    """JSON in a column of bytes; whatever else is there counts as nothing."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> bytes | None:  # noqa: ARG002
        """Return what is stored."""
        return None if value is None else json.dumps(value, default=repr).encode()

    def process_result_value(self, value: Any, dialect: Any) -> Any:  # noqa: ARG002
        """Return what was stored."""
        try:
            return None if value is None else json.loads(value)
        except (ValueError, RecursionError):
            return None


# In Celery's own tables, so that no path to them unpickles: a subclass of its models would go on doing so.
for _model in (Task, TaskExtended, TaskSet):
    _model.__table__.c.result.type = Json()


class FailedElsewhere(Exception):  # noqa: N818
    """What a worker says of a task that failed, as text."""


class Backend(DatabaseBackend):  # type: ignore[misc]
    """Celery's database backend over those tables."""

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """Return the failure; stock makes an instance of the class that the row names, with the row's arguments."""
        if exc is None or isinstance(exc, BaseException):
            return exc
        told = f"{exc.get('exc_type')}: {exc.get('exc_message')}" if isinstance(exc, dict) else str(exc)
        return FailedElsewhere(told[:LONGEST_TEXT])
