"""`ops-agent adopt`: after a flip, the DAGs that are the same in both releases are served from the new one at once.

Parsing an unchanged file again would write nothing but its bundle version (Airflow 3.3: SerializedDagModel.write_dag,
DagModelOperation.update_dags). For hundreds of files that takes minutes, in which new runs would begin on the old
release; here it is one statement. The dag-processors parse the files all the same, in their own time.

Same means: the gate saw the same serialized DAG and task code in both, in a file and with imports of equal content.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_agent import airflow_python
from ops_agent.release import BUNDLE, CACHE, ReleaseError, database
from ops_agent.release.arguments import CONFIGURATION
from ops_agent.release.cache import Cache

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ops_agent.release.manifest import Manifest

# Not a DAG that a dag-processor has brought over already, and of its versions the latest alone, as Airflow does.
_ADOPT = """
WITH adopted AS (
  UPDATE dag SET bundle_version = %(new)s
  WHERE bundle_name = %(bundle)s AND bundle_version = %(old)s AND NOT is_stale AND dag_id = ANY(%(dag_ids)s)
  RETURNING dag_id
), versions AS (
  UPDATE dag_version SET bundle_version = %(new)s
  WHERE bundle_version = %(old)s AND id IN (
    SELECT DISTINCT ON (dag_id) id FROM dag_version JOIN adopted USING (dag_id) ORDER BY dag_id, version_number DESC)
)
SELECT count(*) FROM adopted
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of this host's copies")
    parser.add_argument("--configuration", type=Path, default=CONFIGURATION, help="airflow.cfg, for the database")
    parser.add_argument("old", help="the release that was current")
    parser.add_argument("new", help="the release that is")


def run(arguments: Namespace) -> int:
    """Print {"adopted": N}: how many DAGs are served from the new release by this."""
    airflow_python.require("psycopg2")
    try:
        cache = Cache(arguments.cache)
        dag_ids = unchanged(cache.load(arguments.old), cache.load(arguments.new))
        with database.connected(arguments.configuration) as cursor:
            adopted = adopt(cursor, arguments.old, arguments.new, dag_ids)
    except ReleaseError as error:
        sys.stderr.write(f"ops-agent adopt: {error}\n")
        return 1
    sys.stdout.write(json.dumps({"adopted": adopted}) + "\n")
    sys.stdout.flush()
    return 0


def unchanged(old: Manifest, new: Manifest) -> list[str]:
    """Return the DAGs that are the same in both; none of a release that did not pass the gate."""
    before, after = _dags(old), _dags(new)
    return [
        dag_id
        for dag_id in sorted(before.keys() & after.keys())
        if before[dag_id]["hash"] == after[dag_id]["hash"]
        and before[dag_id]["file"] == after[dag_id]["file"]
        and _contents(old, before[dag_id]) == _contents(new, after[dag_id])
    ]


def adopt(cursor: Any, old: str, new: str, dag_ids: list[str], bundle: str = BUNDLE) -> int:
    """Have the DAGs served from the new release that are still served from the old one; return how many were."""
    cursor.execute(_ADOPT, {"old": old, "new": new, "dag_ids": dag_ids, "bundle": bundle})
    return int(cursor.fetchone()[0])


def _dags(manifest: Manifest) -> dict[str, Any]:
    return {dag["dag_id"]: dag for dag in (manifest.validation or {}).get("dags", [])}


def _contents(manifest: Manifest, dag: Any) -> dict[str, Any]:
    return {name: manifest.files.get(name) or manifest.links.get(name) for name in dag["files"]}
