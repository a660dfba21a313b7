"""A PostgreSQL 17 cluster of the tests' own on the lab's database machine, with the schema of the lab's Airflow."""

import re
from collections import Counter
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from ops_agent.metadata.shelf import copy_text, reader
from ops_agent.metadata.shelf.manifest import archives
from ops_agent.metadata.shelf.store import Store
from tests.lab.lease.cluster import BINARIES, MACHINE, shell

TEMPLATE = "template_airflow"
CREATE = """
set -euo pipefail
cd /
test -d {data} && {{ {binaries}/pg_ctl -D {data} -m immediate stop >/dev/null 2>&1 || true; rm -rf {data}; }}
{binaries}/initdb -D {data} -U postgres --no-sync -A trust --locale=C.UTF-8 -E UTF8 >/dev/null
cat >> {data}/postgresql.conf <<'END'
port = {port}
listen_addresses = '{machine}'
unix_socket_directories = '/tmp'
max_connections = 60
{settings}
END
echo 'host all all 10.77.0.0/24 trust' >> {data}/pg_hba.conf
{binaries}/pg_ctl -D {data} -w -l {data}/server.log start >/dev/null
"""
QUICK = "autovacuum = off\nfsync = off\nfull_page_writes = off"
REAL = (
    "shared_buffers = 512MB\nmax_wal_size = 4GB\nwal_compression = lz4\nrandom_page_cost = 1.1\n"
    "checkpoint_timeout = 15min"
)
# What role postgres grants it.
ROLES = """
CREATE ROLE airflow LOGIN; CREATE ROLE celery LOGIN; CREATE ROLE archive LOGIN;
GRANT pg_read_all_data, pg_write_all_data, pg_maintain, pg_monitor TO archive;
GRANT SET ON PARAMETER session_replication_role TO archive;
"""
_TABLES = """
SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'celery') ORDER BY 1
"""
Rows = dict[str, Counter[str]]


def name(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


class Cluster:
    """The running cluster; a database a test."""

    def __init__(self, *, durable: bool = False) -> None:
        """`durable` is for figures: like a real one, while the tests' own only has to be quick."""
        self.port = 55433 if durable else 55432
        self.data = f"/var/tmp/vacuum-{self.port}"  # noqa: S108
        settings = REAL if durable else QUICK
        shell(CREATE.format(data=self.data, binaries=BINARIES, port=self.port, machine=MACHINE, settings=settings))
        self.admin("postgres", ROLES)
        self.admin("postgres", f"CREATE DATABASE {TEMPLATE} OWNER airflow")
        dump = shell(
            "cd / && pg_dump -s -d airflow -n public -n celery --no-owner --no-privileges"
            " && echo \"INSERT INTO public.alembic_version VALUES ('$(psql -d airflow -Atc"
            " 'SELECT version_num FROM alembic_version')');\""
        )
        # Lines for psql alone, and the schema that every database has.
        dump = re.sub(r"(?m)^(\\.*|CREATE SCHEMA public;)$", "", dump)
        self.admin(TEMPLATE, dump)
        self.admin("postgres", f"ALTER DATABASE {TEMPLATE} IS_TEMPLATE true")

    def fresh(self, database: str, template: str = TEMPLATE) -> str:
        self.admin("postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        self.admin("postgres", f"CREATE DATABASE {database} TEMPLATE {template}")
        return database

    def dsn(self, database: str, user: str = "archive") -> str:
        return f"host={MACHINE} port={self.port} dbname={database} user={user} connect_timeout=10"

    def connect(self, database: str, user: str = "postgres") -> psycopg.Connection[Any]:
        connection = psycopg.connect(self.dsn(database, user), autocommit=True)
        connection.execute("SET timezone = 'UTC'")
        return connection

    def admin(self, database: str, statements: str) -> None:
        with self.connect(database) as connection:
            for statement in statements.split(";\n") if "IF EXISTS" in statements else [statements]:
                connection.execute(statement)  # type: ignore[arg-type]

    def crash(self) -> None:
        """Kill every process of the server, and start it again."""
        shell(
            # Its children see that it is gone and end; until then their shared memory is in the way of a new one.
            f"cd / && kill -9 $(head -1 {self.data}/postmaster.pid) && rm -f {self.data}/postmaster.pid;"
            f" until {BINARIES}/pg_ctl -D {self.data} -w -l {self.data}/server.log start >/dev/null; do sleep 0.2; done"
        )

    def close(self) -> None:
        shell(f"cd / && {BINARIES}/pg_ctl -D {self.data} -m immediate stop >/dev/null && rm -rf {self.data}")


def rows(connection: psycopg.Connection[Any]) -> Rows:
    """Every row of every table, as PostgreSQL's text."""
    found = {}
    for (table,) in connection.execute(_TABLES).fetchall():
        query = sql.SQL("SELECT t::text FROM {} AS t").format(name(table))
        if texts := Counter(text for (text,) in connection.execute(query)):
            found[table] = texts
    return found


def archived(store: Store, connection: psycopg.Connection[Any]) -> Rows:
    """Every row of every archive, put into PostgreSQL as a restore does, and read as its text again."""
    found: Rows = {}
    for archive in archives(store):
        manifest = archive.manifest()
        for file in archive.files():
            table = manifest.table(file.table)
            copied = reader.read(archive, file, table)
            assert copied.num_rows == file.rows
            found.setdefault(file.table, Counter()).update(_texts(connection, table, copied))
    return found


def _texts(connection: psycopg.Connection[Any], table: Any, copied: pa.Table) -> list[str]:
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TEMPORARY TABLE back (LIKE {})").format(name(table.name)))
        with cursor.copy("COPY back FROM STDIN") as copy:
            for chunk in copy_text.chunks(copied, table.columns):
                copy.write(chunk)
        return [text for (text,) in cursor.execute("SELECT back::text FROM back")]


def together(*parts: Rows) -> Rows:
    total: Rows = {}
    for part in parts:
        for table, texts in part.items():
            total.setdefault(table, Counter()).update(texts)
    return total


def orphans(connection: psycopg.Connection[Any]) -> list[str]:
    """Foreign keys that some row breaks."""
    broken = []
    for constraint, child, parent, definition in connection.execute(
        "SELECT conname, conrelid::regclass::text, confrelid::regclass::text, pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE contype = 'f'"
    ).fetchall():
        match = re.match(r"FOREIGN KEY \((.*?)\) REFERENCES .*?\((.*?)\)", definition)
        assert match
        pairs = list(zip(match[1].split(", "), match[2].split(", "), strict=True))
        on = " AND ".join(f"c.{one} = p.{other}" for one, other in pairs)
        given = " AND ".join(f"c.{one} IS NOT NULL" for one, _ in pairs)
        query = f"SELECT count(*) FROM {child} c WHERE {given} AND NOT EXISTS (SELECT FROM {parent} p WHERE {on})"
        if connection.execute(query).fetchone() != (0,):  # type: ignore[arg-type]
            broken.append(constraint)
    return broken
