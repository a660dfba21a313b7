"""One at a time: whoever moves rows out of the metadata database, or back into it, holds one advisory lock."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf.manifest import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

# "ops archive" in ASCII, cut to PostgreSQL's 8 bytes: nobody else's by chance.
KEY = int.from_bytes(b"opsarchi", "big") >> 1

# Twice client_connection_check_interval of `session`, and a little.
_PATIENCE_SECONDS = 2.5
_HOLDER = """
SELECT a.application_name, to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"')
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""


class HeldError(ArchiveError):
    """Another holds the lock; the text names it."""


@contextmanager
def hold(connection: Any, who: str) -> Iterator[None]:
    """Hold the lock on this session, under the name `who`, while the block runs; it ends with the session too.

    Raises HeldError if another session has it for longer than the server takes to see that one was killed.
    """
    connection.execute("SELECT set_config('application_name', %s, false)", [f"ops-agent: {who}"[:63]])
    patience = time.monotonic() + _PATIENCE_SECONDS
    # A holder who went between the two statements holds nothing any more.
    while not connection.execute("SELECT pg_try_advisory_lock(%s)", [KEY]).fetchone()[0]:
        holder = connection.execute(_HOLDER, [KEY]).fetchone()
        if holder and time.monotonic() < patience:
            time.sleep(0.1)
        elif holder:
            connection.rollback()
            raise HeldError(f"{holder[0].removeprefix('ops-agent: ')} has been at it since {holder[1]}")
    # Session-level: it outlasts this transaction.
    connection.commit()
    try:
        yield
    finally:
        if not connection.closed:
            connection.rollback()
            connection.execute("SELECT pg_advisory_unlock(%s)", [KEY])
            connection.commit()
