"""The metadata database: connections, size, schedulers, DAGs; one psql for everything."""

import json
from typing import Any

from ops_agent.host.psql import command as psql
from ops_release.run import ProbeError, run

_TIMEOUT_SECONDS = 2.0

# Airflow's own scheduler_health_check_threshold.
_HEARTBEAT_SECONDS = 30

# The metadata tables are read only if they are there: the database stands before Airflow is installed.
_SCRIPT = r"""
SET default_transaction_read_only = on;
SET statement_timeout = '2s';
SELECT to_regclass('public.dag') IS NOT NULL AS has_airflow, to_regclass('ops.lease_status') IS NOT NULL AS has_lease
\gset
SELECT json_build_object(
  'version', split_part(current_setting('server_version'), ' ', 1),
  'max_connections', current_setting('max_connections')::int,
  'size_bytes', pg_database_size(current_database()),
  'connections', (
    SELECT coalesce(json_object_agg(state, n), '{}') FROM (
      SELECT coalesce(state, 'other') AS state, count(*) AS n FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1 ORDER BY 1) AS states));
\if :has_airflow
SELECT json_build_object(
  'schedulers', (
    SELECT coalesce(json_agg(DISTINCT hostname), '[]') FROM job
    WHERE job_type = 'SchedulerJob' AND state = 'running'
      AND latest_heartbeat > now() - make_interval(secs => :heartbeat_seconds)),
  'dags', json_build_object(
    'total', (SELECT count(*) FROM dag WHERE NOT is_stale),
    'import_errors', (SELECT count(*) FROM import_error),
    'import_error_files', (
      SELECT coalesce(json_agg(filename), '[]') FROM (
        SELECT filename FROM import_error ORDER BY timestamp DESC LIMIT 5) AS newest),
    'paused_with_queued_runs', (
      SELECT coalesce(json_object_agg(dag_id, runs), '{}') FROM (
        SELECT dag_id, count(*) AS runs FROM dag_run JOIN dag USING (dag_id)
        WHERE state = 'queued' AND is_paused GROUP BY dag_id ORDER BY runs DESC, dag_id LIMIT 5) AS waiting)));
\endif
\if :has_lease
SELECT jsonb_build_object('lease', lease) FROM (:lease) AS found;
\endif
"""


def probe(lease: str) -> dict[str, Any]:
    """Ask the local server as its own administrator over the socket; raise ProbeError if it does not answer.

    `lease` is the SELECT of the scheduler lease's one row, `lease`.
    """
    command = [*psql(), "-v", f"heartbeat_seconds={_HEARTBEAT_SECONDS}"]
    found: dict[str, Any] = {}
    for line in run(command, stdin=_SCRIPT.replace(":lease", lease), timeout_seconds=_TIMEOUT_SECONDS).splitlines():
        try:
            found |= json.loads(line)
        except ValueError:
            raise ProbeError(f"psql printed {line[:80]!r}") from None
    return found
