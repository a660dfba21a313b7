"""The keeper's database session: one call at a time, and nothing in it ever blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE

from ops_airflow.scheduler.protocol import Call, Verb

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONS = {
    "application_name": "airflow-keeper",
    # A server or network that vanished is noticed by the call's own deadline; this cleans up behind it.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 5000,
    "gssencmode": "disable",
}
_STATEMENTS = {
    Verb.ACQUIRE: "SELECT ops.acquire(make_interval(secs => %(ttl)s), %(willing)s)",
    Verb.FENCE: "SELECT ops.fence(%(epoch)s)",
    Verb.RENEW: "SELECT ops.renew(%(epoch)s, make_interval(secs => %(ttl)s), %(sent_through)s)",
    Verb.RELEASE: "SELECT ops.release(%(epoch)s, %(why)s, %(successor)s)",
    Verb.READMIT: "SELECT ops.readmit(%(epoch)s)",
}


class Session:
    """psycopg2's asynchronous connection behind the three things a select loop wants: a file, its wishes, a push."""

    def __init__(self, parameters: Mapping[str, Any], ttl: float) -> None:
        """`parameters` are libpq's, without the options that this module sets itself."""
        self._parameters = {**_OPTIONS, **parameters}
        self._ttl = ttl
        self._connection: Any = None
        # By its session the server knows that a holder is there, so a call that failed does not end it yet.
        self._left: Any = None
        self._answered = False
        self._cursor: Any = None
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._wish = 0
        self._busy = False

    def start(self, call: Call) -> None:
        """Begin a call, and a connection if there is none. Raises psycopg2.Error."""
        values = {**vars(call), "ttl": self._ttl}
        self._busy = True
        if self._connection is None:
            self._connection = psycopg2.connect(**self._parameters, async_=1)
            self._cursor, self._answered = None, False
            self._waiting = [("LISTEN scheduler_lease", {}), (_STATEMENTS[call.verb], values)]
            self._wish = POLL_WRITE
        else:
            self._execute(_STATEMENTS[call.verb], values)

    def fileno(self) -> int | None:
        """Return the socket to watch, if there is one; while connecting it may change at every push."""
        return self._connection.fileno() if self._connection is not None else None

    @property
    def wants_to_write(self) -> bool:
        """Whether it waits for the socket to take more rather than to bring more."""
        return bool(self._wish == POLL_WRITE)

    def push(self) -> Mapping[str, Any] | None:
        """Go on as far as possible; return the call's answer when it is there. Raises psycopg2.Error."""
        while True:
            self._wish = self._connection.poll()
            if self._wish != POLL_OK:
                return None
            if self._waiting:
                self._execute(*self._waiting.pop(0))
                continue
            self._wish = POLL_READ
            if not self._busy:
                return None
            self._busy, self._answered = False, True
            self._close_left()
            return dict(self._cursor.fetchone()[0])

    def notified(self) -> bool:
        """Return whether the server said since last time that the lease changed."""
        if self._connection is None or not self._connection.notifies:
            return False
        self._connection.notifies.clear()
        return True

    def leave(self) -> None:
        """Go on with another session, and keep this one until that has brought an answer.

        acquire() takes the lease at once from a holder whose session is gone: a renewal that took too long must not
        look like a keeper that died.
        """
        connection, self._connection, self._busy = self._connection, None, False
        if connection is None:
            return
        if self._answered and self._left is None and not connection.closed:
            self._left = connection
        else:
            connection.close()

    def close(self) -> None:
        """Drop every session and whatever it was doing; the server learns of it."""
        self._answered = False
        self.leave()
        self._close_left()

    def _close_left(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left.close()

    def _execute(self, statement: str, values: dict[str, Any]) -> None:
        self._cursor = self._cursor or self._connection.cursor()
        self._cursor.execute(statement, values)
        self._wish = POLL_WRITE
