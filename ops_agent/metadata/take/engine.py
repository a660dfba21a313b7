"""One vacuum from its beginning to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import graphlib
import queue
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ops_agent.metadata import lock, session
from ops_agent.metadata.shelf import manifest
from ops_agent.metadata.shelf.manifest import (
    CLOSED,
    COMPLETE,
    DONE,
    RUNNING,
    Archive,
    ArchiveError,
    Batch,
    Manifest,
    Table,
)
from ops_agent.metadata.shelf.store import open_store
from ops_agent.metadata.take import catalog, graph, maintain, policy, settle
from ops_agent.metadata.take.batches import Piece, Source
from ops_agent.metadata.take.move import Common, Moved, Mover, Numbers, Outcome
from ops_agent.metadata.take.pace import Length, Pace
from ops_agent.metadata.take.statements import DAGS, LISTS, NEWEST, RUNS, Statements, literals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import psycopg

    from ops_agent.metadata.places import Places
    from ops_agent.metadata.shelf.store import Store
    from ops_agent.metadata.take.policy import Policy

_DAGS_AT_ONCE = 50
# While one waits for its files and its commit, the database works for the other; never for both, which was slower.
_MOVERS = 2
# What it does on two cores of 2024; only to say in advance about how long it will take.
_USUAL_ROWS_PER_S = 60_000


@dataclass(frozen=True)
class Request:
    """What is asked for; `tables` are roots of families, all if empty; `held` runs stay; `who` asks.

    Unless `gentle` it does not pause when others suffer.
    """

    policy: Policy
    who: str
    dag: str = "*"
    tables: tuple[str, ...] = ()
    max_seconds: float | None = None
    held: tuple[int, ...] = ()
    reclaim: bool = False
    gentle: bool = True
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Tally:
    """What was done to one table."""

    archived: int = 0
    deleted: int = 0
    bytes: int = 0
    seconds: float = 0


class Vacuum:
    """Moves old rows from a database to a store; `store` None deletes without an archive."""

    def __init__(
        self,
        dsn: str,
        store: Store | None,
        request: Request,
        tell: Callable[[dict[str, Any]], None],
        places: Places | None = None,
    ) -> None:
        """Nothing is opened yet; `tell` gets a dictionary for each step, `places` are where others were begun."""
        self.dsn = dsn
        self.store = store
        self.places = places
        self.unsettled: list[str] = []
        self.request = request
        self.tell = tell
        self.tallies: dict[str, Tally] = {}
        self.skipped = 0
        self.stopped_early = False
        self.resumed: list[str] = []
        self.longest = 0.0
        self.transactions: list[float] = []
        self.reclaimed = 0
        self.archive: Archive | None = None
        self._started = time.monotonic()
        self._numbers = Numbers()
        self._family_name = ""
        self._last_seconds = 0.0
        self._moving_seconds = 0.0
        self._length = Length()

    def run(self) -> dict[str, Any]:
        """Do it and return the result.

        Raises LockHeldError, ArchiveError, OSError, psycopg.Error; whatever it raises, no row is lost, and what was
        moved is in an archive that the next vacuum closes.
        """
        with session.connect(self.dsn, "deletes") as writer, lock.hold(writer, f"vacuum by {self.request.who}"):
            families = self._families(writer)
            self._settle_killed(writer, families)
            with session.connect(self.dsn, "looks") as reader, session.connect(self.dsn, "watches") as probe:
                lists = self._prepare(reader)
                self.pace = Pace(probe)
                self.pace.calibrate()
                with self._sessions(lists) as sessions:
                    self._move(writer, reader, sessions, families)
            self._maintain(writer)
            if self.archive:
                # Once more, with what maintenance gave back.
                self.archive.write(dataclasses.replace(self.archive.manifest(), result=self._result()))
            if self.store:
                self._forget(self.store.url)
            return self._result()

    def plan(self) -> dict[str, Any]:
        """Count what would go, and estimate bytes and time; nothing is changed."""
        rows: dict[str, list[float]] = {}
        with session.connect(self.dsn, "counts") as reader:
            families = self._families(reader)
            self._prepare(reader)
            for statements in families.values():
                before, wanted = self._before(statements)
                if not wanted:
                    continue
                tables = statements.family.members
                source = Source(reader, statements, Length(size=2000), before, wholly=True)
                for roots, _ in source.slices():
                    for name in tables:
                        found = reader.execute(statements.count(name), {"roots": list(roots)}).fetchone() or (0, 0)
                        counted = rows.setdefault(name, [0, 0])
                        counted[0] += int(found[0])
                        counted[1] += int(found[1])
                    self.tell({"event": "count", "rows": int(sum(counted[0] for counted in rows.values()))})
            unsettled = [each.archive_id for each in self._killed(reader, self.store)]
            for url in self._other_places():
                with contextlib.suppress(OSError, ArchiveError):
                    unsettled += [each.archive_id for each in self._killed(reader, open_store(url))]
        return {
            "dry_run": True,
            "tables": [
                {"name": name, "rows": int(count), "bytes": int(size), "seconds": round(count / _USUAL_ROWS_PER_S, 2)}
                for name, (count, size) in rows.items()
            ],
            "unsettled": unsettled,
        }

    def _families(self, connection: psycopg.Connection[Any]) -> dict[str, Statements]:
        self.catalog = catalog.read(connection, graph.SCHEMAS)
        return {family.root: Statements(family, self.catalog) for family in graph.check(self.catalog)}

    def _killed(self, connection: psycopg.Connection[Any], store: Store | None) -> list[Archive]:
        mine = _identity(connection)
        return [each for each in (settle.killed(store) if store else []) if each.manifest().database == mine]

    def _other_places(self) -> list[str]:
        own = self.store.url if self.store else ""
        return [url for url in (self.places.known() if self.places else []) if url != own]

    def _settle_killed(self, connection: psycopg.Connection[Any], families: dict[str, Statements]) -> None:
        """Settle what killed vacuums left, wherever they kept it; another place that is out of reach is named."""
        if self.store:
            self._settle_in(self.store, connection, families)
        for url in self._other_places():
            try:
                self._settle_in(open_store(url), connection, families)
            except (OSError, ArchiveError) as error:
                self.unsettled.append(url)
                self.tell({"event": "unsettled", "store": url, "error": str(error)})
            else:
                self._forget(url)

    def _forget(self, url: str) -> None:
        if self.places:
            self.places.forget(url)

    def _settle_in(self, store: Store, connection: psycopg.Connection[Any], families: dict[str, Statements]) -> None:
        settle.remove_unborn(store)
        for found in self._killed(connection, store):
            settle.archive(found, connection, families, self.request.now)
            self.resumed.append(found.archive_id)
            self.tell({"event": "settled", "archive_id": found.archive_id})

    def _prepare(self, reader: psycopg.Connection[Any]) -> list[str]:
        """Fill the lists of what may go and what stays; return what fills them in another session."""
        dags = {dag_id: list(tags) for dag_id, tags in reader.execute(DAGS)}
        wanted = policy.wanted(self.request.policy, dags, self.request.dag, self.request.now)
        lists = [
            *LISTS,
            literals(
                "vacuum_wanted", [(each.dag_id, each.state, each.before.isoformat(), each.keep) for each in wanted]
            ),
            "ANALYZE vacuum_wanted",
        ]
        for statement in lists:
            reader.execute(statement)
        names = sorted({each.dag_id for each in wanted})
        kept: dict[int, str] = dict.fromkeys(self.request.held, "")
        for start in range(0, len(names), _DAGS_AT_ONCE):
            kept |= dict(reader.execute(NEWEST, [names[start : start + _DAGS_AT_ONCE]]).fetchall())
        filling = [literals("vacuum_kept", list(kept.items())), "ANALYZE vacuum_kept"]
        for statement in filling:
            reader.execute(statement)
        return [*lists, *filling]

    @contextlib.contextmanager
    def _sessions(self, lists: list[str]) -> Iterator[list[session.Rows]]:
        """Open the movers' sessions."""
        with contextlib.ExitStack() as stack:
            found = []
            for _ in range(_MOVERS):
                opened = session.Rows(self.dsn, "moves")
                stack.callback(opened.close)
                for statement in lists:
                    opened.run(statement)
                found.append(opened)
            yield found

    def _move(
        self,
        writer: psycopg.Connection[Any],
        reader: psycopg.Connection[Any],
        sessions: list[session.Rows],
        families: dict[str, Statements],
    ) -> None:
        chosen = [each for each in families.values() if self._before(each)[1]]
        if self.store:
            if self.places:
                self.places.remember(self.store.url)
            self.archive = Archive(self.store, manifest.new_id(self.request.now))
            self.archive.write(self._head(self.archive.archive_id, writer, chosen))
        try:
            for statements in chosen:
                if not self.stopped_early:
                    self._family(reader, sessions, statements)
        except BaseException:
            self._close_after_failure(writer, families)
            raise
        if self.archive:
            for number in self._numbers.unused():
                self.archive.write(Batch(number, RUNS, DONE, 0, ()))
            state = CLOSED if self.stopped_early else COMPLETE
            finished = datetime.now(UTC).isoformat()
            head = self.archive.manifest()
            self.archive.write(dataclasses.replace(head, state=state, finished_at=finished, result=self._result()))

    def _before(self, statements: Statements) -> tuple[datetime | None, bool]:
        """Return the time before which rows may go (runs have one each), and whether the family is asked for."""
        root = statements.family.root
        if self.request.tables and root not in self.request.tables:
            return None, False
        if root == RUNS:
            return None, True
        kept = self.request.policy.table(root)
        if kept is None or (self.request.dag != "*" and not self.request.tables):
            return None, False
        return policy.ago(self.request.now, kept), True

    def _family(self, reader: psycopg.Connection[Any], sessions: list[session.Rows], statements: Statements) -> None:
        before, _ = self._before(statements)
        started, done = time.monotonic(), {name: tally.deleted for name, tally in self.tallies.items()}
        self._family_name = statements.family.root
        self._length = Length()
        source = Source(reader, statements, self._length, before)
        tables = {name: self.catalog.table(name, statements.family.root) for name in statements.family.members}
        turn = threading.Lock()
        common = Common(statements, tables, self.archive, self._numbers, before, {}, turn)
        movers: queue.SimpleQueue[Mover] = queue.SimpleQueue()

        def move(piece: Piece) -> Moved:
            mover = movers.get()
            try:
                return mover.move(piece)
            finally:
                movers.put(mover)

        with contextlib.ExitStack() as stack:
            for each in sessions:
                mover = Mover(each, common)
                stack.callback(mover.close)
                movers.put(mover)
            with ThreadPoolExecutor(max_workers=len(sessions), thread_name_prefix="move") as pool:
                self._pieces(pool, move, source)
        self.longest = max(self.longest, source.longest_seconds)
        self._share(time.monotonic() - started, done)

    def _pieces(self, pool: ThreadPoolExecutor, move: Callable[[Piece], Moved], source: Source) -> None:
        """Have every piece moved, and what could not be moved as a whole in smaller ones."""
        coming: set[Future[Moved]] = set()
        again: deque[Piece] = deque()
        pieces = source.pieces()
        while not self._out_of_time():
            piece = again.popleft() if again else next(pieces, None)
            if piece is None and not coming:
                break
            if piece is not None:
                if self.request.gentle:
                    self.pace.wait(self._last_seconds)
                coming.add(pool.submit(move, piece))
            # One that waits keeps the movers busy; when others suffer there is one at work and none that waits.
            if piece is None or len(coming) > (0 if self.request.gentle and self.pace.suffering else _MOVERS):
                done, coming = wait(coming, return_when=FIRST_COMPLETED)
                for each in done:
                    again.extend(self._moved(each.result(), source))
        for each in coming:
            self._moved(each.result(), source)

    def _moved(self, moved: Moved, source: Source) -> Iterable[Piece]:
        """Count what was moved; return what is to be tried again."""
        self.longest = max(self.longest, moved.seconds)
        self.transactions.append(moved.seconds)
        self._last_seconds = moved.seconds
        if moved.outcome is not Outcome.MOVED:
            piece = moved.piece if moved.piece.roots is not None else source.named(moved.piece)
            halves = piece.halves()
            if not halves and piece.roots:
                if moved.piece.roots is None:
                    return (piece,)
                self.skipped += 1
            return halves
        self._length.took(moved.piece.weight, moved.seconds, moved.fixed)
        self.skipped += moved.busy
        for table, count in moved.rows.items():
            self.tallies.setdefault(table, Tally()).deleted += count
        for file in moved.batch.files if moved.batch else ():
            tally = self.tallies[file.table]
            tally.archived += file.rows
            tally.bytes += file.bytes
        self.tell(
            {
                "event": "progress",
                "table": self._family_name,
                "rows": sum(tally.deleted for tally in self.tallies.values()),
                "seconds": round(time.monotonic() - self._started, 1),
            }
        )
        return ()

    def _share(self, seconds: float, done: Mapping[str, int]) -> None:
        """Charge the tables of a family with its time by their rows: one statement deletes from all of them."""
        rows = {name: tally.deleted - done.get(name, 0) for name, tally in self.tallies.items()}
        for name, count in rows.items():
            self.tallies[name].seconds += round(seconds * count / max(sum(rows.values()), 1), 3)

    def _out_of_time(self) -> bool:
        limit = self.request.max_seconds
        self.stopped_early = limit is not None and time.monotonic() - self._started > limit
        return self.stopped_early

    def _close_after_failure(self, writer: psycopg.Connection[Any], families: dict[str, Statements]) -> None:
        """Settle at once if that can be done; otherwise the next vacuum does."""
        if self.archive is None or writer.broken or writer.closed:
            return
        try:
            settle.archive(self.archive, writer, families, datetime.now(UTC))
        except Exception as error:  # noqa: BLE001 - what failed first is what is raised
            self.tell({"event": "left", "archive_id": self.archive.archive_id, "reason": str(error)})

    def _head(self, archive_id: str, connection: psycopg.Connection[Any], chosen: Iterable[Statements]) -> Manifest:
        kept = self.request.policy.retention
        tables = (self.catalog.table(member, each.family.root) for each in chosen for member in each.family.members)
        return Manifest(
            archive_id=archive_id,
            state=RUNNING,
            created_at=self.request.now.isoformat(),
            created_by=self.request.who,
            database=_identity(connection),
            postgres_version=str(connection.info.server_version),
            airflow_version=graph.AIRFLOW_VERSIONS.get(self.catalog.revision, ""),
            schema_revision=self.catalog.revision,
            cutoff=policy.ago(self.request.now, kept).isoformat() if kept is not None else policy.NEVER,
            policy=_plain(self.request),
            tables=_in_order(tables),
        )

    def _maintain(self, connection: psycopg.Connection[Any]) -> None:
        """Let the space be used again, and the planner know; with `reclaim` give it back to the disk."""
        self._moving_seconds = time.monotonic() - self._started
        deleted = {name: tally.deleted for name, tally in self.tallies.items()}
        for table in maintain.worthwhile(connection, deleted):
            self.tell({"event": "maintain", "table": table})
            self.reclaimed += maintain.maintain(connection, table, reclaim=self.request.reclaim)

    def _result(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        moving = self._moving_seconds or seconds
        deleted = sum(tally.deleted for tally in self.tallies.values())
        return {
            "archive_id": self.archive.archive_id if self.archive else None,
            "tables": [{"name": name, **dataclasses.asdict(tally)} for name, tally in self.tallies.items()],
            "longest_transaction_s": round(self.longest, 3),
            "rows_per_s": round(deleted / moving),
            "seconds": round(seconds, 3),
            "maintained_s": round(seconds - moving, 3),
            "paused_s": round(self.pace.paused_seconds, 3),
            "skipped": self.skipped,
            "reclaimed_bytes": self.reclaimed,
            "resumed": bool(self.resumed),
            "unsettled": self.unsettled,
            "stopped_early": self.stopped_early,
        }


def _in_order(tables: Iterable[Table]) -> tuple[Table, ...]:
    """Put parents before their children; a table of two families is listed with the first."""
    by_name: dict[str, Table] = {}
    for table in tables:
        by_name.setdefault(table.name, table)
    sorter = graphlib.TopologicalSorter(
        {
            name: [reference.parent for reference in table.references if reference.parent in by_name]
            for name, table in by_name.items()
        }
    )
    return tuple(by_name[name] for name in sorter.static_order())


def _identity(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute(
        "SELECT current_database() || '@' || system_identifier FROM pg_control_system()"
    ).fetchone()
    return str(row[0]) if row else ""


def _plain(request: Request) -> Mapping[str, Any]:
    def text(value: Any) -> str:
        return policy.NEVER if value is None else f"{int(value.total_seconds())}s"

    wanted = request.policy
    return {
        "retention": text(wanted.retention),
        "keep_last": wanted.keep_last,
        "dags": [
            {
                "dag": rule.dag,
                "tag": rule.tag,
                "states": list(rule.states),
                "retention": text(rule.retention),
                "keep_last": rule.keep_last,
            }
            for rule in wanted.rules
        ],
        "tables": {name: text(value) for name, value in wanted.tables.items()},
        "only_dag": request.dag,
        "only_tables": list(request.tables),
    }
