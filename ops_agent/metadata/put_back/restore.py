"""Puts archived rows back: equal to what was taken, a batch in one transaction, foreign keys whole at every commit.

A run that is in the database is left as it is, so that restoring twice, or again after a kill, does nothing twice. Ids
are kept and sequences are not touched: an id that its sequence never gave out is refused.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from ops_agent.metadata.put_back import live
from ops_agent.metadata.put_back.keys import Keys, join, outside, quoted, target
from ops_agent.metadata.shelf import copy_text, reader
from ops_agent.metadata.shelf.manifest import DONE, ROOT_COLUMN, Archive, ArchiveError, Batch, Column, Manifest, Table
from ops_agent.metadata.take.graph import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")
RUNS = "public.dag_run"
_ANALYZE_ROWS = 10_000

# Foreign keys are checked below, by the batch and with the parents locked; the server's triggers do it by the row.
_BEGIN = """
SET LOCAL session_replication_role = replica;
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = 0
"""


class RestoreError(ArchiveError):
    """Rows cannot go back; the text says which, and why."""


@dataclass(frozen=True)
class Source:
    """An archive with its documents read once."""

    archive: Archive
    manifest: Manifest
    batches: tuple[Batch, ...]

    @classmethod
    def read(cls, archive: Archive) -> Source:
        """Read the documents; batches whose rows are still in the database do not count."""
        manifest = archive.manifest()
        return cls(
            archive, manifest, tuple(batch for batch in archive.batches() if batch.state == DONE and batch.files)
        )

    def rows(self, batch: Batch, table: str) -> Any:
        """Return the batch's rows of a table as a pyarrow.Table; None if it has none."""
        file = next((file for file in batch.files if file.table == table), None)
        return reader.read(self.archive, file, self.manifest.table(table)) if file else None

    def load(self, batch: Batch) -> dict[str, Any]:
        """Return all rows of a batch, by table."""
        return {file.table: reader.read(self.archive, file, self.manifest.table(file.table)) for file in batch.files}

    def in_order(self) -> list[Batch]:
        """Return the batches, those of parents before those of their children."""
        order = {table.name: number for number, table in enumerate(self.manifest.tables)}
        return sorted(self.batches, key=lambda batch: (order[batch.family], batch.number))


class _Sources:
    """Sources that are read when they are first come to, and once: an object store has many, far away."""

    def __init__(self, coming: Iterator[Source]) -> None:
        self._coming = coming
        self._read: list[Source] = []

    def __iter__(self) -> Iterator[Source]:
        # By number, because looking for one row's parents may start another round in the middle of this one.
        number = 0
        while number < len(self._read) or self._more():
            yield self._read[number]
            number += 1

    def _more(self) -> bool:
        source = next(self._coming, None)
        if source is not None:
            self._read.append(source)
        return source is not None


@dataclass
class Outcome:
    """What was put back: rows by table, runs, and roots that were there already."""

    rows: dict[str, int] = field(default_factory=dict)
    runs: list[int] = field(default_factory=list)
    present: int = 0
    started: float = field(default_factory=time.monotonic)

    def as_json(self) -> dict[str, Any]:
        """Return the last line that `ops-agent archive restore` prints."""
        seconds = time.monotonic() - self.started
        total = sum(self.rows.values())
        return {
            "tables": [{"name": name, "restored": rows} for name, rows in self.rows.items()],
            "rows": total,
            "runs": len(self.runs),
            "present": self.present,
            "seconds": round(seconds, 3),
            "rows_per_s": round(total / seconds) if seconds else 0,
        }


class Restorer:
    """Puts batches back, by a session that commits every statement.

    `sources` is where missing parents are looked for, newest first; with `dry_run` everything but the writing is done.
    A whole archive is written by the sessions `writers` at once, a batch each, if there are any;
    `tell` is called by one at a time.
    """

    def __init__(
        self,
        connection: Any,
        sources: Iterable[Source],
        tell: Callable[[Outcome], None],
        *,
        writers: Sequence[Any] = (),
        dry_run: bool = False,
    ) -> None:
        self.connection = connection
        self._writers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for writer in writers or (connection,):
            self._writers.put(writer)
        self._writers_count = len(writers)
        self._pool = ThreadPoolExecutor(max_workers=max(len(writers), 1), thread_name_prefix="restore")
        self._pending: set[Future[None]] = set()
        self._accounts = threading.Lock()
        self.sources = _Sources(iter(sources))
        self.tell = tell
        self.dry_run = dry_run
        self.outcome = Outcome()
        self.live = live.schema(connection, SCHEMAS)
        self.sequences = live.sequences(connection, SCHEMAS)
        self.references = live.references(connection)
        # Roots that several batches may ask for as parents, and that are put back (or would be): by table and root.
        self._done: set[tuple[str, str]] = set()
        self._parents = {key.parent for keys in self.references.values() for key in keys}

    def archive(self, source: Source) -> None:
        """Put a whole archive back; nothing is changed if one of its runs cannot go back."""
        self._refuse_misfits(source, source.manifest.tables)
        for batch in source.batches:
            if batch.family == RUNS:
                rows = source.rows(batch, RUNS)
                self._present(source, batch, rows)
                self._refuse_unknown_numbers({RUNS: rows})
        family = ""
        try:
            for batch, rows in _ahead((batch, source.load(batch)) for batch in source.in_order()):
                # Rows of another family may refer to those of this one.
                self._await(0 if batch.family != family else self._writers_count)
                family = batch.family
                self.batch(source, batch, None, rows, self._submit if self._writers_count else None)
            self._await(0)
        finally:
            wait(self._pending)

    def _submit(self, *job: Any) -> None:
        self._pending.add(self._pool.submit(self._put, *job))

    def _await(self, most: int) -> None:
        """Wait until no more than so many batches are being written; raise what one of them raised."""
        while len(self._pending) > most:
            done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
            for each in done:
                each.result()

    def analyze(self) -> None:
        """Give the planner figures of the tables that grew; the server's own turn may be a minute away."""
        for name, rows in self.outcome.rows.items():
            if rows >= _ANALYZE_ROWS:
                self.connection.execute(f"ANALYZE {target(name)}")

    def run(self, dag_id: str, run_id: str) -> None:
        """Put one run back from the newest archive that has it; raise RestoreError if none has."""
        from pyarrow import compute  # noqa: PLC0415 - hosts without an archive engine have none

        for source in self.sources:
            for batch in source.batches:
                if batch.family != RUNS:
                    continue
                rows = source.rows(batch, RUNS)
                wanted = compute.and_(
                    compute.equal(rows.column("dag_id"), dag_id), compute.equal(rows.column("run_id"), run_id)
                )
                if roots := rows.filter(wanted).column(ROOT_COLUMN).to_pylist():
                    self.batch(source, batch, set(roots))
                    return
        raise RestoreError(
            f"no archive has a run {run_id!r} of DAG {dag_id!r}; ops archive list --env ENV shows what there is"
        )

    def batch(
        self,
        source: Source,
        batch: Batch,
        roots: set[str] | None,
        loaded: dict[str, Any] | None = None,
        put: Callable[..., None] | None = None,
    ) -> None:
        """Put the rows of `roots` (all if None) of one batch back, after the parents that they need.

        `loaded` are the batch's rows if they were read before; `put` writes them some time, instead of now.
        """
        root_rows = loaded[batch.family] if loaded else source.rows(batch, batch.family)
        found = _of(root_rows, roots)
        present = self._present(source, batch, found)
        wanted = set(found.column(ROOT_COLUMN).to_pylist()) - present
        done = {root for family, root in self._done if family == batch.family}
        wanted -= done
        self.outcome.present += len(present - done)
        if not wanted:
            return
        tables = [
            # The keys that hold now: a newer schema may have more of them than the archive knows.
            dataclasses.replace(table, references=self.references.get(table.name, ()))
            for table in source.manifest.tables
            if any(file.table == table.name for file in batch.files)
        ]
        self._refuse_misfits(source, tables)
        all_of_it = roots is None and len(wanted) == root_rows.num_rows
        rows = {
            table.name: _of(
                loaded[table.name] if loaded else source.rows(batch, table.name), None if all_of_it else wanted
            )
            for table in tables
        }
        self._refuse_unknown_numbers(rows)
        answered_elsewhere = list(outside(tables, rows))
        missing = self._missing(answered_elsewhere)
        if missing and self._pending:
            self._await(0)
            missing = self._missing(answered_elsewhere)
        # All of them are found before the first is put back.
        for parent in [place for keys in missing for place in self._find(keys)]:
            self.batch(*parent)
        (put or self._put)(batch, wanted, tables, rows, answered_elsewhere)

    def _missing(self, wanted: Iterable[Keys]) -> list[Keys]:
        return [missing for keys in wanted if (missing := keys.missing(self.connection))]

    def _put(
        self, batch: Batch, wanted: set[str], tables: Sequence[Table], rows: dict[str, Any], outside: Sequence[Keys]
    ) -> None:
        """Write a batch and count it."""
        if not self.dry_run:
            writer = self._writers.get()
            try:
                self._write(writer, tables, rows, outside)
            finally:
                self._writers.put(writer)
        with self._accounts:
            for name, back in rows.items():
                if back.num_rows:
                    self.outcome.rows[name] = self.outcome.rows.get(name, 0) + back.num_rows
            if batch.family == RUNS:
                self.outcome.runs += [int(root) for root in wanted]
            elif any(table.name in self._parents for table in tables):
                self._done |= {(batch.family, root) for root in wanted}
            self.tell(self.outcome)

    def _write(self, writer: Any, tables: Sequence[Table], rows: dict[str, Any], outside: Sequence[Keys]) -> None:
        columns = {table.name: self._columns(table) for table in tables}
        texts = (
            (table.name, text) for table in tables for text in copy_text.chunks(rows[table.name], columns[table.name])
        )
        with writer.transaction(), writer.cursor() as cursor:
            cursor.execute(_BEGIN)
            for keys in outside:
                _lock(writer, keys)
            for name, parts in groupby(_ahead(texts), itemgetter(0)):
                names = ", ".join(quoted(column.name) for column in columns[name])
                with cursor.copy(f"COPY {target(name)} ({names}) FROM STDIN") as copy:
                    for _, text in parts:
                        copy.write(text)

    def _columns(self, table: Table) -> list[Column]:
        return [column for column in table.columns if not self.live[table.name][column.name].generated]

    def _refuse_misfits(self, source: Source, tables: Iterable[Table]) -> None:
        if lines := live.misfits(list(tables), self.live):
            raise RestoreError(
                f"archive {source.archive.archive_id} was taken at schema revision {source.manifest.schema_revision} "
                f"and does not fit this database: {'; '.join(lines)}"
            )

    def _refuse_unknown_numbers(self, rows: dict[str, Any]) -> None:
        from pyarrow import compute  # noqa: PLC0415

        for table, found in rows.items():
            for column, last in self.sequences.get(table, {}).items():
                highest = compute.max(found.column(column)).as_py() or 0
                if highest > last:
                    raise RestoreError(
                        f"{table}.{column} {highest} was never given out by this database: its sequence is at {last}, "
                        "and a new row would collide with it; restore into the database that the archive is from"
                    )

    def _present(self, source: Source, batch: Batch, found: Any) -> set[str]:
        """Return the roots that are in the database; raise RestoreError if another row has taken their place."""
        table = source.manifest.table(batch.family)
        if not self._any_in_range(table, found):
            return set()
        clause, values = join(table, table.primary_key, found)
        if batch.family != RUNS:
            numbers = [number for (number,) in self.connection.execute(f"SELECT k.n {clause}", values)]
        else:
            numbers = self._present_runs(table, found)
        names = found.column(ROOT_COLUMN).to_pylist()
        return {names[number - 1] for number in numbers}

    def _any_in_range(self, table: Table, found: Any) -> bool:
        """Whether the database may have one of the rows; it has not if none is between the first and last number."""
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import compute  # noqa: PLC0415

        keys = found.column(table.primary_key[0])
        if table.name == RUNS or len(table.primary_key) > 1 or not pa.types.is_integer(keys.type) or not len(keys):
            return True
        ends = compute.min_max(keys).as_py()
        query = (
            f"SELECT EXISTS (SELECT FROM {target(table.name)} WHERE {quoted(table.primary_key[0])} BETWEEN %s AND %s)"
        )
        return bool(self.connection.execute(query, [ends["min"], ends["max"]]).fetchone()[0])

    def _present_runs(self, table: Table, found: Any) -> list[int]:
        wanted = found.select(["id", "dag_id", "run_id"]).to_pylist()
        numbers = []
        for keys in (("id",), ("dag_id", "run_id")):
            clause, values = join(table, keys, found)
            for number, *here in self.connection.execute(f"SELECT k.n, p.id, p.dag_id, p.run_id {clause}", values):
                archived = wanted[number - 1]
                if here != [archived["id"], archived["dag_id"], archived["run_id"]]:
                    raise RestoreError(
                        f"run {archived['run_id']!r} of DAG {archived['dag_id']!r} (id {archived['id']}) cannot go "
                        f"back: the database has run {here[2]!r} of DAG {here[1]!r} (id {here[0]}); "
                        "delete that one first, or restore the other runs one by one with --run"
                    )
                numbers.append(number)
        return numbers

    def _find(self, missing: Keys) -> list[tuple[Source, Batch, set[str]]]:
        """Return where the parents are archived; raise RestoreError if one is nowhere."""
        places = []
        for source in self.sources:
            for batch in source.batches:
                if (parents := source.rows(batch, missing.parent)) is not None:
                    roots, missing = missing.among(parents, source.manifest.table(missing.parent))
                    if roots:
                        places.append((source, batch, roots))
                    if not missing:
                        return places
        raise RestoreError(f"{missing}, which neither the database nor an archive has any more")


def _lock(writer: Any, keys: Keys) -> None:
    """Keep the parents until the commit; one that went meanwhile is found here."""
    if missing := keys.missing(writer, lock=True):
        raise RestoreError(f"{missing}, which was deleted meanwhile; type the command again")


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Give the items, each made while the one before is worked on: by Arrow here, while PostgreSQL takes rows in."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="text") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _of(rows: Any, roots: set[str] | None) -> Any:
    """Return the rows of these roots."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import compute  # noqa: PLC0415

    if roots is None:
        return rows
    return rows.filter(compute.is_in(rows.column(ROOT_COLUMN), pa.array(sorted(roots), rows[ROOT_COLUMN].type)))
