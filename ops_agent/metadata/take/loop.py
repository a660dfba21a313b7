"""The loop of a vacuum: slices of each family, moved by several sessions, no faster than others can bear."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from ops_agent.metadata.take.batches import Slice, Source
from ops_agent.metadata.take.move import BatchNumbers, FamilyContext, Moved, Mover, Outcome
from ops_agent.metadata.take.pace import BatchSizer, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import psycopg

    from ops_agent.metadata.session import Rows
    from ops_agent.metadata.shelf.manifest import Archive
    from ops_agent.metadata.take.plan import Plan
    from ops_agent.metadata.take.result import Result
    from ops_agent.metadata.take.statements import Statements


class Loop:
    """Takes what a plan says, into an archive or, without one, away for good."""

    def __init__(
        self,
        plan: Plan,
        archive: Archive | None,
        pace: Pace,
        result: Result,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        """Nothing is moved yet; `result` is counted up as rows go."""
        self.numbers = BatchNumbers()
        self._plan = plan
        self._archive = archive
        self._pace = pace
        self._result = result
        self._tell = tell
        self._root = ""
        self._sizer = BatchSizer()
        self._last_seconds = 0.0
        self._movers = 0

    def run(self, reader: psycopg.Connection[Any], sessions: list[Rows]) -> None:
        """Move every chosen family, until the time is over; `reader` finds and `sessions` move."""
        self._movers = len(sessions)
        for statements in self._plan.chosen:
            if not self._result.stopped_early:
                self._family(reader, sessions, statements)

    def _family(self, reader: psycopg.Connection[Any], sessions: list[Rows], statements: Statements) -> None:
        before, _ = self._plan.before(statements)
        started, done = time.monotonic(), self._result.deleted
        self._root = statements.family.root
        self._sizer = BatchSizer()
        source = Source(reader, statements, self._sizer, before)
        tables = {name: self._plan.catalog.table(name, statements.family.root) for name in statements.family.members}
        turn = threading.Lock()
        context = FamilyContext(statements, tables, self._archive, self.numbers, before, {}, turn)
        movers: queue.SimpleQueue[Mover] = queue.SimpleQueue()

        def move(part: Slice) -> Moved:
            mover = movers.get()
            try:
                return mover.move(part)
            finally:
                movers.put(mover)

        with contextlib.ExitStack() as stack:
            for each in sessions:
                mover = Mover(each, context)
                stack.callback(mover.close)
                movers.put(mover)
            with ThreadPoolExecutor(max_workers=len(sessions), thread_name_prefix="move") as pool:
                self._slices(pool, move, source)
        self._result.longest = max(self._result.longest, source.longest_seconds)
        self._result.charge(time.monotonic() - started, done)

    def _slices(self, pool: ThreadPoolExecutor, move: Callable[[Slice], Moved], source: Source) -> None:
        """Have every slice moved, and what could not be moved as a whole in smaller ones."""
        coming: set[Future[Moved]] = set()
        again: deque[Slice] = deque()
        slices = source.slices()
        while not self._out_of_time():
            part = again.popleft() if again else next(slices, None)
            if part is None and not coming:
                break
            if part is not None:
                if self._plan.request.gentle:
                    self._pace.wait(self._last_seconds)
                coming.add(pool.submit(move, part))
            # One that waits keeps the movers busy; when others suffer there is one at work and none that waits.
            waiting = 0 if self._plan.request.gentle and self._pace.suffering else self._movers
            if part is None or len(coming) > waiting:
                done, coming = wait(coming, return_when=FIRST_COMPLETED)
                for each in done:
                    again.extend(self._moved(each.result(), source))
        for each in coming:
            self._moved(each.result(), source)

    def _moved(self, moved: Moved, source: Source) -> Iterable[Slice]:
        """Count what was moved; return what is to be tried again."""
        self._result.tried(moved.seconds)
        self._last_seconds = moved.seconds
        if moved.outcome is not Outcome.MOVED:
            part = moved.part if moved.part.roots is not None else source.named(moved.part)
            halves = part.halves()
            if not halves and part.roots:
                if moved.part.roots is None:
                    return (part,)
                self._result.skipped += 1
            return halves
        self._sizer.took(moved.part.weight, moved.seconds, moved.fixed)
        self._result.took(moved)
        self._tell(
            {
                "event": "progress",
                "table": self._root,
                "rows": sum(self._result.deleted.values()),
                "seconds": round(self._result.seconds, 1),
            }
        )
        return ()

    def _out_of_time(self) -> bool:
        limit = self._plan.request.max_seconds
        self._result.stopped_early = limit is not None and self._result.seconds > limit
        return self._result.stopped_early
