"""What Airflow's metadata database knows of releases; asked with psycopg2, because importing Airflow takes seconds.

Written for Airflow 3.3: `dag.bundle_version` is the release whose parse was stored last and which new runs take;
`dag_run.bundle_version` the one a run stays on. Never `dag_version.bundle_version`, which is rewritten in place.
"""

from __future__ import annotations

from configparser import ConfigParser
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from ops_release import BUNDLE, ReleaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIGURATION = Path("/etc/airflow/airflow.cfg")

_UNFINISHED = """
SELECT bundle_version, count(*) FROM dag_run
WHERE state IN ('queued', 'running') AND bundle_version IS NOT NULL GROUP BY 1
"""
_SERVING = """
SELECT bundle_version, count(*) FROM dag
WHERE bundle_name = %s AND NOT is_stale AND bundle_version IS NOT NULL GROUP BY 1
"""
_ENDED = """
SELECT bundle_version, count(*) FROM dag_run
WHERE state NOT IN ('queued', 'running') AND bundle_version IS NOT NULL AND end_date > now() - %s * interval '1 day'
GROUP BY 1
"""
_DAGS = """
SELECT dag_id, bundle_version, relative_fileloc, is_paused, has_import_errors FROM dag
WHERE bundle_name = %s AND NOT is_stale ORDER BY dag_id
"""
_ERRORS = "SELECT filename, stacktrace FROM import_error WHERE bundle_name = %s ORDER BY filename"
_BUNDLE = "SELECT version FROM dag_bundle WHERE name = %s"
_UNFINISHED_BY_DAG = """
SELECT dag_id, bundle_version, count(*) FROM dag_run WHERE state IN ('queued', 'running') GROUP BY 1, 2 ORDER BY 1, 2
"""
# Every dag-processor looks at this row each second, and refreshes if it is old or names another version than its own.
_REFRESH = "UPDATE dag_bundle SET last_refreshed = 'epoch' WHERE name = %s"


def connection_uri(configuration: Path) -> str:
    """Return libpq's URI from airflow.cfg."""
    parser = ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(configuration.read_text(encoding="utf-8"))
        value = parser["database"]["sql_alchemy_conn"].replace("%%", "%")
    except (OSError, KeyError) as error:
        raise ReleaseError(
            f"{configuration} names no metadata database ({error}); ask on a scheduler host, as root"
        ) from error
    return libpq(value)


def libpq(url: str) -> str:
    """Return SQLAlchemy's URL as libpq's URI: without the driver."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme=parts.scheme.partition("+")[0]))


@contextmanager
def connected(configuration: Path) -> Iterator[Any]:
    """Yield a cursor in one transaction; raise ReleaseError if the database does not answer."""
    import psycopg2  # noqa: PLC0415 - only Airflow's environment has it

    try:
        connection = psycopg2.connect(connection_uri(configuration), connect_timeout=5, application_name="ops-agent")
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise ReleaseError(f"the metadata database does not answer: {str(error).strip().splitlines()[0]}") from error


def served(cursor: Any, bundle: str = BUNDLE) -> dict[str, Any]:
    """Return every DAG with the release it is served from, all import errors, and the unfinished runs of each DAG."""
    release = followed(cursor, bundle)
    cursor.execute(_DAGS, (bundle,))
    names = ("dag_id", "release", "file", "paused", "import_error")
    dags = [dict(zip(names, found, strict=True)) for found in cursor.fetchall()]
    cursor.execute(_ERRORS, (bundle,))
    errors = [{"file": file, "error": (trace or "").strip()} for file, trace in cursor.fetchall()]
    cursor.execute(_UNFINISHED_BY_DAG)
    runs = [{"dag_id": dag, "release": release, "runs": count} for dag, release, count in cursor.fetchall()]
    return {"bundle_release": release, "dags": dags, "import_errors": errors, "unfinished_runs": runs}


def followed(cursor: Any, bundle: str = BUNDLE) -> str | None:
    """Return the release that the dag-processors have gone over to."""
    cursor.execute(_BUNDLE, (bundle,))
    row = cursor.fetchone()
    return row[0] if row else None


def unfinished(cursor: Any) -> dict[str, int]:
    """Return how many unfinished runs each release has."""
    cursor.execute(_UNFINISHED)
    return dict(cursor.fetchall())


def needed(cursor: Any, clearable_days: float, bundle: str = BUNDLE) -> dict[str, list[str]]:
    """Return by release why Airflow still needs it: a cleared task runs on what its run began with."""
    reasons: dict[str, list[str]] = {}
    for release, count in unfinished(cursor).items():
        reasons.setdefault(release, []).append(f"{count} unfinished run{'s' * (count != 1)}")
    # New runs of these DAGs would begin on it.
    cursor.execute(_SERVING, (bundle,))
    for release, count in cursor.fetchall():
        reasons.setdefault(release, []).append(f"{count} DAG{'s' * (count != 1)} served from it")
    cursor.execute(_ENDED, (clearable_days,))
    for release, count in cursor.fetchall():
        text = f"{count} run{'s' * (count != 1)} that ended in the last {clearable_days:g} days and may be cleared"
        reasons.setdefault(release, []).append(text)
    return reasons


def refresh(cursor: Any, bundle: str = BUNDLE) -> bool:
    """Have every dag-processor look for the current release now; return False if Airflow has no such bundle."""
    cursor.execute(_REFRESH, (bundle,))
    return bool(cursor.rowcount)


@contextmanager
def refreshing(configuration: Path) -> Iterator[Callable[[], bool]]:
    """Log in at once and yield `refresh` to be called later; it returns False too if the database is away."""
    stack, cursor = ExitStack(), None
    with suppress(ReleaseError, ImportError):
        cursor = stack.enter_context(connected(configuration))

    def tell() -> bool:
        try:
            with stack:
                return cursor is not None and refresh(cursor)
        except ReleaseError:
            return False

    with stack:
        yield tell
