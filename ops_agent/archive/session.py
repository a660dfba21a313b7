"""Sessions of the archive engine."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from ops_agent.archive import columns


def connect(dsn: str, purpose: str) -> psycopg.Connection[Any]:
    """Open a session that commits every statement. Raises psycopg.OperationalError."""
    connection: psycopg.Connection[Any] = psycopg.connect(
        dsn, autocommit=True, application_name=f"ops-agent: vacuum ({purpose})", connect_timeout=10
    )
    settings = {
        **columns.SESSION,
        # A plan that was made for an average list of roots would be wrong for this one.
        "plan_cache_mode": "force_custom_plan",
        "jit": "off",
        # Every table is reached by an index from its parent, whatever statistics say of a table that has just grown or
        # shrunk: time a row stays the same from the first slice to the last.
        "enable_seqscan": "off",
        "max_parallel_workers_per_gather": "0",
        "idle_in_transaction_session_timeout": "60s",
    }
    for name, value in settings.items():
        connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    return connection
