"""One vacuum from its beginning to its end: plan, loop, result, and what a killed one left."""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ops_agent.metadata import lock, session
from ops_agent.metadata.shelf import manifest
from ops_agent.metadata.shelf.manifest import CLOSED, COMPLETE, DONE, Archive, ArchiveError, Batch
from ops_agent.metadata.shelf.store import open_store
from ops_agent.metadata.take import maintain, settle
from ops_agent.metadata.take.loop import Loop
from ops_agent.metadata.take.pace import Pace
from ops_agent.metadata.take.plan import Plan, Request
from ops_agent.metadata.take.result import Result
from ops_agent.metadata.take.statements import RUNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from ops_agent.metadata.places import Places
    from ops_agent.metadata.shelf.store import Store

# While one waits for its files and its commit, the database works for the other; never for both, which was slower.
_MOVERS = 2


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
        self.request = request
        self.tell = tell
        self.result = Result()
        self._archive: Archive | None = None
        self._pace: Pace | None = None

    def run(self) -> dict[str, Any]:
        """Do it and return the result.

        Raises LockHeldError, ArchiveError, OSError, psycopg.Error; whatever it raises, no row is lost, and what was
        moved is in an archive that the next vacuum closes.
        """
        with session.connect(self.dsn, "deletes") as writer, lock.hold(writer, f"vacuum by {self.request.who}"):
            plan = Plan(self.request, writer)
            self._settle_killed(writer, plan)
            with session.connect(self.dsn, "looks") as reader, session.connect(self.dsn, "watches") as probe:
                lists = plan.fill(reader)
                self._pace = Pace(probe)
                self._pace.calibrate()
                with self._sessions(lists) as sessions:
                    self._move(plan, self._pace, writer, reader, sessions)
            self._maintain(writer)
            if self._archive:
                # Once more, with what maintenance gave back.
                self._archive.write(dataclasses.replace(self._archive.manifest(), result=self._summary()))
            if self.store:
                self._forget(self.store.url)
            return self._summary()

    def plan(self) -> dict[str, Any]:
        """Count what would go, and estimate bytes and time; nothing is changed."""
        with session.connect(self.dsn, "counts") as reader:
            plan = Plan(self.request, reader)
            plan.fill(reader)
            tables = plan.count(reader, self.tell)
            unsettled = [each.archive_id for each in _killed(plan, self.store)]
            for url in self._other_places():
                with contextlib.suppress(OSError, ArchiveError):
                    unsettled += [each.archive_id for each in _killed(plan, open_store(url))]
        return {"dry_run": True, "tables": tables, "unsettled": unsettled}

    def _other_places(self) -> list[str]:
        own = self.store.url if self.store else ""
        return [url for url in (self.places.known() if self.places else []) if url != own]

    def _settle_killed(self, connection: psycopg.Connection[Any], plan: Plan) -> None:
        """Settle what killed vacuums left, wherever they kept it; another place that is out of reach is named."""
        if self.store:
            self._settle_in(self.store, connection, plan)
        for url in self._other_places():
            try:
                self._settle_in(open_store(url), connection, plan)
            except (OSError, ArchiveError) as error:
                self.result.unsettled.append(url)
                self.tell({"event": "unsettled", "store": url, "error": str(error)})
            else:
                self._forget(url)

    def _forget(self, url: str) -> None:
        if self.places:
            self.places.forget(url)

    def _settle_in(self, store: Store, connection: psycopg.Connection[Any], plan: Plan) -> None:
        settle.remove_unborn(store)
        for found in _killed(plan, store):
            settle.archive(found, connection, plan.families, self.request.now)
            self.result.resumed.append(found.archive_id)
            self.tell({"event": "settled", "archive_id": found.archive_id})

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
        plan: Plan,
        pace: Pace,
        writer: psycopg.Connection[Any],
        reader: psycopg.Connection[Any],
        sessions: list[session.Rows],
    ) -> None:
        if self.store:
            if self.places:
                self.places.remember(self.store.url)
            self._archive = Archive(self.store, manifest.new_id(self.request.now))
            self._archive.write(plan.head(self._archive.archive_id))
        loop = Loop(plan, self._archive, pace, self.result, self.tell)
        try:
            loop.run(reader, sessions)
        except BaseException:
            self._close_after_failure(writer, plan)
            raise
        if self._archive:
            for number in loop.numbers.unused():
                self._archive.write(Batch(number, RUNS, DONE, 0, ()))
            state = CLOSED if self.result.stopped_early else COMPLETE
            finished = datetime.now(UTC).isoformat()
            head = self._archive.manifest()
            self._archive.write(dataclasses.replace(head, state=state, finished_at=finished, result=self._summary()))

    def _close_after_failure(self, writer: psycopg.Connection[Any], plan: Plan) -> None:
        """Settle at once if that can be done; otherwise the next vacuum does."""
        if self._archive is None or writer.broken or writer.closed:
            return
        try:
            settle.archive(self._archive, writer, plan.families, datetime.now(UTC))
        except Exception as error:  # noqa: BLE001 - what failed first is what is raised
            self.tell({"event": "left", "archive_id": self._archive.archive_id, "reason": str(error)})

    def _maintain(self, connection: psycopg.Connection[Any]) -> None:
        """Let the space be used again, and the planner know; with `reclaim` give it back to the disk."""
        self.result.moving_seconds = self.result.seconds
        for table in maintain.worthwhile(connection, self.result.deleted):
            self.tell({"event": "maintain", "table": table})
            self.result.reclaimed += maintain.maintain(connection, table, reclaim=self.request.reclaim)

    def _summary(self) -> dict[str, Any]:
        paused = self._pace.paused_seconds if self._pace else 0.0
        return self.result.as_json(self._archive.archive_id if self._archive else None, paused)


def _killed(plan: Plan, store: Store | None) -> list[Archive]:
    """Return the archives of this database that a killed vacuum left in a store."""
    found = settle.killed(store) if store else []
    return [each for each in found if each.manifest().database == plan.database]
