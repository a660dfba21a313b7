"""Who wrote when, from the database server's own log: no scheduler's session outlives the next epoch's first write.

The server logs every session of a scheduler's login with the name of its epoch, when it ended, and, with
`log_statement = mod` on these logins, every statement that writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.chaos.lab import DATABASE, SCHEDULERS, shell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.chaos.lab import Database

LOG = "/var/log/postgresql/postgresql-17-main.log"
# log_line_prefix of role postgres: '%m [%p] %c %q%u@%d app=%a host=%h '
LINE = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d [\d:.]+) UTC \[\d+\] (?P<session>\S+) (?P<login>scheduler_\w+)@\S+ "
    r"app=(?P<app>.*?) host=\S+ (?P<kind>[A-Z]+):  (?P<text>.*)"
)


@dataclass
class Session:
    """One session of a scheduler's login, in seconds since 1970."""

    login: str
    epoch: int = 0
    writes: list[float] = field(default_factory=list)
    ended: float = float("inf")
    refused: int = 0


def listen(database: Database) -> None:
    """Have the server log what the schedulers write, from their next sessions on."""
    database.run("".join(f"ALTER ROLE scheduler_{host} SET log_statement = 'mod';" for host in SCHEDULERS))


def deafen(database: Database) -> None:
    """Undo listen()."""
    database.run("".join(f"ALTER ROLE scheduler_{host} RESET log_statement;" for host in SCHEDULERS))


def sessions(began: float, shared: Sequence[tuple[float, float]] = ()) -> list[Session]:
    """Read the server's log from `began` on, without what was written while, by the fleet's mode, several schedule."""
    lines = shell(DATABASE, f"grep -h ' scheduler_[a-z0-9]*@' {LOG} | cut -c1-300 || true", timeout=60).splitlines()
    return parse(lines, began, shared)


def parse(lines: Iterable[str], began: float, shared: Sequence[tuple[float, float]] = ()) -> list[Session]:
    """Return the sessions that these lines of the server's log tell of."""
    found: dict[str, Session] = {}
    for line in lines:
        match = LINE.match(line)
        if not match:
            continue
        at = datetime.fromisoformat(match["at"]).replace(tzinfo=UTC).timestamp()
        if at < began:
            continue
        session = found.setdefault(match["session"], Session(match["login"]))
        if epoch := re.fullmatch(r"airflow-scheduler epoch (\d+)", match["app"]):
            session.epoch = int(epoch[1])
        if match["text"].startswith("statement: "):
            if not any(start <= at <= end for start, end in shared):
                session.writes.append(at)
        elif match["kind"] in ("ERROR", "FATAL") and session.writes and "permission denied" in match["text"]:
            # The statement just logged was refused by the fence: it wrote nothing.
            session.writes.pop()
            session.refused += 1
        elif match["text"].startswith("disconnection: "):
            session.ended = at
    return list(found.values())


def overlaps(found: Iterable[Session]) -> list[str]:
    """Return each session that wrote and was still there when a later epoch's scheduler had begun to write."""
    writers = [session for session in found if session.writes]
    begins: dict[int, float] = {}
    for session in writers:
        begins[session.epoch] = min(session.writes[0], begins.get(session.epoch, float("inf")))
    return [
        f"epoch {old.epoch} ({old.login}) ended {old.ended - begin:.3f} s after epoch {epoch} began to write"
        for epoch, begin in begins.items()
        for old in writers
        if old.epoch < epoch and old.ended > begin
    ]


def nameless(found: Iterable[Session]) -> list[Session]:
    """Return sessions that wrote without an epoch in their name: nothing could be proved of them."""
    return [session for session in found if session.writes and not session.epoch]
