"""What one vacuum has done."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ops_agent.metadata.take.move import Moved


@dataclass
class Tally:
    """What was done to one table."""

    archived: int = 0
    deleted: int = 0
    bytes: int = 0
    seconds: float = 0


@dataclass
class Result:
    """Rows by table, transactions, and what was left; `resumed` archives were a killed vacuum's."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    skipped: int = 0
    stopped_early: bool = False
    resumed: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    longest: float = 0.0
    transactions: list[float] = field(default_factory=list)
    reclaimed: int = 0
    started: float = field(default_factory=time.monotonic)
    moving_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self.started

    @property
    def deleted(self) -> dict[str, int]:
        """Rows that are gone, by table."""
        return {name: tally.deleted for name, tally in self.tallies.items()}

    def tried(self, seconds: float) -> None:
        """Count a transaction, whatever it did."""
        self.longest = max(self.longest, seconds)
        self.transactions.append(seconds)

    def took(self, moved: Moved) -> None:
        """Count what a transaction moved."""
        self.skipped += moved.busy
        for table, count in moved.rows.items():
            self.tallies.setdefault(table, Tally()).deleted += count
        for file in moved.batch.files if moved.batch else ():
            tally = self.tallies[file.table]
            tally.archived += file.rows
            tally.bytes += file.bytes

    def charge(self, seconds: float, done: Mapping[str, int]) -> None:
        """Charge the tables of a family with its time by their rows: one statement deletes from all of them."""
        rows = {name: count - done.get(name, 0) for name, count in self.deleted.items()}
        for name, count in rows.items():
            self.tallies[name].seconds += round(seconds * count / max(sum(rows.values()), 1), 3)

    def as_json(self, archive_id: str | None, paused_seconds: float) -> dict[str, Any]:
        """Return the last line that `ops-agent vacuum` prints."""
        seconds = self.seconds
        moving = self.moving_seconds or seconds
        return {
            "archive_id": archive_id,
            "tables": [{"name": name, **dataclasses.asdict(tally)} for name, tally in self.tallies.items()],
            "longest_transaction_s": round(self.longest, 3),
            "rows_per_s": round(sum(self.deleted.values()) / moving),
            "seconds": round(seconds, 3),
            "maintained_s": round(seconds - moving, 3),
            "paused_s": round(paused_seconds, 3),
            "skipped": self.skipped,
            "reclaimed_bytes": self.reclaimed,
            "resumed": bool(self.resumed),
            "unsettled": self.unsettled,
            "stopped_early": self.stopped_early,
        }
