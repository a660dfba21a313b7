"""`ops-agent dag-health`: how DAG files are parsed and how tasks end, for whoever watches a release after its flip."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_agent.host import python, settings
from ops_release import BUNDLE, ReleaseError, database
from ops_release.database import CONFIGURATION

if TYPE_CHECKING:
    from argparse import Namespace

_POOLS = "SELECT pool, slots FROM slot_pool ORDER BY pool"
_IMPORT_ERRORS = "SELECT count(*) FROM import_error WHERE bundle_name = %s"
_PARSE = """
SELECT relative_fileloc, max(last_parse_duration) FROM dag
WHERE bundle_name = %s AND NOT is_stale AND last_parse_duration IS NOT NULL GROUP BY 1
"""
# A try that is followed by another is in the history alone.
_TASKS = """
SELECT state, dag_id, count(*) FROM (
  SELECT state, dag_id FROM task_instance
  WHERE state IN ('success', 'failed') AND end_date > now() - make_interval(secs => %(since)s)
  UNION ALL
  SELECT state, dag_id FROM task_instance_history
  WHERE state = 'failed' AND end_date > now() - make_interval(secs => %(since)s)
) AS ended GROUP BY 1, 2 ORDER BY 3 DESC
"""
_SHOWN = 5


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("dag-health", help="print how DAGs are parsed and tasks end")
    parser.add_argument("--configuration", type=Path, default=CONFIGURATION, help="airflow.cfg, for the database")
    parser.add_argument("--since", type=float, default=3600, help="seconds to look back for tasks that ended")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Print {"pools": {name: slots}, "queues", "import_errors", "parse_seconds": {file: s}, …}."""
    python.require("psycopg2")
    try:
        with database.connected(arguments.configuration) as cursor:
            answer = collect(cursor, arguments.since) | {"queues": _queues()}
    except ReleaseError as error:
        sys.stderr.write(f"ops-agent dag-health: {error}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0


def _queues() -> list[str] | None:
    """Return the queues that workers of the fleet serve, as Ansible told this host; None if it did not."""
    try:
        return sorted(settings.load().queues)
    except (OSError, ValueError, KeyError):
        return None


def collect(cursor: Any, since_seconds: float, bundle: str = BUNDLE) -> dict[str, Any]:
    """Ask the metadata database."""
    cursor.execute(_POOLS)
    pools = dict(cursor.fetchall())
    cursor.execute(_IMPORT_ERRORS, (bundle,))
    errors = cursor.fetchone()[0]
    cursor.execute(_PARSE, (bundle,))
    parse = {file: round(seconds, 3) for file, seconds in cursor.fetchall() if file}
    cursor.execute(_TASKS, {"since": since_seconds})
    ended = cursor.fetchall()
    return {
        "pools": pools,
        "import_errors": errors,
        "parse_seconds": parse,
        "succeeded": sum(count for state, _, count in ended if state == "success"),
        "failed": sum(count for state, _, count in ended if state == "failed"),
        "failed_dags": list(dict.fromkeys(dag for state, dag, _ in ended if state == "failed"))[:_SHOWN],
    }
