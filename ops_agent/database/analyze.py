"""What the metadata database spends its time and space on; one psql, nothing is changed."""

import json
from typing import Any

from ops_agent.host.psql import command as psql
from ops_release.run import ProbeError, run

_TIMEOUT_SECONDS = 60.0

# How much a relation holds beyond what its rows need, from the statistics that ANALYZE left: no table is read. Every
# row has a line pointer (4 bytes) and a header (23 bytes, with the NULL bitmap, in steps of 8); an index tuple has a
# header of 8. Values that B-trees deduplicate make an index smaller than this expects, so its bloat shows late.
_BLOAT = r"""
CREATE TEMP VIEW relation AS
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpages, c.reltuples,
  coalesce((SELECT option_value::int FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'),
    CASE c.relkind WHEN 'i' THEN 90 ELSE 100 END) AS fill
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_' AND c.relpages > 0
  AND c.reltuples >= 0;
CREATE TEMP VIEW table_bloat AS
SELECT t.nspname, t.relname AS name, t.relpages * 8192::bigint AS bytes, greatest(0, t.relpages - ceil(t.reltuples
    * (4 + ceil((23 + CASE WHEN s.nullable THEN s.columns / 8.0 ELSE 0 END) / 8) * 8 + ceil(s.width / 8) * 8)
    / (8168 * t.fill / 100.0)))::bigint * 8192 AS wasted
FROM relation t
CROSS JOIN LATERAL (
  SELECT count(*) AS columns, sum((1 - null_frac) * avg_width) AS width, bool_or(null_frac > 0) AS nullable
  FROM pg_stats WHERE schemaname = t.nspname AND tablename = t.relname) s
WHERE t.relkind IN ('r', 'm') AND s.width IS NOT NULL;
CREATE TEMP VIEW index_bloat AS
SELECT i.nspname, i.relname AS name, i.relpages * 8192::bigint AS bytes, greatest(0, i.relpages - 1 - ceil(i.reltuples
    * (4 + CASE WHEN s.nullable THEN 16 ELSE 8 END + ceil(s.width / 8) * 8) / (8152 * i.fill / 100.0)))::bigint
    * 8192 AS wasted
FROM relation i
JOIN pg_index x ON x.indexrelid = i.oid
JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_am ON pg_am.oid = (SELECT relam FROM pg_class WHERE oid = i.oid) AND amname = 'btree'
CROSS JOIN LATERAL (
  SELECT sum((1 - null_frac) * avg_width) AS width, bool_or(null_frac > 0) AS nullable, count(*) AS known
  FROM pg_attribute a
  JOIN pg_stats p ON p.schemaname = i.nspname
    AND ((p.tablename = t.relname AND p.attname = a.attname AND a.attrelid = t.oid)
      OR (p.tablename = i.relname AND p.attname = a.attname AND a.attrelid = i.oid))
  WHERE (a.attrelid = t.oid AND a.attnum = ANY (x.indkey)) OR (a.attrelid = i.oid)) s
WHERE i.relkind = 'i' AND s.known >= x.indnatts;
"""

_REPORT = r"""
SELECT to_regclass('pg_stat_statements') IS NOT NULL AS has_statements \gset
\if :has_statements
SELECT json_build_object('statements', coalesce(json_agg(s), '[]')) FROM (
  SELECT regexp_replace(left(query, 300), '\s+', ' ', 'g') AS query, calls, rows,
    round((total_exec_time / 1000)::numeric, 1) AS total_seconds, round(mean_exec_time::numeric, 2) AS mean_ms,
    round((100 * total_exec_time / nullif(sum(total_exec_time) OVER (), 0))::numeric, 1) AS percent
  FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  ORDER BY total_exec_time DESC LIMIT 10) s;
\else
SELECT json_build_object('statements', '[]'::json);
\endif
SELECT json_build_object(
  'database', current_database(),
  'size_bytes', pg_database_size(current_database()),
  'counted_since', (SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()),
  'unused_indexes', (
    SELECT coalesce(json_agg(u), '[]') FROM (
      SELECT s.relname AS table, s.indexrelname AS name, pg_relation_size(s.indexrelid) AS bytes
      FROM pg_stat_user_indexes s JOIN pg_index x USING (indexrelid)
      WHERE s.idx_scan = 0 AND NOT x.indisunique AND pg_relation_size(s.indexrelid) > :floor_bytes
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = s.indexrelid)
      ORDER BY bytes DESC LIMIT 10) u),
  'unindexed_foreign_keys', (
    SELECT coalesce(json_agg(f), '[]') FROM (
      SELECT c.conrelid::regclass::text AS table, c.conname AS name, t.reltuples::bigint AS rows, (
        SELECT string_agg(attname, ', ' ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k (attnum, n)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum) AS columns
      FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
      WHERE c.contype = 'f' AND t.reltuples > :floor_rows AND NOT EXISTS (
        SELECT FROM pg_index x WHERE x.indrelid = c.conrelid AND x.indisvalid AND x.indpred IS NULL
          AND (x.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey)
      ORDER BY t.reltuples DESC LIMIT 10) f),
  'sequential_scans', (
    SELECT coalesce(json_agg(q), '[]') FROM (
      SELECT relname AS table, seq_scan AS scans, seq_tup_read / seq_scan AS rows_per_scan,
        coalesce(idx_scan, 0) AS index_scans
      FROM pg_stat_user_tables
      WHERE seq_scan > 100 AND n_live_tup > :floor_rows AND seq_tup_read / seq_scan > :floor_rows / 2
      ORDER BY seq_tup_read DESC LIMIT 10) q),
  'table_bloat', (
    SELECT coalesce(json_agg(b), '[]') FROM (
      SELECT name, bytes, wasted FROM table_bloat WHERE wasted > :floor_bytes ORDER BY wasted DESC LIMIT 10) b),
  'index_bloat', (
    SELECT coalesce(json_agg(b), '[]') FROM (
      SELECT name, bytes, wasted FROM index_bloat WHERE wasted > :floor_bytes ORDER BY wasted DESC LIMIT 10) b),
  'wraparound', (
    SELECT json_build_object('transactions', age(datfrozenxid), 'multixacts', mxid_age(datminmxid),
      'limit', 2000000000, 'freeze_at', current_setting('autovacuum_freeze_max_age')::bigint,
      'oldest_tables', (
        SELECT coalesce(json_agg(o), '[]') FROM (
          SELECT relname AS name, age(relfrozenxid) AS transactions FROM pg_class
          WHERE relkind = 'r' AND relfrozenxid <> '0' ORDER BY 2 DESC LIMIT 3) o))
    FROM pg_database WHERE datname = current_database()),
  'connections', (
    SELECT coalesce(json_agg(c), '[]') FROM (
      -- PgBouncer adds its client's address to the name.
      SELECT coalesce(usename, '') AS login,
        coalesce(substring(application_name FROM ' - (.*):\d+$'), host(client_addr), 'local') AS client,
        regexp_replace(application_name, ' - .*:\d+$', '') AS application, count(*) AS sessions,
        count(*) FILTER (WHERE state = 'active') AS active,
        count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS idle_in_transaction,
        round(max(extract(epoch FROM clock_timestamp() - xact_start)))::bigint AS oldest_transaction_seconds
      FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
      GROUP BY 1, 2, 3 ORDER BY sessions DESC, login LIMIT 20) c));
"""


def report(*, floor_bytes: int = 1 << 20, floor_rows: int = 10_000) -> dict[str, Any]:
    """Ask the local server as its administrator; what is smaller than the floors is not worth a line.

    Raises ProbeError if the server does not answer.
    """
    command = [*psql(), "-v", f"floor_bytes={floor_bytes}", "-v", f"floor_rows={floor_rows}"]
    script = f"SET statement_timeout = '50s';\n{_BLOAT}\nSET default_transaction_read_only = on;\n{_REPORT}"
    return read(run(command, stdin=script, timeout_seconds=_TIMEOUT_SECONDS))


def read(printed: str) -> dict[str, Any]:
    """Join the JSON objects that psql printed, which may span lines; raise ProbeError if there is anything else."""
    found: dict[str, Any] = {}
    rest = printed.strip()
    while rest:
        try:
            part, end = json.JSONDecoder().raw_decode(rest)
            found |= part
        except (ValueError, TypeError):
            raise ProbeError(f"psql printed {rest[:80]!r}") from None
        rest = rest[end:].lstrip()
    return found
