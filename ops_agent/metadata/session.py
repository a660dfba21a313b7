"""Sessions of the archive engine: psycopg's for what it asks, ADBC's for rows, which become Arrow in the driver."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import adbc_driver_manager
import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from ops_agent.metadata.shelf import columns

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS = {
    **columns.SESSION,
    "client_encoding": "UTF8",
    # A plan that was made for an average list of roots would be wrong for this one.
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "idle_in_transaction_session_timeout": "60s",
    # In a long statement the server would not see that this process is gone, and go on holding its locks.
    "client_connection_check_interval": "1s",
}
_BLOCK_BYTES = 8 << 20


def connect(dsn: str, purpose: str) -> psycopg.Connection[Any]:
    """Open a session that commits every statement. Raises psycopg.OperationalError."""
    connection: psycopg.Connection[Any] = psycopg.connect(
        dsn, autocommit=True, application_name=f"ops-agent: vacuum ({purpose})", connect_timeout=10
    )
    # Every table is reached by an index from its parent, whatever statistics say of a table that has just grown or
    # shrunk: time a row stays the same from the first slice to the last.
    for name, value in {**_SETTINGS, "enable_seqscan": "off"}.items():
        connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    return connection


class StreamError(psycopg.Error):
    """A statement failed while its rows came, and the driver does not say by which SQLSTATE."""


class Rows:
    """A session that reads whole results as Arrow; statements take no parameters. It commits every statement."""

    def __init__(self, dsn: str, purpose: str) -> None:
        """Open it. Raises psycopg.OperationalError."""
        name = f"ops-agent: vacuum ({purpose})"
        with _translated():
            self._connection = dbapi.connect(
                make_conninfo(dsn, application_name=name, connect_timeout=10), autocommit=True
            )
        for setting, value in _SETTINGS.items():
            self.run(f"SET {setting} = '{value}'")

    def run(self, statement: str) -> None:
        """Execute a statement that returns nothing. Raises psycopg.Error."""
        with _translated(), self._connection.cursor() as cursor:
            cursor.execute(statement)

    def all(self, statement: str) -> pa.Table:
        """Return everything at once. Raises psycopg.Error."""
        with _translated(), self._connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetch_arrow_table()

    def blocks(self, statement: str) -> Iterator[pa.RecordBatch]:
        """Yield some megabytes at a time. Raises psycopg.Error, StreamError if it fails in the middle."""
        with _translated(), self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BLOCK_BYTES)})
            cursor.execute(statement)
            yield from cursor.fetch_record_batch()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block, roll back if it raises."""
        self.run("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                self.run("ROLLBACK")
            raise
        self.commit()

    def commit(self) -> None:
        """Commit."""
        self.run("COMMIT")

    def alive(self) -> bool:
        """Whether the server still answers."""
        try:
            self.all("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def close(self) -> None:
        """End the session."""
        with contextlib.suppress(adbc_driver_manager.Error):
            self._connection.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise psycopg's errors, by their SQLSTATE, for the driver's."""
    try:
        yield
    except adbc_driver_manager.Error as error:
        kind: type[psycopg.Error] = psycopg.OperationalError
        if error.sqlstate:
            with contextlib.suppress(KeyError):
                kind = errors.lookup(error.sqlstate)
        raise kind(str(error)) from error
    except (pa.ArrowException, OSError) as error:
        raise StreamError(str(error)) from error
