"""The database as it runs: logins, limits, log, and what happens when it dies."""

import secrets
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host as Machine

from tests.lab.database.sql import address, ask, password, superuser

testinfra_hosts = ["ansible://database"]

ROOT = Path(__file__).parents[3]
UNIT = "postgresql@17-main.service"
LOG = "/var/log/postgresql/postgresql-17-main.log"


def test_server_runs_now_and_at_boot(host: Machine) -> None:
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled


def test_server_listens_on_its_own_address_only(host: Machine) -> None:
    listening = {name.removeprefix("tcp://") for name in host.socket.get_listening_sockets() if name.endswith(":5432")}
    assert listening - {"127.0.0.1:5432", "::1:5432"} == {f"{address(host)}:5432"}


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/etc/postgresql/17/main/conf.d/airfleet.conf", "root", 0o644),
        ("/etc/postgresql/17/main/pg_hba.conf", "root", 0o640),
        ("/var/lib/postgresql/17/main", "postgres", 0o700),
    ],
)
def test_file_has_its_owner_and_mode(host: Machine, path: str, owner: str, mode: int) -> None:
    found = host.file(path)
    assert (found.user, found.mode) == (owner, mode)


def test_settings_are_all_in_force(host: Machine) -> None:
    assert superuser(host, "SELECT name FROM pg_settings WHERE pending_restart") == []
    assert superuser(host, "SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL") == []
    names = "data_checksums", "password_encryption", "jit", "log_connections", "shared_preload_libraries"
    values = superuser(host, ";".join(f"SHOW {name}" for name in names))
    assert values == ["on", "scram-sha-256", "off", "on", "pg_stat_statements"]


def test_every_login_has_a_scram_verifier_and_no_more_rights_than_it_needs(host: Machine) -> None:
    rows = superuser(
        host,
        "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolname NOT IN ('postgres', 'archive')"
        " AND (rolsuper OR rolcreatedb OR rolreplication OR rolbypassrls"
        " OR rolpassword IS NULL OR rolpassword NOT LIKE 'SCRAM-SHA-256$%')",
    )
    assert rows == []


def scheduler_login(host: Machine) -> str:
    """Return the login of the scheduler that may write now: the lease decides which one that is."""
    return superuser(host, "SELECT 'scheduler_' || host FROM ops.lease_status WHERE writes")[0]


@pytest.mark.parametrize("login", ["airflow", "celery", "ops", "monitor", "scheduler"])
def test_login_reaches_database_airflow_and_no_other(host: Machine, login: str) -> None:
    login = scheduler_login(host) if login == "scheduler" else login
    assert ask(host, login, "SELECT current_user").stdout.strip() == login
    refused = ask(host, login, "SELECT 1", PGDATABASE="postgres")
    assert refused.rc != 0
    assert "no pg_hba.conf entry" in refused.stderr


def test_login_with_a_wrong_password_is_refused(host: Machine) -> None:
    refused = ask(host, "airflow", "SELECT 1", PGPASSWORD="wrong")
    assert refused.rc != 0
    assert "password authentication failed" in refused.stderr


def test_address_outside_the_fleet_is_refused(host: Machine) -> None:
    """The control node is on the bridge, but no host of the fleet."""
    parameters = b"user\0airflow\0database\0airflow\0\0"
    with socket.create_connection((address(host), 5432), timeout=5) as connection:
        connection.sendall(struct.pack("!ii", len(parameters) + 8, 196608) + parameters)
        answer = connection.recv(1024)
    assert answer[:1] == b"E"
    assert b"no pg_hba.conf entry for host" in answer


def test_scheduler_writes_what_airflow_owns(host: Machine) -> None:
    assert ask(host, "airflow", "CREATE TABLE airfleet_probe (id int PRIMARY KEY)").rc == 0
    try:
        answer = ask(
            host,
            scheduler_login(host),
            "INSERT INTO airfleet_probe VALUES (1), (2); UPDATE airfleet_probe SET id = 3 WHERE id = 1;"
            " DELETE FROM airfleet_probe WHERE id = 2; SELECT id FROM airfleet_probe",
        )
        assert (answer.rc, answer.stdout.strip()) == (0, "3"), answer.stderr
    finally:
        assert ask(host, "airflow", "DROP TABLE airfleet_probe").rc == 0


def test_scheduler_cannot_become_airflow_and_owns_nothing(host: Machine) -> None:
    assert "permission denied" in ask(host, scheduler_login(host), "SET ROLE airflow").stderr
    owned = "SELECT relname FROM pg_class WHERE pg_get_userbyid(relowner) LIKE 'scheduler%'"
    assert superuser(host, owned) == []


def test_monitor_reads_and_cannot_write(host: Machine) -> None:
    assert ask(host, "monitor", "SELECT count(*) > 0 FROM pg_stat_statements").stdout.strip() == "t"
    for attempt in (
        "CREATE TABLE public.x (id int)",
        "SET default_transaction_read_only = off; CREATE TABLE ops.x (id int)",
    ):
        assert ask(host, "monitor", attempt).rc != 0
    assert ask(host, "monitor", "SHOW statement_timeout").stdout.strip() == "30s"


def test_celery_works_in_its_own_schema(host: Machine) -> None:
    assert ask(host, "celery", "SELECT current_schema").stdout.strip() == "celery"
    assert ask(host, "celery", "CREATE TABLE public.x (id int)").rc != 0


def test_hot_tables_have_their_storage_parameters(host: Machine) -> None:
    rows = superuser(
        host,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        " AND relname IN ('task_instance', 'dag_run', 'log', 'job') AND reloptions IS NOT NULL ORDER BY 1",
    )
    assert rows == ["dag_run", "job", "log", "task_instance"]


def test_session_log_names_login_application_and_host(host: Machine, wait_until: Callable[..., Any]) -> None:
    name = f"probe-{secrets.token_hex(4)}"
    login = scheduler_login(host)
    ask(host, login, "SELECT 1", PGAPPNAME=name)

    def ended() -> list[str]:
        lines: list[str] = host.run(f"grep {name} {LOG}").stdout.splitlines()
        return lines if any("disconnection: session time" in line for line in lines) else []

    begin, *_, end = wait_until(ended, deadline=5, what="the session's end in the log")
    assert f"connection authorized: user={login} database=airflow application_name={name}" in begin
    assert f"{login}@airflow app={name} host={address(host)}" in end


def test_log_and_statistics_carry_no_secret(host: Machine) -> None:
    logins = ["airflow", "celery", "ops", "monitor", "scheduler_sched1", "scheduler_sched2"]
    words = " ".join(f"-e {password(login)}" for login in logins)
    assert host.run(f"grep -c -F -e 'SCRAM-SHA-256$' {words} {LOG}").stdout.strip() == "0"
    assert superuser(host, "SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%SCRAM-SHA-256$4096%'") == ["0"]


def test_killed_server_is_back_within_seconds(host: Machine, wait_until: Callable[..., Any]) -> None:
    pid = host.check_output("head -n 1 /var/lib/postgresql/17/main/postmaster.pid")
    host.check_output(f"kill -KILL {pid}")
    wait_until(lambda: ask(host, "airflow", "SELECT 1").rc == 0, deadline=20, what="the server's return")
    assert host.check_output("head -n 1 /var/lib/postgresql/17/main/postmaster.pid") != pid


def _converge(**variables: str) -> None:
    extra = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    playbook = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [playbook, "-i", "inventories/lab", "site.yml", "--limit", "database", "--tags", "postgres,pgbouncer"]
    done = subprocess.run([*command, *extra], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_changed_password_is_applied_everywhere(host: Machine) -> None:
    changed = secrets.token_hex(16)
    try:
        _converge(postgres_monitor_password=changed, pgbouncer_monitor_password=changed)
        assert ask(host, "monitor", "SELECT 1", PGPASSWORD=changed).rc == 0
        assert ask(host, "monitor", "SHOW POOLS", PGPASSWORD=changed, PGPORT="6432", PGDATABASE="pgbouncer").rc == 0
        assert ask(host, "monitor", "SELECT 1").rc != 0
    finally:
        _converge()
    assert ask(host, "monitor", "SELECT 1").rc == 0
