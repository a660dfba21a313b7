"""Histories of Airflow, row by row: whatever a test does not say gets a value that the column takes."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Json

from tests.lab.vacuum.cluster import name

NOW = datetime.now(UTC).replace(microsecond=123456)
_NEEDED = """
SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute AS a
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND a.attnotnull AND NOT a.atthasdef AND NOT a.attisdropped
  AND a.attidentity = ''
"""
_VALUES = {
    "boolean": False,
    "integer": 1,
    "character varying": "x",
    "text": "",
    "double precision": 0.1,
    "json": Json({}),
    "jsonb": Json({}),
    "timestamp with time zone": NOW,
}


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@dataclass(frozen=True)
class Task:
    """A task instance and what hangs off it."""

    state: str | None = "success"
    extras: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Run:
    """A run; `ended` and `logical` are days ago."""

    dag: str = "etl"
    state: str = "success"
    ended: float | None = 100
    logical: float | None = 101
    kind: str = "scheduled"
    backfill: str = ""  # or finished, unfinished
    callback: str = ""  # the state of its deadline's callback
    tasks: tuple[Task, ...] = (Task(),)
    extras: frozenset[str] = frozenset()


@dataclass
class History:
    """Writes rows over one session."""

    connection: psycopg.Connection[Any]
    _needed: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    serial: int = 0

    def add(self, table: str, **values: Any) -> Any:
        """Insert one row and return its first column."""
        if table not in self._needed:
            self._needed[table] = self.connection.execute(_NEEDED, [table]).fetchall()
        for column, kind in self._needed[table]:
            values.setdefault(column, uuid.uuid4() if kind == "uuid" else _VALUES[kind])
        query = sql.SQL("INSERT INTO {} AS t ({}) VALUES ({}) RETURNING t.*").format(
            name(table if "." in table else f"public.{table}"),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join([sql.Placeholder()] * len(values)),
        )
        row = self.connection.execute(query, list(values.values())).fetchone()
        assert row
        return row[0]

    def dag(self, dag_id: str, **values: Any) -> None:
        self.connection.execute("INSERT INTO dag_bundle (name) VALUES ('dags') ON CONFLICT DO NOTHING")
        self.add("dag", dag_id=dag_id, bundle_name="dags", max_consecutive_failed_dag_runs=0, **values)

    def run(self, run: Run) -> int:
        """Insert a run with everything that hangs off it; return its id."""
        self.serial += 1
        run_id = f"run_{self.serial:04d}"
        ended = None if run.ended is None else ago(run.ended)
        after = ago(run.logical if run.logical is not None else (run.ended or 0) + 1)
        backfill = None
        if run.backfill:
            completed = ago(1) if run.backfill == "finished" else None
            backfill = self.add("backfill", dag_id=run.dag, completed_at=completed)
        found: int = self.add(
            "dag_run", dag_id=run.dag, run_id=run_id, state=run.state, run_type=run.kind, end_date=ended,
            start_date=ago(730), run_after=after, logical_date=None if run.logical is None else ago(run.logical),
            conf=Json({"ü": ["\\", '"', "\t", None, 1.5]}), backfill_id=backfill, clear_number=0, updated_at=ended,
        )  # fmt: skip
        if backfill:
            self.add("backfill_dag_run", backfill_id=backfill, dag_run_id=found, sort_ordinal=1)
        if run.callback:
            callback = self.add("callback", state=run.callback, type="triggerer", created_at=ago(900))
            self.add("deadline", dagrun_id=found, callback_id=callback)
        for number, task in enumerate(run.tasks):
            self._task(run, run_id, found, number, task)
        self._extras(run, found)
        return found

    def _extras(self, run: Run, found: int) -> None:
        if "note" in run.extras:
            self.add("dag_run_note", dag_run_id=found, content="a\nb\r\n\\N")
        if "asset" in run.extras:
            event = self.add("asset_event", asset_id=1, timestamp=ago(200))
            self.add("dagrun_asset_event", dag_run_id=found, event_id=event)
        if "partition" in run.extras:
            partition = self.add("asset_partition_dag_run", created_dag_run_id=found, target_dag_id=run.dag)
            self.add("partitioned_asset_key_log", asset_partition_dag_run_id=partition, asset_event_id=1)
        if "store" in run.extras:
            self.add("task_state_store", dag_run_id=found, dag_id=run.dag, key="k", value="")

    def _task(self, run: Run, run_id: str, found: int, number: int, task: Task) -> None:
        key = {"dag_id": run.dag, "run_id": run_id, "task_id": f"t{number}", "map_index": -1}
        ti = self.add(
            "task_instance", **key, state=task.state, try_number=1, executor_config=b"\x80\x05}\x94.\xff\\",
            duration=0.1, max_tries=0, pool_slots=1, start_date=ago(300.123), span_status="ended",
        )  # fmt: skip
        if "xcom" in task.extras:
            self.add("xcom", **key, dag_run_id=found, key="return_value", value=Json({"v": "line\nline", "n": None}))
        if "rendered" in task.extras:
            self.add("rendered_task_instance_fields", **key, rendered_fields=Json({"a": "'\"\\"}))
        if "map" in task.extras:
            self.add("task_map", **key, length=3, keys=Json(None))
        if "reschedule" in task.extras:
            self.add("task_reschedule", ti_id=ti)
            self.add("task_reschedule", ti_id=ti)
        if "note" in task.extras:
            self.add("task_instance_note", ti_id=ti, content="")
        if "hitl" in task.extras:
            self.add("hitl_detail", ti_id=ti, subject="Sure?", options=Json(["yes"]), params=Json({}))
        if "history" in task.extras:
            old = self.add("task_instance_history", **key, try_number=0, pool_slots=1, max_tries=0)
            self.add("hitl_detail_history", ti_history_id=old, subject="?", options=Json([]), params=Json({}))
