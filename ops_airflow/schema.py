"""Whether the metadata database has the schema that this Airflow environment was built for.

Airflow's own check imports all of Airflow (5 s). The environment's manifest records the migration heads at build time
instead, so that a converge asks the database alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_release.database import libpq

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONNECTION_VARIABLE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
# What Airflow creates default_pool with.
STOCK_SLOTS = 128
# With other slots than it names, the pool was changed by hand.
POOL_MARK = "Default pool: %d slots, set by the converge"


def built_heads() -> dict[str, list[str]]:
    """Return the migration heads by version table: Airflow's and those of its providers (FAB keeps its own)."""
    from airflow.utils.db import _get_script_object  # noqa: PLC0415
    from airflow.utils.db_manager import RunDBManager  # noqa: PLC0415

    heads = {"alembic_version": sorted(_get_script_object().get_heads())}
    for manager in RunDBManager()._managers:  # noqa: SLF001
        heads[manager.version_table_name] = sorted(manager(None).get_script_object().get_heads())
    return heads


def connection_uri(environment: str) -> str:
    """Return the libpq URI from the text of an environment file; raises KeyError where it has none."""
    for line in environment.splitlines():
        name, _, value = line.partition("=")
        if name == CONNECTION_VARIABLE:
            return libpq(value)
    raise KeyError(CONNECTION_VARIABLE)


def state(cursor: Any, heads: Mapping[str, Sequence[str]], admin: str, slots: int) -> dict[str, bool]:
    """Return what the database lacks: a migration, the administrator, and a default pool of the fleet's size."""
    migrate = any(_recorded(cursor, table) != sorted(expected) for table, expected in heads.items())
    return {
        "migrate": migrate,
        "create_admin": migrate or not _has_user(cursor, admin),
        "size_pool": migrate or _pool_is_ours(cursor, slots),
    }


def size_pool(cursor: Any, slots: int) -> None:
    """Give the default pool as many slots, unless somebody has set them by hand."""
    if _pool_is_ours(cursor, slots):
        cursor.execute(
            "UPDATE slot_pool SET slots = %s, description = %s WHERE pool = 'default_pool'", (slots, POOL_MARK % slots)
        )


def _pool_is_ours(cursor: Any, slots: int) -> bool:
    """Whether the slots are to be changed: they are not `slots`, and nobody but Airflow or a converge has set them."""
    cursor.execute("SELECT slots, description FROM slot_pool WHERE pool = 'default_pool'")
    held, description = cursor.fetchone() or (slots, "")
    return bool(held != slots and (held == STOCK_SLOTS or description == POOL_MARK % held))


def _recorded(cursor: Any, table: str) -> list[str]:
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (table,))
    if not cursor.fetchone()[0]:
        return []
    # The table's name comes from the environment's own manifest.
    cursor.execute(f'SELECT version_num FROM "{table}" ORDER BY version_num')  # noqa: S608
    return [row[0] for row in cursor.fetchall()]


def _has_user(cursor: Any, name: str) -> bool:
    cursor.execute("SELECT EXISTS (SELECT 1 FROM ab_user WHERE username = %s)", (name,))
    return bool(cursor.fetchone()[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the heads (at build time) or the state (at converge time) as JSON."""
    parser = argparse.ArgumentParser(prog="python -m ops_airflow.schema", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("heads", help="the migration heads of this environment")
    ask = verbs.add_parser("state", help="what the database lacks")
    ask.add_argument("--environment-file", type=Path, required=True, help=f"file that sets {CONNECTION_VARIABLE}")
    ask.add_argument("--admin", required=True, help="name of the administrator that must exist")
    ask.add_argument("--slots", type=int, required=True, help="slots that the default pool should have")
    size = verbs.add_parser("size-pool", help="give the default pool its slots")
    size.add_argument("--environment-file", type=Path, required=True, help=f"file that sets {CONNECTION_VARIABLE}")
    size.add_argument("--slots", type=int, required=True, help="slots that the default pool should have")
    options = parser.parse_args(arguments)
    if options.verb == "heads":
        answer: Any = built_heads()
    else:
        import psycopg2  # noqa: PLC0415

        heads = json.loads((Path(sys.prefix) / "manifest.json").read_text())["migration_heads"]
        uri = connection_uri(options.environment_file.read_text())
        with psycopg2.connect(uri, connect_timeout=10) as connection, connection.cursor() as cursor:
            if options.verb == "size-pool":
                size_pool(cursor, options.slots)
            answer = state(cursor, heads, options.admin, options.slots) if options.verb == "state" else {}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
