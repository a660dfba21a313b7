"""What a table needs after many of its rows went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ops_agent.metadata.take.statements import name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

_ROWS = 1000
_SHARE = 0.02


def worthwhile(connection: psycopg.Connection[Any], deleted: Mapping[str, int]) -> list[str]:
    """Return the tables that lost so many rows, and so large a share, that waiting for autovacuum costs more."""
    sizes = dict(
        connection.execute(
            "SELECT t, greatest(c.reltuples, 0) FROM unnest(%s::text[]) AS t"
            " JOIN pg_class AS c ON c.oid = to_regclass(t)",
            [list(deleted)],
        ).fetchall()
    )
    return [table for table, rows in deleted.items() if rows >= _ROWS and rows >= sizes.get(table, 0) * _SHARE]


def maintain(connection: psycopg.Connection[Any], table: str, *, reclaim: bool) -> int:
    """Vacuum and analyze a table; return the bytes given back to the disk.

    With `reclaim` its indexes are built anew beside the old ones, and the end of its file is cut off, for which
    PostgreSQL takes the table's strongest lock for moments, and lets go when somebody waits. Never VACUUM FULL.
    """
    before = _size(connection, table)
    truncate = "true" if reclaim else "false"
    connection.execute(f"VACUUM (ANALYZE, TRUNCATE {truncate}, SKIP_LOCKED) {name(table)}")
    if reclaim:
        connection.execute(f"REINDEX TABLE CONCURRENTLY {name(table)}")
    return max(before - _size(connection, table), 0)


def _size(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute("SELECT pg_total_relation_size(to_regclass(%s))", [table]).fetchone()
    return int(row[0]) if row else 0
