"""A small archive on disk, written as the engine writes one."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ops_agent.metadata.shelf.manifest import (
    COMPLETE,
    DONE,
    ROOT_COLUMN,
    Archive,
    Batch,
    Column,
    DataFile,
    Manifest,
    Table,
    data_path,
)
from ops_agent.metadata.shelf.store import Directory

RUNS = Table(
    "public.dag_run",
    "public.dag_run",
    ("id",),
    (
        Column("id", "integer", nullable=False, encoding="exact"),
        Column("dag_id", "character varying(250)", nullable=False, encoding="exact"),
        Column("conf", "jsonb", nullable=True, encoding="text"),
        Column("end_date", "timestamp with time zone", nullable=True, encoding="exact"),
    ),
)
RESULTS = Table(
    "celery.celery_taskmeta",
    "celery.celery_taskmeta",
    ("id",),
    (
        Column("id", "integer", nullable=False, encoding="exact"),
        Column("result", "bytea", nullable=True, encoding="hex"),
    ),
)
_TYPES = {
    "integer": pa.int32(),
    "bytea": pa.binary(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}


def write(  # noqa: PLR0913 - what a test may want different
    root: Path,
    archive_id: str = "20260101T000000Z-abcdef",
    *,
    runs: tuple[dict[str, Any], ...] = ({"id": 1, "dag_id": "a"}, {"id": 2, "dag_id": "b", "conf": '{"x": 1}'}),
    created_at: str = "2026-01-01T00:00:00+00:00",
    state: str = COMPLETE,
    batch_state: str = DONE,
) -> Archive:
    """Write an archive of one batch of runs and one of results."""
    archive = Archive(Directory(root), archive_id)
    results = ({"id": 7, "result": b"\x80\x04"},)
    for number, (table, rows) in enumerate(((RUNS, runs), (RESULTS, results)), start=1):
        file = _file(archive, table, number, rows)
        archive.write(Batch(number, table.family, batch_state, len(rows), (file,)))
    archive.write(
        Manifest(
            archive_id=archive_id,
            state=state,
            created_at=created_at,
            created_by="alice@control",
            database="airflow@1",
            postgres_version="170006",
            airflow_version="3.3.2",
            schema_revision="rev1",
            cutoff="2025-10-01T00:00:00+00:00",
            policy={"retention": "90d"},
            tables=(RUNS, RESULTS),
            finished_at=created_at,
        )
    )
    return archive


def _file(archive: Archive, table: Table, number: int, rows: tuple[dict[str, Any], ...]) -> DataFile:
    columns = {ROOT_COLUMN: pa.array([str(row["id"]) for row in rows], pa.string())}
    for column in table.columns:
        kind = _TYPES.get(column.type, pa.string())
        values = [row.get(column.name) for row in rows]
        # A time may be given as Arrow counts it, for Python lacks some.
        raw = pa.int64() if any(isinstance(value, int) for value in values) and pa.types.is_timestamp(kind) else kind
        columns[column.name] = pa.array(values, raw).cast(kind)
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out, compression="zstd")
    content, path = out.getvalue(), data_path(table.name, number)
    archive.store.write(archive.path(path), content)
    return DataFile(table.name, path, len(rows), len(content), hashlib.sha256(content).hexdigest())
