"""What the metadata database will be asked to store of a DAG, and whether it can.

The limits are those of Airflow's own models and of FAB's, read from them. A value that does not fit takes the whole
file's DAGs with it: the DAG processor writes them in one transaction.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# PostgreSQL has no text with a NUL, and what is no character cannot be sent to it.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_INTEGER = range(-(2**31), 2**31)
_SHOWN = 60


class Stored(NamedTuple):
    """One value on its way to a column; `task_id` is empty for what the DAG itself says."""

    task_id: str
    what: str
    value: Any
    column: Any


def misfits(dag: Any, data: Any) -> Iterator[tuple[str, str]]:
    """Yield (task id or nothing, what is wrong) for what cannot be stored.

    `data` is the serialised DAG, which is stored too, and `dag` what the scheduler makes of it.
    """
    for each in _values(dag):
        if wrong := _misfit(each.value, getattr(each.column, "type", None)):
            yield each.task_id, f"its {each.what} {wrong}"
    for key, value in data["dag"].items():
        for part in value if key == "tasks" else (value,):
            task_id = part["__var"]["task_id"] if key == "tasks" else ""
            if text := next(filter(_NO_TEXT.search, _texts(part)), None):
                yield task_id, f"it has a character that the database cannot store: {text[:_SHOWN]!a}"


def _misfit(value: Any, kind: Any) -> str:
    length = getattr(kind, "length", None)
    if isinstance(value, str) and length and len(value) > length:
        return f"has {len(value)} characters, the database has room for {length}"
    if isinstance(value, int) and value not in _INTEGER:
        return f"is {value}, the database has room for {_INTEGER[0]} to {_INTEGER[-1]}"
    return ""


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for key, value in part.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _texts(value)


def _values(dag: Any) -> Iterator[Stored]:
    from airflow.models.dag import DagModel, DagOwnerAttributes, DagTag  # noqa: PLC0415
    from airflow.models.taskinstance import TaskInstance  # noqa: PLC0415

    columns, task_columns = DagModel.__table__.c, TaskInstance.__table__.c
    # A permission on each DAG is named after it.
    column, prefix = _permission()
    yield Stored("", "id", dag.dag_id, columns.dag_id)
    yield Stored("", f"permission, {prefix!r} and its id,", prefix + dag.dag_id, column)
    yield Stored("", "owners, all tasks' together,", dag.owner, columns.owners)
    yield Stored("", "display name", dag.dag_display_name, columns.dag_display_name)
    yield Stored("", "timetable's description", dag.timetable.description, columns.timetable_description)
    for name in ("max_active_tasks", "max_active_runs", "max_consecutive_failed_dag_runs"):
        yield Stored("", name, getattr(dag, name), columns[name])
    for tag in dag.tags:
        yield Stored("", "tag", tag, DagTag.__table__.c.name)
    for owner, link in (dag.owner_links or {}).items():
        yield Stored("", "owner_links' owner", owner, DagOwnerAttributes.__table__.c.owner)
        yield Stored("", f"link of owner {owner}", link, DagOwnerAttributes.__table__.c.link)
    for task in dag.tasks:
        for name in ("task_id", "pool", "pool_slots", "queue", "executor"):
            yield Stored(task.task_id, name, getattr(task, name, None), task_columns[name])
        yield Stored(task.task_id, "operator's name", task.task_type, task_columns.operator)
        yield Stored(task.task_id, "display name", task.task_display_name, task_columns.task_display_name)
        yield Stored(task.task_id, "retries", task.retries, task_columns.max_tries)


@cache
def _permission() -> tuple[Any, str]:
    """Return the column of FAB's permissions and the longest prefix that a DAG's id gets there."""
    try:
        from airflow.providers.fab.auth_manager.models import Resource  # noqa: PLC0415
        from airflow.providers.fab.www.security.permissions import PREFIX_LIST  # noqa: PLC0415
    except ImportError:
        # A CI job's Python may have Airflow without it.
        return None, ""
    return Resource.__table__.c.name, max(PREFIX_LIST, key=len)
