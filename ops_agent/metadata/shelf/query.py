"""SQL over archives: DuckDB reads the Parquet files where they are, and nothing else."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf import times
from ops_agent.metadata.shelf.manifest import DONE, ROOT_COLUMN, ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops_agent.metadata.shelf.manifest import Archive

_BATCH_ROWS = 1000
# The database is this host's first duty.
LIMITS = "SET TimeZone = 'UTC'; SET threads = 1; SET memory_limit = '256MB'; SET max_temp_directory_size = '10GB'"
_ARCHIVE = "regexp_extract(__file, '([0-9]{8}T[0-9]{6}Z-[0-9a-f]{6})/data/', 1) AS archive"


def query(archives: Sequence[Archive], sql: str) -> Iterator[dict[str, Any]]:
    """Run one SELECT; give {"columns": [...]}, then {"rows": [[...], ...]} with texts, numbers, booleans and nulls.

    Each table is a view of its own name (`dag_run`, `celery.celery_taskmeta`) over all `archives`, with one column
    more, `archive`: a run that was restored and archived again is in two. Raises ArchiveError if the text is no
    SELECT, or DuckDB refuses it.
    """
    import duckdb  # noqa: PLC0415 - hosts without an archive engine have none

    connection = duckdb.connect(":memory:")
    # Not /tmp, which is memory on the fleet's machines.
    spool = tempfile.TemporaryDirectory(prefix="ops-archive-", dir="/var/tmp")
    try:
        connection.execute(f"{LIMITS}; SET temp_directory = '{spool.name}'")
        locations = _views(connection, archives)
        _close(connection, locations)
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type.name not in {"SELECT", "EXPLAIN"}:
            raise ArchiveError("an archive can only be read: give one SELECT")
        # By Arrow: DuckDB's own way to a time with a zone needs another library.
        reader = connection.sql(sql).to_arrow_reader(_BATCH_ROWS)
        yield {"columns": reader.schema.names}
        for rows in reader:
            values = [_values(column) for column in rows.columns]
            yield {"rows": [list(row) for row in zip(*values, strict=True)]}
    except duckdb.Error as error:
        raise ArchiveError(f"the query cannot be answered: {error}") from error
    except OverflowError as error:
        raise ArchiveError("a time before the year 1 or after 9999 is inside of a list or struct: unnest it") from error
    finally:
        connection.close()
        spool.cleanup()


def _views(connection: Any, archives: Sequence[Archive]) -> list[str]:
    """Make the views; return what they read."""
    files: dict[str, list[str]] = {}
    columns: dict[str, dict[str, None]] = {}
    for archive in archives:
        _register(connection, archive)
        for table in archive.manifest().tables:
            columns.setdefault(table.name, {}).update(dict.fromkeys(column.name for column in table.columns))
        for batch in archive.batches():
            if batch.state == DONE:
                for file in batch.files:
                    files.setdefault(file.table, []).append(archive.store.location(archive.path(file.path)))
    for full_name, paths in files.items():
        space, name = full_name.split(".", 1)
        target = f'"{name}"' if space == "public" else f'"{space}"."{name}"'
        if space != "public":
            connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{space}"')
        quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        rows = f"read_parquet([{quoted}], union_by_name = true, filename = '__file')"
        connection.execute(f"CREATE VIEW {target} AS FROM {rows} SELECT {_ARCHIVE}, * EXCLUDE (__file, {ROOT_COLUMN})")
    return [path for paths in files.values() for path in paths]


def _register(connection: Any, archive: Archive) -> None:
    """Let DuckDB read an object store through fsspec; its own extension for S3 would have to be downloaded."""
    filesystem = getattr(archive.store, "filesystem", None)
    if filesystem is None:
        return
    names = filesystem.protocol
    if not connection.filesystem_is_registered(names if isinstance(names, str) else names[0]):
        connection.register_filesystem(filesystem)


def _close(connection: Any, locations: Sequence[str]) -> None:
    """From here on no statement reaches any other file of this host."""
    quoted = ", ".join("'" + location.replace("'", "''") + "'" for location in locations)
    connection.execute(f"SET allowed_paths = [{quoted}]; SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _values(column: Any) -> list[object]:
    if times.unusual(column):
        return list(times.texts(column))
    return [_plain(value) for value in column.to_pylist()]


def _plain(value: object) -> object:
    """Return what JSON has: numbers, booleans and nulls as they are, everything else as text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
