"""The bounded transaction: rows leave the database and enter the archive's files in it, or neither.

`COPY (DELETE … RETURNING …)` makes what is deleted and what is archived the same rows by construction. The files are
durable and were read back, and the batch's document says `exported`, before the transaction commits.
"""

from __future__ import annotations

import contextlib
import enum
import heapq
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors

from ops_agent.metadata.session import Rows, StreamError
from ops_agent.metadata.shelf import columns
from ops_agent.metadata.shelf.manifest import DONE, EXPORTED, ArchiveError, Batch, DataFile, data_path
from ops_agent.metadata.take import catalog, export

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from ops_agent.metadata.shelf.manifest import Archive, Table
    from ops_agent.metadata.take.batches import Slice
    from ops_agent.metadata.take.statements import Statements

# The lock's is shorter than deadlock_timeout, so of two that wait for each other this is the one that gives up.
_BEGIN = """
SELECT set_config('session_replication_role', 'replica', true), set_config('lock_timeout', '100ms', true),
  set_config('statement_timeout', '30s', true), set_config('synchronous_commit', 'on', true),
  set_config('default_statistics_target', '10', true)
"""
_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.QueryCanceled, StreamError)
_ANALYZE_EVERY = 32
_FILES_AT_ONCE = 4


class Outcome(enum.Enum):
    """What became of a slice."""

    MOVED = "moved"
    CHANGED = "changed"  # something came to refer to one of its rows
    BUSY = "busy"  # somebody else holds one of its rows


class _LeftAloneError(Exception):
    """Rolls the transaction back; with `again` it would go well now."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.again = again


@dataclass(frozen=True)
class Moved:
    """What one transaction did; `rows` by table, `busy` counts the roots that somebody else held.

    Of its `seconds` the `fixed` ones went by after the last row had come.
    """

    part: Slice
    outcome: Outcome
    seconds: float
    rows: Mapping[str, int] = field(default_factory=dict)
    busy: int = 0
    batch: Batch | None = None
    fixed: float = 0.0


class BatchNumbers:
    """Numbers batches through one archive, whichever family they are of; several threads may ask."""

    def __init__(self) -> None:
        """Start at 1."""
        self._last = 0
        self._free: list[int] = []
        self._lock = threading.Lock()

    def next(self) -> int:
        """Return the lowest number that no batch has."""
        with self._lock:
            if self._free:
                return heapq.heappop(self._free)
            self._last += 1
            return self._last

    def give_back(self, number: int) -> None:
        """Say that no batch came to have the number."""
        with self._lock:
            heapq.heappush(self._free, number)

    def unused(self) -> list[int]:
        """Return numbers below others that batches have."""
        return sorted(self._free)


@dataclass(frozen=True)
class FamilyContext:
    """What the movers of one family share; `archive` None deletes without keeping anything.

    With `turn` held the database works for one mover; it lets go while its files are made durable, for another's sake.
    """

    statements: Statements
    tables: Mapping[str, Table]
    archive: Archive | None
    numbers: BatchNumbers
    before: datetime | None
    layouts: dict[str, dict[str, Any]]
    turn: contextlib.AbstractContextManager[Any]


class Mover:
    """Moves slices of one family over a session of its own."""

    def __init__(self, session: Rows, context: FamilyContext) -> None:
        """Ask which tables hold anything. Raises psycopg.Error."""
        self._session = session
        self._statements = context.statements
        self._tables = context.tables
        self._archive = context.archive
        self._numbers = context.numbers
        self._before = context.before
        self._layouts = context.layouts
        self._turn = context.turn
        self._batches = 0
        self._busy = 0
        self._root = context.statements.family.root
        self._filled = {self._root}
        self._key_tables: set[str] = set()
        self._files = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="files")
        self._know_filled(self._one(context.statements.filled(context.tables)))

    def close(self) -> None:
        """End the threads that write files."""
        self._files.shutdown()

    def move(self, part: Slice) -> Moved:
        """Move a part, as far as its rows may go and nobody holds them; see `Moved.outcome`.

        Raises ArchiveError if the schema changed or a file is not what was written, OSError, psycopg.OperationalError
        if the database went away: then only the database knows whether the part is gone.
        """
        batch = _Files(self._archive, self._numbers, self._files, self._layouts)
        started = time.monotonic()
        try:
            with contextlib.ExitStack() as turn:
                turn.enter_context(self._turn)
                self._make_key_tables(part)
                started = time.monotonic()
                with self._session.transaction():
                    rows = self._delete(part, batch)
                    self._refuse_changes()
                    turn.close()
                    read = time.monotonic()
                    document = batch.finish(self._root, rows.get(self._root, 0))
        except _LeftAloneError as error:
            batch.drop()
            if error.again:
                return self.move(part)
            return Moved(part, Outcome.CHANGED, time.monotonic() - started)
        except _BUSY as error:
            if batch.finished or not self._session.alive():
                batch.abandon()
                raise psycopg.OperationalError(str(error)) from error
            batch.drop()
            return Moved(part, Outcome.BUSY, time.monotonic() - started)
        except BaseException:
            batch.abandon()
            raise
        ended = time.monotonic()
        self._batches += 1
        if document and self._archive:
            document = replace(document, state=DONE)
            self._archive.write(document)
        return Moved(part, Outcome.MOVED, ended - started, rows, self._busy, document, ended - read)

    def _delete(self, part: Slice, batch: _Files) -> dict[str, int]:
        self._one(_BEGIN)
        statements = self._statements
        # One by one they are read in a way that says why it failed.
        whole = part.roots is not None and len(part.roots) == 1
        if part.roots is None:
            statement = statements.delete_range(part.after, part.end, self._before)
            return {self._root: self._take(self._root, statement, batch, whole=whole)}
        rows = {}
        keyed = statements.keyed(self._filled)
        self._keep_roots(part)
        for member in statements.family.members[1:]:
            if member not in self._filled:
                continue
            if member in keyed:
                self._session.run(statements.keep_keys(member))
                self._analyze(member)
            rows[member] = self._take(member, statements.delete(member), batch, whole=whole)
        rows[self._root] = self._take(self._root, statements.delete(self._root), batch, whole=whole)
        return {member: count for member, count in rows.items() if count}

    def _make_key_tables(self, part: Slice) -> None:
        if part.roots is None:
            return
        for member in self._statements.keyed(self._filled):
            if member not in self._key_tables:
                self._session.run(self._statements.key_table(member))
                self._key_tables.add(member)

    def _keep_roots(self, part: Slice) -> None:
        """Lock the roots, and keep the keys of those that may still go: no row can come to hang off them any more."""
        locked = self._session.all(self._statements.lock(part.roots or ())).column(0).to_pylist()
        self._busy = len(part.roots or ()) - len(locked)
        self._session.run(self._statements.take(locked, self._before))
        self._analyze(self._root)

    def _analyze(self, member: str) -> None:
        if self._batches % _ANALYZE_EVERY == 0:
            self._session.run(self._statements.analyze(member))

    def _take(self, member: str, statement: str, batch: _Files, *, whole: bool) -> int:
        if self._archive is None:
            return int(self._one(self._statements.counted(statement))[0])
        table = self._tables[member]
        count = 0
        for block in self._session.all(statement).to_batches() if whole else self._session.blocks(statement):
            if block.num_rows:
                count += block.num_rows
                batch.add(table, columns.checked(table, block))
        batch.close(table)
        return count

    def _refuse_changes(self) -> None:
        """See to it that nothing came while the rows were being locked that the deletion did not know of.

        By now every table is locked against a new foreign key; one that came before is seen.
        """
        statements = self._statements
        empty = [member for member in statements.family.members if member not in self._filled]
        referred = statements.still_referred(self._key_tables)
        checks = [f"({catalog.FINGERPRINT})", f"({referred})"]
        if empty:
            checks.append(statements.filled(empty).removeprefix("SELECT "))
        fingerprint, still, *filled = self._one(f"SELECT {', '.join(checks)}")
        if fingerprint != statements.catalog.fingerprint:
            raise ArchiveError("the schema of the database changed under this vacuum; type the command again")
        self._know_filled(filled)
        if still or any(filled):
            raise _LeftAloneError(again=not still)

    def _know_filled(self, members: list[Any]) -> None:
        self._filled |= {member for member in members if member}

    def _one(self, statement: str) -> list[Any]:
        row = self._session.all(statement)
        return [column[0].as_py() for column in row.columns]


class _Files:
    """The files of one batch in the making; each is finished by a thread while the server works on the next table."""

    def __init__(
        self,
        archive: Archive | None,
        numbers: BatchNumbers,
        pool: ThreadPoolExecutor,
        layouts: dict[str, dict[str, Any]],
    ) -> None:
        self._archive = archive
        self._layouts = layouts
        self._numbers = numbers
        self._pool = pool
        self._number = 0
        self._stack = contextlib.ExitStack()
        self._open: dict[str, tuple[export.Writer, Any]] = {}
        self._coming: list[Future[DataFile]] = []
        self.finished = False

    def add(self, table: Table, rows: Any) -> None:
        """Take rows of a table."""
        if self._archive is None:
            return
        if not self._number:
            self._number = self._numbers.next()
        if table.name not in self._open:
            path = self._archive.path(data_path(table.name, self._number))
            self._open[table.name] = (
                export.Writer(table, self._layouts),
                self._stack.enter_context(self._archive.store.staged(path)),
            )
        writer, staged = self._open[table.name]
        writer.add(rows, staged)

    def close(self, table: Table) -> None:
        """No more rows of this table come."""
        if self._archive and table.name in self._open:
            writer, staged = self._open[table.name]
            self._coming.append(self._pool.submit(export.publish, self._archive, writer, self._number, staged))

    def finish(self, family: str, roots: int) -> Batch | None:
        """Wait until all files are durable and proven, and write the batch's document; None if there is no row."""
        if self._archive is None or not self._coming:
            return None
        files = tuple(coming.result() for coming in self._coming)
        batch = Batch(self._number, family, EXPORTED, roots, files)
        # From here on only the database says whether the transaction commits.
        self.finished = True
        self._archive.write(batch)
        self._stack.close()
        return batch

    def drop(self) -> None:
        """Remove the files: the transaction was rolled back, and the vacuum goes on."""
        for coming in self._settled():
            if self._archive and not coming.exception():
                self._archive.store.remove(self._archive.path(coming.result().path))
        self._close()
        if self._number:
            self._numbers.give_back(self._number)

    def abandon(self) -> None:
        """Stop writing; what is there is for `settle`."""
        list(self._settled())
        self._close()

    def _close(self) -> None:
        for writer, _ in self._open.values():
            writer.abandon()
        self._stack.close()

    def _settled(self) -> Iterator[Future[DataFile]]:
        for coming in self._coming:
            with contextlib.suppress(Exception):
                coming.result()
            yield coming
