"""The bounded transaction: it takes away exactly the row versions that were exported, or nothing."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors

from ops_agent.archive import catalog
from ops_agent.archive.manifest import ArchiveError
from ops_agent.archive.statements import KEPT_GONE, RUNS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ops_agent.archive.export import Slice
    from ops_agent.archive.statements import Statements

# Shorter than deadlock_timeout, so of two that wait for each other this is the one that gives up.
_SETTINGS = """
SET LOCAL session_replication_role = replica;
SET LOCAL lock_timeout = '100ms';
SET LOCAL statement_timeout = '30s';
SET LOCAL synchronous_commit = {}
"""
_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.QueryCanceled)


class Outcome(enum.Enum):
    """What became of a slice."""

    DELETED = "deleted"
    CHANGED = "changed"  # something in it is not what was exported, or may not go any more
    BUSY = "busy"  # somebody else holds one of its rows


class _LeftAloneError(Exception):
    """Rolls the transaction back."""


@dataclass
class Deleter:
    """Deletes slices of one family over one session."""

    connection: psycopg.Connection[Any]
    statements: Statements
    before: datetime | None
    seconds: float = 0
    longest_seconds: float = 0
    _filled: set[str] = field(default_factory=set)
    _statements: dict[frozenset[str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start from the root, whose rows are what is deleted."""
        self._filled.add(self.statements.family.root)

    def delete(self, slice_: Slice, *, durable: bool) -> tuple[Outcome, Mapping[str, int]]:
        """Delete a slice; return what became of it, and the rows by table.

        With `durable` the commit, and so every one before it, is on disk when this returns. Raises ArchiveError if the
        schema changed, psycopg.OperationalError if the database went away: then only the database knows whether the
        slice is gone.
        """
        started = time.monotonic()
        try:
            with self.connection.transaction():
                self.connection.execute(_SETTINGS.format("on" if durable else "off"))
                rows = self._delete(slice_)
        except _LeftAloneError:
            return Outcome.CHANGED, {}
        except _BUSY:
            return Outcome.BUSY, {}
        finally:
            self.seconds = time.monotonic() - started
            self.longest_seconds = max(self.longest_seconds, self.seconds)
        return Outcome.DELETED, rows

    def flush(self) -> None:
        """Wait until all commits so far are on disk."""
        with self.connection.transaction():
            self.connection.execute("SET LOCAL synchronous_commit = on")
            # A transaction that wrote nothing would not wait.
            self.connection.execute("SELECT pg_current_xact_id()")

    def _delete(self, slice_: Slice) -> dict[str, int]:
        parameters = {"roots": list(slice_.roots), "before": self.before}
        family = self.statements.family
        if slice_.seen is None or not family.plain:
            for statement in self.statements.locks():
                self.connection.execute(statement, parameters)
        # With the locks held no row can come to hang off these any more. Rows that are as they were exported may go as
        # they might then; only what has come to refer to them meanwhile has to be looked for.
        if slice_.seen is None or any(edge.parent in slice_.seen for edge in family.barriers):
            self._refuse_changed(slice_, parameters)
        found = {
            member: (rows, versions)
            for member, rows, versions in self.connection.execute(self._statement(), parameters)
        }
        if slice_.seen is not None:
            expected = {member: (seen.rows, seen.versions) for member, seen in slice_.seen.items()}
            if {member: pair for member, pair in found.items() if pair[0]} != expected:
                raise _LeftAloneError
        # By now every table is locked against a new foreign key; one that came before is seen.
        fingerprint = self.connection.execute(catalog.FINGERPRINT).fetchone()
        if not fingerprint or fingerprint[0] != self.statements.catalog.fingerprint:
            raise ArchiveError("the schema of the database changed under this vacuum; type the command again")
        return {member: rows for member, (rows, _) in found.items()}

    def _statement(self) -> str:
        """Return what deletes, without the members that hold nothing; one that came to hold a row is in from then on.

        Only those that were empty are asked: a table at whose beginning all rows are dead takes long to answer.
        """
        members = self.statements.family.members
        empty = [member for member in members if member not in self._filled]
        if empty:
            filled = self.connection.execute(self.statements.filled(empty)).fetchone() or ()
            self._filled |= {member for member in filled if member}
        present = frozenset(self._filled)
        if present not in self._statements:
            self._statements[present] = self.statements.delete(present)
        return self._statements[present]

    def _refuse_changed(self, slice_: Slice, parameters: dict[str, Any]) -> None:
        still = self.connection.execute(self.statements.still(), parameters).fetchone()
        if not still or still[0] != len(slice_.roots):
            raise _LeftAloneError
        if self.statements.family.root == RUNS:
            gone = self.connection.execute(KEPT_GONE, [parameters["roots"]]).fetchone()
            if not gone or gone[0]:
                raise _LeftAloneError
