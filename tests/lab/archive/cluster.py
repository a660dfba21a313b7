"""A PostgreSQL 17 of the tests' own on the lab's database machine, with Airflow's schema and a small history.

The schema is the lab's own, the logins and grants are those of role postgres, and nobody needs a password.
"""

from pathlib import Path
from typing import Any

import psycopg

from tests.bench.vacuum import generator
from tests.config import plays
from tests.lab.lease.cluster import BINARIES, MACHINE, shell

PORT = 55431
DATA = f"/var/tmp/archive-{PORT}"  # noqa: S108
TASK_INSTANCES = 2000
CREATE = f"""
set -euo pipefail
cd /
test -d {DATA} && {{ {BINARIES}/pg_ctl -D {DATA} -m immediate stop >/dev/null 2>&1 || true; rm -rf {DATA}; }}
nice {BINARIES}/initdb -D {DATA} -U postgres --no-sync -A trust >/dev/null
cat >> {DATA}/postgresql.conf <<'END'
port = {PORT}
listen_addresses = '{MACHINE}'
unix_socket_directories = '/tmp'
fsync = off
shared_preload_libraries = 'pg_stat_statements'
timezone = 'Etc/UTC'
END
echo 'host all all 10.77.0.0/24 trust' >> {DATA}/pg_hba.conf
nice {BINARIES}/pg_ctl -D {DATA} -w -l {DATA}/server.log start >/dev/null
"""
PSQL = f"psql --no-psqlrc -q -A -t -v ON_ERROR_STOP=1 -h /tmp -p {PORT} -U postgres"
# The structure is copied without what the role's own script has made already.
SCHEMA = f"""
set -euo pipefail
cd /
nice pg_dump --schema-only --no-owner --no-privileges -n public -n celery airflow > /tmp/archive.sql
nice pg_dump --data-only -t alembic_version -t alembic_version_fab airflow >> /tmp/archive.sql
grep -vE '^CREATE SCHEMA|^CREATE EXTENSION|^COMMENT ON' /tmp/archive.sql | {PSQL} -d airflow >/dev/null
"""
# Values that have been lost on their way through text formats before.
ODDITIES = r"""
UPDATE task_instance SET duration = 0.1 + 0.2, hostname = E'tab\there', executor_config = '\x00ff5c4e'
  WHERE task_id = 'task_1';
INSERT INTO task_instance_note (ti_id, content, created_at, updated_at)
  SELECT id, E'a\n\\.\nb\r\\N\t"quoted", é 🚀', now(), now() FROM task_instance WHERE task_id = 'task_2';
INSERT INTO task_instance_note (ti_id, content, created_at, updated_at)
  SELECT id, '', now(), now() FROM task_instance WHERE task_id = 'task_3';
INSERT INTO dag_run_note (dag_run_id, content, created_at, updated_at)
  SELECT id, NULL, now(), now() FROM dag_run WHERE id % 3 = 0;
UPDATE dag_run SET conf = '{"a": "\\n \\u00e9", "b": [1e300]}' WHERE id % 5 = 0;
"""
FOREIGN_KEYS = """
SELECT conname, conrelid::regclass::text, confrelid::regclass::text,
  (SELECT array_agg(attname::text ORDER BY n) FROM unnest(conkey) WITH ORDINALITY k (num, n)
   JOIN pg_attribute ON attrelid = conrelid AND attnum = num),
  (SELECT array_agg(attname::text ORDER BY n) FROM unnest(confkey) WITH ORDINALITY k (num, n)
   JOIN pg_attribute ON attrelid = confrelid AND attnum = num)
FROM pg_constraint WHERE contype = 'f'
"""


class Cluster:
    """The running cluster; each test gets a copy of one database."""

    def __init__(self, directory: Path) -> None:
        names = ("roles.sql", "database.sql")
        templates = [plays.template(f"roles/postgres/templates/{name}.j2", directory / name) for name in names]
        include = {"ansible.builtin.include_role": {"name": "postgres", "tasks_from": "preflight.yml", "public": True}}
        here = {"postgres_listen_address": "{{ ansible_facts['all_ipv4_addresses'][0] }}"}
        plays.run([plays.play("pg1", here, plays.FACTS, include, *templates)], directory)
        shell(CREATE)
        for name in names:
            self.psql((directory / name).read_text())
        shell(SCHEMA)
        with self.connect("airflow") as connection:
            generator.fill(connection, TASK_INSTANCES)
            connection.execute(ODDITIES)

    def psql(self, text: str) -> None:
        """Run a script as the role's tasks do."""
        write = f"cat > /tmp/archive.sql <<'END_OF_SCRIPT'\n{text}\nEND_OF_SCRIPT\n"
        shell(f"{write}cd / && {PSQL} -d postgres < /tmp/archive.sql")

    def dsn(self, database: str, login: str = "archive") -> str:
        return f"host={MACHINE} port={PORT} dbname={database} user={login}"

    def connect(self, database: str, login: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(database, login), autocommit=True, connect_timeout=5)

    def copy(self, name: str) -> "Database":
        """Make a database that begins as the filled one."""
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE airflow')
            # The role gives them for the one database that it makes.
            connection.execute(f'GRANT CONNECT, TEMPORARY ON DATABASE "{name}" TO archive')
        return Database(self, name)

    def drop(self, name: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def close(self) -> None:
        shell(f"cd / && {BINARIES}/pg_ctl -D {DATA} -m immediate stop >/dev/null && rm -rf {DATA} /tmp/archive.sql")


class Database:
    """One database of the cluster, seen by its superuser; `dsn` is the engine's way in."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.dsn = cluster.dsn(name)
        self.connection = cluster.connect(name)

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []

    def dump(self) -> dict[str, list[str]]:
        """Return every row of every table as text, sorted."""
        tables = self.run(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'celery')"
        )
        return {
            table: [row for (row,) in self.run(f"SELECT t::text FROM {table} AS t ORDER BY 1")] for (table,) in tables
        }

    def sequences(self) -> list[tuple[Any, ...]]:
        return self.run("SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2")

    def broken_foreign_keys(self) -> list[str]:
        """Look at every row of every foreign key, as the server would if it checked them now."""
        broken = []
        for name, child, parent, columns, parents in self.run(FOREIGN_KEYS):
            match = " AND ".join(f'p."{there}" = c."{here}"' for here, there in zip(columns, parents, strict=True))
            known = " AND ".join(f'c."{here}" IS NOT NULL' for here in columns)
            query = (
                f"SELECT count(*) FROM {child} c WHERE {known} AND NOT EXISTS (SELECT FROM {parent} p WHERE {match})"
            )
            ((count,),) = self.run(query)
            if count:
                broken.append(f"{name}: {count} rows of {child} without {parent}")
        return broken

    def close(self) -> None:
        self.connection.close()
