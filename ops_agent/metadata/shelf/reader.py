"""Reads data files of an archive; nothing is returned that is not what the manifest says was written."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf.manifest import ROOT_COLUMN, ArchiveError

if TYPE_CHECKING:
    from ops_agent.metadata.shelf.manifest import Archive, DataFile, Table


def read(archive: Archive, file: DataFile, table: Table) -> Any:
    """Return the file's rows as a pyarrow.Table; raises ArchiveError that says what is wrong with which file."""
    import pyarrow as pa  # noqa: PLC0415 - hosts without an archive engine have none
    from pyarrow import parquet  # noqa: PLC0415

    where = f"archive {archive.archive_id}: {file.path}"
    try:
        content = archive.store.read(archive.path(file.path))
    except OSError as error:
        raise ArchiveError(f"{where} cannot be read: {error}") from error
    if len(content) != file.bytes:
        raise ArchiveError(f"{where} has {len(content)} bytes, {file.bytes} were written")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ArchiveError(f"{where} is not what was written: its SHA-256 differs from the manifest's")
    try:
        found = parquet.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise ArchiveError(f"{where} is no Parquet file: {error}") from error
    expected = [ROOT_COLUMN, *(column.name for column in table.columns)]
    if found.column_names != expected:
        wrong = sorted(set(found.column_names) ^ set(expected))
        raise ArchiveError(f"{where} has other columns than the manifest says: {', '.join(wrong) or 'their order'}")
    if found.num_rows != file.rows:
        raise ArchiveError(f"{where} has {found.num_rows} rows, {file.rows} were written")
    return found
