"""Old rows, found and exported: what the engine then deletes."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ops_agent.archive import export
from ops_agent.archive.export import Seen, Slice, Writer
from ops_agent.archive.manifest import EXPORTED, Batch, data_path
from ops_agent.archive.pace import Length

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import psycopg

    from ops_agent.archive.manifest import Archive, Table
    from ops_agent.archive.statements import Statements

_BATCH_BYTES = 16 << 20  # in memory; the engine holds two at a time, and what they are made from
_BATCH_READS = 64
_PAGE = 1000
_LONGEST_READ_SECONDS = 0.1


@dataclass(frozen=True)
class Exported:
    """A batch whose files are durable and proven; `batch` is None if there is no archive."""

    batch: Batch | None
    slices: tuple[Slice, ...]
    bytes: int = 0
    seconds: float = 0


@dataclass
class Numbers:
    """Numbers batches through one archive, whichever family they are of."""

    last: int = 0

    def next(self) -> int:
        """Return the next number."""
        self.last += 1
        return self.last


@dataclass
class Source:
    """Walks through one family and exports what may go; `archive` is None if nothing is to be kept."""

    connection: psycopg.Connection[Any]
    statements: Statements
    tables: dict[str, Table]
    archive: Archive | None
    numbers: Numbers
    length: Length
    before: datetime | None
    longest_seconds: float = 0
    _page: int = _PAGE
    _keyed: list[str] = field(default_factory=list)
    _read: Length = field(default_factory=lambda: Length(size=1000, largest=50_000))

    def __post_init__(self) -> None:
        """Leave out the tables that hold nothing: should a row come, the slice it belongs to is not deleted."""
        filled = self.connection.execute(self.statements.filled(self.tables)).fetchone() or ()
        self.tables = {name: table for name, table in self.tables.items() if name in filled}
        self._keyed = self.statements.keyed(set(self.tables)) if self.archive else []
        for member in self._keyed:
            self.connection.execute(self.statements.key_table(member))

    def roots(self) -> Iterator[tuple[str, int]]:
        """Yield the keys of roots that may go, and how many rows hang off each (roughly); no statement takes long."""
        after: list[str] | None = None
        while True:
            values: dict[str, Any] = {"before": self.before, "limit": self._page}
            values |= {f"after_{number}": value for number, value in enumerate(after or [])}
            started = time.monotonic()
            rows = self.connection.execute(self.statements.page(first=after is None), values).fetchall()
            self._took(time.monotonic() - started)
            ((_, _, end),) = (row for row in rows if row[2] is not None)
            yield from ((key, weight) for key, weight, last in rows if last is None)
            if end[-1] is None:
                return
            after = end

    def slices(self) -> Iterator[tuple[tuple[str, ...], int]]:
        """Group roots into what one transaction should be able to delete."""
        group: list[str] = []
        total = 0
        for root, weight in self.roots():
            if group and total + weight > self.length.size:
                yield tuple(group), total
                group, total = [], 0
            group.append(root)
            total += weight
        if group:
            yield tuple(group), total

    def reads(self) -> Iterator[list[tuple[tuple[str, ...], int]]]:
        """Group slices into what one statement should be able to read."""
        group: list[tuple[tuple[str, ...], int]] = []
        total = 0
        for roots, weight in self.slices():
            if group and total + weight > self._read.size:
                yield group
                group, total = [], 0
            group.append((roots, weight))
            total += weight
        if group:
            yield group

    def batches(self) -> Iterator[Exported]:
        """Yield batches until there are no more old rows. Raises ArchiveError, OSError, psycopg.Error."""
        limit = 2  # the first batches are small, for the length of a transaction has yet to be learnt
        reads = self.reads()
        while True:
            with contextlib.ExitStack() as stack:
                builder = _Builder(self, stack)
                for group in reads:
                    builder.add(group)
                    if builder.nbytes > _BATCH_BYTES or builder.reads >= limit:
                        break
                if not builder.slices:
                    return
                yield builder.finish()
            limit = min(limit * 2, _BATCH_READS)

    def read(self, group: list[tuple[tuple[str, ...], int]]) -> Iterator[tuple[Table, Any, dict[int, Seen]]]:
        """Read what hangs off the roots of some slices, table by table, in one transaction that changes nothing."""
        started = time.monotonic()
        slices = [roots for roots, _ in group]
        with self.connection.transaction():
            for member in self._keyed:
                parameters = {"roots": [root for roots in slices for root in roots]}
                self.connection.execute(self.statements.keep_keys(member, self._keyed), parameters)
            for table in self.tables.values():
                for rows, seen in export.read(self.connection, self.statements, table, slices, self._keyed):
                    yield table, rows, seen
        seconds = time.monotonic() - started
        self._read.took(sum(weight for _, weight in group), seconds)
        self.longest_seconds = max(self.longest_seconds, seconds)

    def _took(self, seconds: float) -> None:
        self.longest_seconds = max(self.longest_seconds, seconds)
        if seconds > _LONGEST_READ_SECONDS:
            self._page = max(self._page // 2, 50)
        elif seconds < _LONGEST_READ_SECONDS / 4:
            self._page = min(self._page * 2, 16_000)


@dataclass
class _Builder:
    """One batch in the making."""

    source: Source
    stack: contextlib.ExitStack
    slices: list[Slice] = field(default_factory=list)
    nbytes: int = 0
    reads: int = 0
    _number: int = 0
    _writers: dict[str, Writer] = field(default_factory=dict)
    _staged: dict[str, Path] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def add(self, group: list[tuple[tuple[str, ...], int]]) -> None:
        """Export some slices."""
        self.reads += 1
        if self.source.archive is None:
            self.slices += [Slice(roots, weight, None) for roots, weight in group]
            return
        seen: list[dict[str, Seen]] = [{} for _ in group]
        for table, rows, parts in self.source.read(group):
            for number, part in parts.items():
                before = seen[number].get(table.name)
                seen[number][table.name] = before + part if before else part
            self._write(table, rows)
        self.slices += [Slice(roots, weight, each) for (roots, weight), each in zip(group, seen, strict=True)]

    def finish(self) -> Exported:
        """Make the batch durable and prove it."""
        root = self.source.statements.family.root
        if self.source.archive is None:
            return Exported(None, tuple(self.slices))
        if root not in self._writers:
            # Somebody else deleted all of it since it was found.
            return Exported(None, ())
        batch = Batch(self._number, root, EXPORTED, self._writers[root].count, ())
        batch = export.publish(self.source.archive, self._writers.values(), batch, self._staged)
        seconds = time.monotonic() - self._started
        return Exported(batch, tuple(self.slices), sum(file.bytes for file in batch.files), seconds)

    def _write(self, table: Table, rows: Any) -> None:
        archive = self.source.archive
        if archive is None:
            return
        if not self._number:
            self._number = self.source.numbers.next()
        if table.name not in self._writers:
            self._writers[table.name] = Writer(table)
            path = archive.path(data_path(table.name, self._number))
            self._staged[table.name] = self.stack.enter_context(archive.store.staged(path))
        self._writers[table.name].add(rows, self._staged[table.name])
        self.nbytes += rows.nbytes
