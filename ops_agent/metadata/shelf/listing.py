"""What archives there are, and what is in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf.manifest import DONE, ArchiveError

if TYPE_CHECKING:
    from ops_agent.metadata.shelf.manifest import Archive

_RUNS = "public.dag_run"


def entry(archive: Archive) -> dict[str, Any]:
    """Return one line of the list; an archive that cannot be read is listed with why."""
    try:
        return _summary(archive)
    except ArchiveError as error:
        return {"archive_id": archive.archive_id, "state": "damaged", "error": str(error)}


def show(archive: Archive) -> dict[str, Any]:
    """Return all that the manifest says, with rows and bytes by table; raise ArchiveError if it cannot be read."""
    manifest = archive.manifest()
    tables: dict[str, dict[str, Any]] = {}
    for file in archive.files():
        table = tables.setdefault(file.table, {"name": file.table, "rows": 0, "bytes": 0, "files": 0})
        table["rows"] += file.rows
        table["bytes"] += file.bytes
        table["files"] += 1
    return _summary(archive) | {
        "finished_at": manifest.finished_at,
        "database": manifest.database,
        "postgres_version": manifest.postgres_version,
        "policy": dict(manifest.policy),
        "location": archive.store.location(archive.archive_id),
        "tables": list(tables.values()),
    }


def _summary(archive: Archive) -> dict[str, Any]:
    manifest = archive.manifest()
    done = [batch for batch in archive.batches() if batch.state == DONE]
    return {
        "archive_id": archive.archive_id,
        "state": manifest.state,
        "created_at": manifest.created_at,
        "created_by": manifest.created_by,
        "cutoff": manifest.cutoff,
        "airflow_version": manifest.airflow_version,
        "schema_revision": manifest.schema_revision,
        "runs": sum(batch.roots for batch in done if batch.family == _RUNS),
        "rows": sum(file.rows for batch in done for file in batch.files),
        "bytes": sum(file.bytes for batch in done for file in batch.files),
    }
