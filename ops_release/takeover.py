"""What becomes of each DAG when a dag-processor goes over to another release: parsed first, or taken over as it is.

Parsing an unchanged file again would write nothing but its bundle version and where it lies (Airflow 3.3:
SerializedDagModel.write_dag, DagModelOperation.update_dags). For hundreds of files that takes minutes, in which new
runs would begin on the old release; here it is one statement.

Unchanged means: the gate saw the same serialized DAG and task code in both releases, in a file and with imports of
equal content. Of a release that did not pass the gate nothing is known, and every file is parsed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ops_release import BUNDLE, ReleaseError
from ops_release.diff import changes

if TYPE_CHECKING:
    from ops_release.cache import Cache
    from ops_release.manifest import Manifest

_OTHERS = """
SELECT DISTINCT bundle_version FROM dag
WHERE bundle_name = %s AND NOT is_stale AND bundle_version IS NOT NULL AND bundle_version <> %s
"""
_SERVED = "SELECT dag_id FROM dag WHERE bundle_name = %s AND NOT is_stale AND bundle_version = %s"
# Not a DAG that a dag-processor has brought over already, and of its versions the latest alone, as Airflow does. Locked
# in one order, for two dag-processors at once.
_ADOPT = """
WITH same AS (
  SELECT dag_id FROM dag
  WHERE bundle_name = %(bundle)s AND bundle_version = %(old)s AND NOT is_stale AND dag_id = ANY(%(dag_ids)s)
  ORDER BY dag_id FOR UPDATE
), adopted AS (
  UPDATE dag SET bundle_version = %(new)s, fileloc = replace(fileloc, '/' || %(old)s || '/', '/' || %(new)s || '/')
  FROM same WHERE dag.dag_id = same.dag_id
  RETURNING dag.dag_id
), versions AS (
  UPDATE dag_version SET bundle_version = %(new)s
  WHERE bundle_version = %(old)s AND id IN (
    SELECT DISTINCT ON (dag_id) id FROM dag_version JOIN adopted USING (dag_id) ORDER BY dag_id, version_number DESC)
)
SELECT count(*) FROM adopted
"""


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


def adopt(cursor: Any, cache: Cache, release_id: str, bundle: str = BUNDLE) -> int:
    """Have every unchanged DAG served from `release_id` that is still served from another; return how many were.

    From whichever release each is served: a flip that was cut short, or a dag-processor that wrote an old one back, is
    mended by the next call. Needs this host's copies of both releases.
    """
    new = cache.load(release_id)
    cursor.execute(_OTHERS, (bundle, release_id))
    adopted = 0
    for old_id in sorted(row[0] for row in cursor.fetchall()):
        # A copy that is gone, or what was recorded before releases: those DAGs are parsed.
        with suppress(ReleaseError):
            dag_ids = unchanged(cache.load(old_id), new)
            cursor.execute(_ADOPT, {"old": old_id, "new": release_id, "dag_ids": dag_ids, "bundle": bundle})
            adopted += int(cursor.fetchone()[0])
    return adopted


def served(cursor: Any, release_id: str, bundle: str = BUNDLE) -> set[str]:
    """Return the DAGs that are served from a release."""
    cursor.execute(_SERVED, (bundle, release_id))
    return {row[0] for row in cursor.fetchall()}


def urgent(old: Manifest | None, new: Manifest, now_served: set[str]) -> dict[str, frozenset[str]]:
    """Return the files to parse before all others, each with its DAGs as far as the gate has seen them.

    These are the files whose DAGs are not yet served from `new`, and those that changed: a DAG may be gone from them.
    If nothing is known of the release before, nor of the DAGs of this one, it is every file.
    """
    dags: dict[str, set[str]] = {}
    for dag_id, dag in _dags(new).items():
        dags.setdefault(dag["file"], set()).add(dag_id)
    touched: set[str] = set()
    if old:
        difference = changes(old, new)
        touched = {*difference["added"], *difference["changed"]}
    elif new.validation is None:
        touched = {*new.files, *new.links}
    late = {file for file, dag_ids in dags.items() if not dag_ids <= now_served}
    return {file: frozenset(dags.get(file, ())) for file in sorted(touched | late)}


def _dags(manifest: Manifest) -> dict[str, Any]:
    return {dag["dag_id"]: dag for dag in (manifest.validation or {}).get("dags", [])}


def _contents(manifest: Manifest, dag: Any) -> dict[str, Any]:
    return {name: manifest.files.get(name) or manifest.links.get(name) for name in dag["files"]}
