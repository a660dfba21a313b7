"""Fills an empty Airflow schema with a history: so many task instances, ten a run, over two years up to now.

Set-based and seeded, so that two databases made with the same number hold the same rows.
"""

from typing import Any

DAGS = 100
TASKS = 10
_STATEMENTS = (
    "SELECT setseed(0.5)",
    "INSERT INTO dag_bundle (name) VALUES ('dags') ON CONFLICT DO NOTHING",
    "INSERT INTO log_template (filename, elasticsearch_id, created_at) VALUES ('f', 'e', now() - interval '3 years')",
    """
INSERT INTO dag (dag_id, is_paused, is_stale, has_task_concurrency_limits, max_active_runs, max_active_tasks,
  max_consecutive_failed_dag_runs, has_import_errors, bundle_name, fileloc, timetable_type, exceeds_max_non_backfill,
  timetable_partitioned, timetable_periodic, partition_mapper_info)
SELECT 'pipeline_' || g, false, false, false, 16, 16, 0, false, 'dags', '/dags/pipeline_' || g || '.py', 'cron', false,
  false, true, '{}'
FROM generate_series(0, %(dags)s - 1) AS g""",
    """
INSERT INTO dag_version (id, version_number, dag_id, bundle_name, created_at, last_updated)
SELECT gen_random_uuid(), v, 'pipeline_' || g, 'dags', now() - interval '2 years' * (4 - v) / 3,
  now() - interval '2 years' * (4 - v) / 3
FROM generate_series(0, %(dags)s - 1) AS g, generate_series(1, 3) AS v""",
    """
INSERT INTO dag_run (dag_id, queued_at, logical_date, start_date, end_date, state, run_id, run_type, triggered_by, conf,
  data_interval_start, data_interval_end, run_after, last_scheduling_decision, log_template_id, created_at, updated_at,
  clear_number, context_carrier, span_status, created_dag_version_id)
SELECT d.dag_id, t, t, t + interval '2 s', t + interval '10 min' + random() * interval '20 min',
  CASE WHEN random() < 0.05 THEN 'failed' ELSE 'success' END,
  'scheduled__' || to_char(t, 'YYYY-MM-DD"T"HH24:MI:SS+00:00'),
  'scheduled', 'timetable', '{}', t - interval '1 hour', t, t, t + interval '20 min', 1, t, t + interval '20 min', 0,
  '{"__var": {}, "__type": "dict"}', 'ended', v.id
FROM generate_series(0, %(runs)s - 1) AS n
CROSS JOIN LATERAL (SELECT 'pipeline_' || n %% %(dags)s AS dag_id,
  date_trunc('milliseconds', now() - interval '2 years' + n * interval '2 years' / %(runs)s) AS t) AS d
CROSS JOIN LATERAL (SELECT id FROM dag_version AS v WHERE v.dag_id = d.dag_id
  AND v.version_number = 1 + n * 3 / %(runs)s) AS v
ORDER BY n""",
    """
INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, start_date, end_date, duration, state, try_number,
  max_tries, hostname, unixname, pool, pool_slots, queue, priority_weight, operator, queued_dttm, scheduled_dttm,
  queued_by_job_id, last_heartbeat_at, pid, executor_config, updated_at, context_carrier, span_status,
  external_executor_id, task_display_name, dag_version_id)
SELECT (lpad(to_hex((extract(epoch FROM s) * 1000)::bigint), 12, '0') || '7' || substr(md5(r.id::text || k), 1, 3)
  || '8' || substr(md5(k || r.id::text), 1, 15))::uuid,
  'task_' || k, r.dag_id, r.run_id, -1, s, s + d * interval '1 s', d,
  CASE WHEN k = 9 AND r.state = 'failed' THEN 'failed' ELSE 'success' END, 1 + (random() < 0.1)::int, 2,
  'worker-io' || 1 + (random() * 3)::int, 'airflow', 'default_pool', 1, 'io', 1, 'PythonOperator',
  s - interval '1 s', s - interval '2 s', 1, s + d * interval '1 s', (1000 + random() * 30000)::int,
  '\\x80057d942e', s + d * interval '1 s', '{"__var": {}, "__type": "dict"}', 'ended',
  gen_random_uuid()::text, 'task_' || k, r.created_dag_version_id
FROM dag_run AS r CROSS JOIN generate_series(0, %(tasks)s - 1) AS k
CROSS JOIN LATERAL (
  SELECT r.start_date + k * interval '1 min' AS s, round((random() * 50)::numeric, 6)::float AS d
) AS t
ORDER BY r.id, k""",
    """
INSERT INTO task_instance_history (task_instance_id, task_id, dag_id, run_id, map_index, try_number, start_date,
  end_date, duration, state, max_tries, hostname, unixname, pool, pool_slots, queue, priority_weight, operator,
  queued_dttm, scheduled_dttm, pid, executor_config, updated_at, context_carrier, span_status, task_display_name,
  dag_version_id)
SELECT gen_random_uuid(), task_id, dag_id, run_id, map_index, 1, start_date - interval '30 s', start_date, 30, 'failed',
  max_tries, hostname, unixname, pool, pool_slots, queue, priority_weight, operator, queued_dttm, scheduled_dttm, pid,
  executor_config, start_date, context_carrier, span_status, task_display_name, dag_version_id
FROM task_instance WHERE try_number > 1 ORDER BY id""",
    """
INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, "timestamp")
SELECT r.id, t.task_id, t.map_index, 'return_value', t.dag_id, t.run_id, jsonb_build_object(
    'rows', (random() * 100000)::int, 'path', 's3://lake/' || t.dag_id || '/' || t.task_id || '/' || r.id || '.parquet',
    'checksum', substr(md5(r.id || t.task_id), 1, 8)), t.end_date
FROM task_instance AS t JOIN dag_run AS r USING (dag_id, run_id) ORDER BY t.id""",
    """
INSERT INTO rendered_task_instance_fields (dag_id, task_id, run_id, map_index, rendered_fields)
SELECT t.dag_id, t.task_id, t.run_id, t.map_index, json_build_object('op_args', '[]', 'op_kwargs', json_build_object(
  'day', r.logical_date::date, 'table', t.task_id), 'templates_dict', NULL)
FROM task_instance AS t JOIN dag_run AS r USING (dag_id, run_id) WHERE t.task_id IN ('task_0', 'task_1', 'task_2')
ORDER BY t.id""",
    """
INSERT INTO task_reschedule (ti_id, start_date, end_date, duration, reschedule_date)
SELECT id, start_date, end_date, 1, end_date + interval '1 min' FROM task_instance
WHERE task_id = 'task_3' AND random() < 0.2 ORDER BY id""",
    """
INSERT INTO log (dttm, dag_id, task_id, map_index, event, logical_date, run_id, owner, extra, try_number)
SELECT CASE e WHEN 'running' THEN t.start_date ELSE t.end_date END, t.dag_id, t.task_id, t.map_index, e, NULL, t.run_id,
  'airflow', '{"host_name": "' || t.hostname || '", "full_command": "airflow tasks run"}', t.try_number
FROM task_instance AS t CROSS JOIN (VALUES ('running'), ('success')) AS v (e) ORDER BY 1""",
    """
INSERT INTO job (dag_id, state, job_type, start_date, end_date, latest_heartbeat, hostname)
SELECT NULL, 'success', 'SchedulerJob', now() - g * interval '1 day', now() - (g - 1) * interval '1 day',
  now() - (g - 1) * interval '1 day', 'sched1' FROM generate_series(2, 730) AS g""",
)


def fill(connection: Any, task_instances: int) -> None:
    """Write the history and make the planner know it; `connection` is psycopg's, in autocommit."""
    numbers = {"dags": DAGS, "tasks": TASKS, "runs": task_instances // TASKS}
    for statement in _STATEMENTS:
        connection.execute(statement, numbers if "%(" in statement else None)
        connection.execute("ANALYZE")
    connection.execute("VACUUM (FREEZE, ANALYZE)")
