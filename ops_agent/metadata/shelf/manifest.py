"""What an archive is on disk, and which of its files count.

    <store>/<archive id>/
        manifest.json                        written when the vacuum starts, and again when it ends
        batches/000001.json                  one a batch, rewritten when its state changes
        data/public.dag_run/000001.parquet   the batch's rows of one table, zstd; no file where there are none

An archive id is its start in UTC and a random tail (`20261120T130500Z-3fa9c1`), so ids sort by time.

The state of a batch says where its rows are:

- no document: nothing was deleted. Its data files, if any, are the remains of a run that was killed, and go.
- `exported`: the files are durable and were read back; each of its root rows is still in the database, or gone with all
  that hangs off it, never in between, for a slice is deleted in one transaction. What is still there counts as not
  archived, and `settle` takes it out of the files.
- `done`: exactly the rows in the files were deleted from the database, and that is durable.

So restore, query and verify read files of `done` batches alone (`Archive.files`), and an archive whose manifest says
`running` belongs to a vacuum at work or to one that was killed; the next vacuum settles it and makes it `closed`.

Every data file has the columns of its table (those of `Table.columns`) and, first, `ROOT_COLUMN`: the primary key of
the root row as text, which for family `dag_run` is the run's id, by which one run's rows are found in every table.
A row may refer to rows that its archive does not hold, because they stay in the database or went with a family of
their own (`Table.references` lists these foreign keys): a restore looks for them there first, then in the archives.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ops_agent.metadata.shelf.store import Store

FORMAT = 1
ROOT_COLUMN = "__root"
RUNNING = "running"
COMPLETE = "complete"
CLOSED = "closed"  # ended early (time, failure, kill): what is in it is whole, there was just more to do
EXPORTED = "exported"
DONE = "done"
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")


class ArchiveError(Exception):
    """An archive is missing, damaged, or of another kind; the text says which, and where."""


@dataclass(frozen=True)
class Column:
    """A column as it was in the database.

    `type` is format_type()'s text. `encoding` is `exact` where Arrow has the type, `text` where the file holds
    PostgreSQL's own text of the value (json, numeric, interval, arrays, enums, uuid), `hex` for bytea in binary.
    `generated` columns are not written by a restore.
    """

    name: str
    type: str
    nullable: bool
    encoding: str
    generated: bool = False


@dataclass(frozen=True)
class Reference:
    """A foreign key of the table, as a restore needs it: `columns` here, `parent_columns` in `parent`."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One table of the archive: `name` is schema.table; `family` the root table it was archived with.

    `references` are all its foreign keys; in `Manifest.tables` parents come before their children.
    """

    name: str
    family: str
    primary_key: tuple[str, ...]
    columns: tuple[Column, ...]
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of one table and batch; `path` is relative to the archive, `sha256` of its bytes."""

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Batch:
    """One set of files; `roots` counts the family's root rows."""

    number: int
    family: str
    state: str
    roots: int
    files: tuple[DataFile, ...]


@dataclass(frozen=True)
class Manifest:
    """The head of an archive. Times are ISO 8601 in UTC; `cutoff` is the default one, `policy` has the whole truth."""

    archive_id: str
    state: str
    created_at: str
    created_by: str
    database: str
    postgres_version: str
    airflow_version: str
    schema_revision: str
    cutoff: str
    policy: Mapping[str, Any]
    tables: tuple[Table, ...]
    finished_at: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def table(self, name: str) -> Table:
        """Return a table by its schema.table name; raise ArchiveError."""
        for table in self.tables:
            if table.name == name:
                return table
        raise ArchiveError(f"archive {self.archive_id} has no table {name}")


class Archive:
    """One archive in a store: its documents, read and written."""

    def __init__(self, store: Store, archive_id: str) -> None:
        """Nothing is read or written yet."""
        if not _ID.fullmatch(archive_id):
            raise ArchiveError(f"{archive_id!r} is no archive id; `ops archive list --env ENV` shows them")
        self.store = store
        self.archive_id = archive_id

    def path(self, relative: str) -> str:
        """Return the path in the store of something in this archive."""
        return f"{self.archive_id}/{relative}"

    def manifest(self) -> Manifest:
        """Read the manifest; raise ArchiveError if there is none that this version can read."""
        raw = self._document("manifest.json")
        if raw.get("format") != FORMAT:
            raise ArchiveError(f"archive {self.archive_id} has format {raw.get('format')}, this is for {FORMAT}")
        try:
            return Manifest(**{**raw, "tables": tuple(_table(table) for table in raw["tables"])})
        except (KeyError, TypeError) as error:
            raise ArchiveError(f"archive {self.archive_id}: manifest.json: {error!r}") from error

    def batches(self) -> Iterator[Batch]:
        """Read the batches in their order, whatever their state."""
        for path in self.store.list(self.path("batches")):
            raw = self._document(path.removeprefix(f"{self.archive_id}/"))
            try:
                yield Batch(**{**raw, "files": tuple(DataFile(**file) for file in raw["files"])})
            except (KeyError, TypeError) as error:
                raise ArchiveError(f"archive {self.archive_id}: {path}: {error!r}") from error

    def files(self, table: str | None = None) -> Iterator[DataFile]:
        """Read which files count: those of `done` batches, of one table or of all."""
        for batch in self.batches():
            if batch.state == DONE:
                yield from (file for file in batch.files if table in {None, file.table})

    def write(self, document: Manifest | Batch) -> None:
        """Write a document, whole or not at all, durable when this returns."""
        name = "manifest.json" if isinstance(document, Manifest) else f"batches/{document.number:06d}.json"
        text = json.dumps(dataclasses.asdict(document), indent=1, ensure_ascii=False)
        self.store.write(self.path(name), text.encode())

    def _document(self, relative: str) -> dict[str, Any]:
        try:
            raw = json.loads(self.store.read(self.path(relative)))
        except FileNotFoundError as error:
            raise ArchiveError(f"archive {self.archive_id} has no {relative}") from error
        except ValueError as error:
            raise ArchiveError(f"archive {self.archive_id}: {relative} is damaged: {error}") from error
        if not isinstance(raw, dict):
            raise ArchiveError(f"archive {self.archive_id}: {relative} is damaged: no JSON object")
        return raw


def archives(store: Store) -> list[Archive]:
    """Every archive of a store, oldest first; other directories beside them are left alone."""
    return [Archive(store, name) for name in sorted(store.directories()) if _ID.fullmatch(name)]


def new_id(now: datetime | None = None) -> str:
    """Return an archive id for a vacuum that starts `now`."""
    return f"{(now or datetime.now(UTC)).astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def data_path(table: str, batch: int, revision: int = 0) -> str:
    """Return where a table's file of a batch goes; a settled batch gets files of a later revision."""
    return f"data/{table}/{batch:06d}{f'-{revision}' if revision else ''}.parquet"


def _table(raw: Mapping[str, Any]) -> Table:
    return Table(
        name=raw["name"],
        family=raw["family"],
        primary_key=tuple(raw["primary_key"]),
        columns=tuple(Column(**column) for column in raw["columns"]),
        references=tuple(
            Reference(tuple(each["columns"]), each["parent"], tuple(each["parent_columns"]))
            for each in raw["references"]
        ),
    )
