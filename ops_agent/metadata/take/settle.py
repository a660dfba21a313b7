"""Makes files and database agree: of a batch that was exported, only what is really gone stays in the files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ops_agent.metadata.shelf import reader
from ops_agent.metadata.shelf.manifest import (
    CLOSED,
    DONE,
    ROOT_COLUMN,
    RUNNING,
    Archive,
    ArchiveError,
    Batch,
    DataFile,
    Manifest,
    archives,
    data_path,
)
from ops_agent.metadata.take import export

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

    from ops_agent.metadata.shelf.manifest import Table
    from ops_agent.metadata.shelf.store import Store
    from ops_agent.metadata.take.statements import Statements

_KEYS_AT_ONCE = 5000


def killed(store: Store) -> list[Archive]:
    """Return the archives of vacuums that did not come to their end; to be asked with the lock held."""
    return [archive for archive in archives(store) if _state(archive) == RUNNING]


def remove_unborn(store: Store) -> None:
    """Remove what is left of a vacuum that was killed before its manifest was written; the lock is held."""
    for found in archives(store):
        if not store.list(found.archive_id):
            store.remove(found.archive_id)


def archive(
    found: Archive, connection: psycopg.Connection[Any], families: dict[str, Statements], now: datetime
) -> Manifest:
    """Settle every batch of an archive, remove files of none, and close it."""
    manifest = found.manifest()
    batches = list(found.batches())
    for number, settled in enumerate(batches):
        if settled.state != DONE:
            if settled.family not in families:
                raise ArchiveError(f"archive {found.archive_id}: family {settled.family} is unknown to this version")
            left = _present(found, manifest, settled, connection, families[settled.family])
            batches[number] = batch(found, manifest, settled, left)
    _remove_strays(found, batches)
    # Two batches are in the making at once: the later one may have got its document, the earlier one none.
    for number in sorted(
        set(range(1, max((each.number for each in batches), default=0))) - {e.number for e in batches}
    ):
        found.write(Batch(number, batches[0].family, DONE, 0, ()))
    closed = replace(manifest, state=CLOSED, finished_at=now.isoformat(), result=totals(batches, manifest))
    found.write(closed)
    return closed


def batch(found: Archive, manifest: Manifest, exported: Batch, left: set[str]) -> Batch:
    """Take out of the files what hangs off the roots that are `left` in the database, and call the batch done.

    The new files get names of their own, the document names them, and only then the old ones go.
    """
    if not left:
        settled = replace(exported, state=DONE)
        found.write(settled)
        return settled
    files, roots = [], 0
    for file in exported.files:
        moved = _without(reader.read(found, file, manifest.table(file.table)), left)
        if moved.num_rows:
            files.append(_rewrite(found, manifest.table(file.table), exported.number, moved))
        if file.table == exported.family:
            roots = moved.num_rows
    settled = replace(exported, state=DONE, roots=roots, files=tuple(files))
    found.write(settled)
    for file in exported.files:
        found.store.remove(found.path(file.path))
    return settled


def totals(batches: list[Batch], manifest: Manifest) -> dict[str, Any]:
    """Add up what the files of an archive hold, table by table."""
    rows: dict[str, int] = {}
    size: dict[str, int] = {}
    for each in batches:
        for file in each.files:
            rows[file.table] = rows.get(file.table, 0) + file.rows
            size[file.table] = size.get(file.table, 0) + file.bytes
    return {
        "archive_id": manifest.archive_id,
        "tables": [
            {"name": name, "archived": count, "deleted": count, "bytes": size[name]} for name, count in rows.items()
        ],
    }


def _state(found: Archive) -> str:
    try:
        return found.manifest().state
    except ArchiveError:
        # No manifest yet: nothing was exported, so nothing was deleted; or one that this version cannot read.
        return ""


def _present(
    found: Archive, manifest: Manifest, exported: Batch, connection: psycopg.Connection[Any], statements: Statements
) -> set[str]:
    """Return the roots of a batch that the database still has."""
    file = next((file for file in exported.files if file.table == exported.family), None)
    if file is None:
        return set()
    roots = reader.read(found, file, manifest.table(file.table)).column(ROOT_COLUMN).to_pylist()
    present: set[str] = set()
    for start in range(0, len(roots), _KEYS_AT_ONCE):
        parameters = {"roots": roots[start : start + _KEYS_AT_ONCE]}
        present |= {key for (key,) in connection.execute(statements.existing(), parameters)}
    return present


def _without(rows: pa.Table, roots: set[str]) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows.column(ROOT_COLUMN), pa.array(sorted(roots), pa.string()))))


def _rewrite(found: Archive, table: Table, number: int, rows: pa.Table) -> DataFile:
    path = data_path(table.name, number, revision=1)
    with found.store.staged(found.path(path)) as staged:
        parquet.write_table(rows, staged, **export.layout(rows))
        found.store.publish(staged, found.path(path))
    content = found.store.read(found.path(path))
    written = export.data_file(table.name, path, rows.num_rows, content)
    if not parquet.read_table(pa.BufferReader(content)).combine_chunks().equals(rows.combine_chunks()):
        raise ArchiveError(f"archive {found.archive_id}: {path} cannot be read back as it was written")
    return written


def _remove_strays(found: Archive, batches: list[Batch]) -> None:
    named = {found.path(file.path) for each in batches for file in each.files}
    for path in found.store.list(found.path("data")):
        if path not in named:
            found.store.remove(path)
