"""How fast the engine may go: transactions of a bounded length, and pauses when somebody else suffers."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

_NICE = 10
# What the scheduler asks in each loop, but for the locks: it would pass over the runs that the probe holds.
_PROBE = """
SELECT id FROM public.dag_run WHERE state = 'running' ORDER BY last_scheduling_decision NULLS FIRST, run_after LIMIT 20
"""
# Bytes that the slowest replica has not replayed yet, and the age of the youngest heartbeat of a live scheduler.
_HEALTH = """
SELECT
  (SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0) FROM pg_stat_replication),
  (SELECT extract(epoch FROM now() - max(latest_heartbeat)) FROM public.job
   WHERE job_type = 'SchedulerJob' AND state = 'running' AND latest_heartbeat > now() - interval '10 minutes')
"""


def step_back() -> None:
    """Leave the processor to whatever else this host does, the database above all; for the rest of this process."""
    # The nightly unit has done it, and forbids the call.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)


@dataclass
class BatchSizer:
    """Adapts how much one transaction does, so that it takes about `target` seconds.

    Below `smallest` its statements and files cost more than its rows, however long they take.
    """

    target: float = 0.13
    size: int = 2000
    smallest: int = 1000
    largest: int = 25_000

    def took(self, weight: int, seconds: float, fixed: float = 0.0) -> None:
        """Learn from a transaction of `weight` rows; it grows by half at most and shrinks at once.

        `fixed` is the part of `seconds` that fewer rows would not shorten (flushing files, the commit): the rows get
        what it leaves, and half of the target at least. Otherwise slow disks would make transactions ever smaller.
        """
        if weight <= 0 or seconds <= 0:
            return
        target = max(self.target - fixed, self.target / 2)
        used = max(seconds - fixed, 0.001)
        fitting = weight * target / used
        if used > target:
            self.size = int(min(self.size, fitting))
        elif weight >= self.size // 2:
            self.size = int(min(self.size * 1.5, fitting))
        self.size = max(self.smallest, min(self.size, self.largest))


@dataclass
class Pace:
    """Says how long to pause after a transaction.

    The probe's usual latency is measured before the first transaction; while it takes `tolerated` times that (or a
    scheduler's heartbeat or a replica falls behind), pauses grow, up to `longest` times what a transaction takes: it
    never stands still, for then it would never be over.
    """

    probe: psycopg.Connection[Any]
    tolerated: float = 2.0
    replica_lag_bytes: int = 64 << 20
    heartbeat_seconds: float = 30.0
    longest: float = 4.0
    clock: Callable[[], float] = time.monotonic
    usual: float = 0.0
    pause: float = 0.0
    paused_seconds: float = 0.0
    suffering: bool = False
    _checked: float = field(default=0.0)
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    def calibrate(self, samples: int = 15) -> None:
        """Measure the probe as it is without this vacuum."""
        found = sorted(self._latency() for _ in range(samples))
        self.usual = max(found[len(found) // 2], 0.0005)

    def wait(self, transaction_seconds: float) -> None:
        """Look at the others at most ten times a second, and pause for as long as it takes to leave them room."""
        now = self.clock()
        if now - self._checked > 0.1:  # noqa: PLR2004
            self._checked = now
            self._latencies.append(self._latency())
            usual = sorted(self._latencies)[len(self._latencies) // 2]
            self.suffering = usual > self.usual * self.tolerated + 0.002 or self._behind()
            self.pause = min(max(self.pause * 2, 0.01), 1.0) if self.suffering else self.pause / 2
        pause = min(self.pause, self.longest * transaction_seconds)
        if pause >= 0.005:  # noqa: PLR2004
            time.sleep(pause)
            self.paused_seconds += pause

    def _latency(self) -> float:
        started = self.clock()
        self.probe.execute(_PROBE).fetchall()
        return self.clock() - started

    def _behind(self) -> bool:
        row = self.probe.execute(_HEALTH).fetchone()
        lag, heartbeat = row or (0, None)
        return lag > self.replica_lag_bytes or (heartbeat is not None and heartbeat > self.heartbeat_seconds)
