"""A PostgreSQL cluster of the tests' own on the lab's database machine: its binaries, none of its data.

The role's own SQL fills it. Logins need no password, so that a test can be every keeper and every scheduler at once.
"""

import subprocess
from pathlib import Path
from typing import Any

import psycopg2

from tests.config import plays

MACHINE = "10.77.0.51"
PORT = 55417
HOSTS = ("sched1", "sched2")
SSH_DIRECTORY = Path("/var/lib/airfleet/lab/ssh")
SSH = [
    "ssh",
    *("-i", str(SSH_DIRECTORY / "id_ed25519"), "-o", f"UserKnownHostsFile={SSH_DIRECTORY / 'known_hosts'}"),
    *("-o", "BatchMode=yes", "-o", "LogLevel=ERROR", f"fleet@{MACHINE}"),
]
BINARIES = "/usr/lib/postgresql/17/bin"
DATA = f"/var/tmp/lease-{PORT}"  # noqa: S108
CREATE = f"""
set -euo pipefail
cd /
test -d {DATA} && {{ {BINARIES}/pg_ctl -D {DATA} -m immediate stop >/dev/null 2>&1 || true; rm -rf {DATA}; }}
{BINARIES}/initdb -D {DATA} -U postgres --no-sync -A trust >/dev/null
cat >> {DATA}/postgresql.conf <<'END'
port = {PORT}
listen_addresses = '{MACHINE}'
unix_socket_directories = '/tmp'
fsync = off
log_connections = on
log_disconnections = on
log_line_prefix = '%m [%p] %u app=%a '
END
echo 'host all all 10.77.0.0/24 trust' >> {DATA}/pg_hba.conf
{BINARIES}/pg_ctl -D {DATA} -w -l {DATA}/server.log start >/dev/null
"""
# Only what the fence and the adoption read of Airflow's own tables.
AIRFLOW_TABLES = """
SET SESSION AUTHORIZATION airflow;
CREATE TABLE public.job (id serial PRIMARY KEY, job_type text, state text, hostname text, end_date timestamptz);
CREATE TABLE public.task_instance (id serial PRIMARY KEY, state text, queued_by_job_id integer, note text);
"""


def shell(script: str, user: str = "postgres") -> str:
    done = subprocess.run(
        [*SSH, f"sudo -u {user} bash -s"], input=script, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def psql(text: str, database: str = "postgres") -> str:
    """Run a script as the role's tasks do; return what it prints, which is one line a change."""
    script = "cat > /tmp/lease.sql <<'END_OF_SCRIPT'\n" + text + "\nEND_OF_SCRIPT\n"
    options = f"--no-psqlrc -q -A -t -v ON_ERROR_STOP=1 -h /tmp -p {PORT} -U postgres -d {database}"
    return shell(script + f"cd / && psql {options} < /tmp/lease.sql 2>&1")


class Cluster:
    """The running cluster, and everybody's way in."""

    def __init__(self, directory: Path) -> None:
        names = ("roles.sql", "database.sql")
        templates = [plays.template(f"roles/postgres/templates/{name}.j2", directory / name) for name in names]
        include = {"ansible.builtin.include_role": {"name": "postgres", "tasks_from": "preflight.yml", "public": True}}
        here = {
            "postgres_listen_address": "{{ ansible_facts['all_ipv4_addresses'][0] }}",
            "airflow_scheduler_mode": "active_standby",
        }
        plays.run([plays.play("pg1", here, plays.FACTS, include, *templates)], directory)
        self.scripts = [(directory / name).read_text() for name in names]
        shell(CREATE)
        self.first_run = [psql(script) for script in self.scripts]
        self.admin(AIRFLOW_TABLES)

    def connect(self, login: str, application: str = "test") -> Any:
        connection = psycopg2.connect(
            host=MACHINE, port=PORT, dbname="airflow", user=login, application_name=application, connect_timeout=5
        )
        connection.autocommit = True
        return connection

    def ask(self, login: str, statement: str, *values: Any) -> Any:
        """Run one statement on a session of its own and return the first column of the first row, if any."""
        connection = self.connect(login)
        try:
            return ask(connection, statement, *values)
        finally:
            connection.close()

    def admin(self, statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the superuser and return the rows of the last one."""
        connection = self.connect("postgres")
        try:
            with connection.cursor() as cursor:
                cursor.execute(statements)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def restart(self) -> None:
        shell(f"cd / && {BINARIES}/pg_ctl -D {DATA} -w -m immediate -l {DATA}/server.log restart >/dev/null")

    def log(self) -> str:
        return shell(f"cat {DATA}/server.log")

    def close(self) -> None:
        shell(f"cd / && {BINARIES}/pg_ctl -D {DATA} -m immediate stop >/dev/null && rm -rf {DATA} /tmp/lease.sql")


def ask(connection: Any, statement: str, *values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, (values[0] if values and isinstance(values[0], dict) else values) or None)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None
