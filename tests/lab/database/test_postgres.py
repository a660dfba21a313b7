"""The database as it runs: logins, limits, log, and what happens when it dies."""

import json
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


def as_session(host: Machine, login: str, statements: str) -> list[str]:
    """Run statements as a login that comes in from its own host alone, without coming from there."""
    return superuser(host, f'SET SESSION AUTHORIZATION "{login}"; {statements}')


def scheduler_login(host: Machine) -> str:
    """Return the login of the scheduler that may write now: the lease decides which one that is."""
    return superuser(host, "SELECT 'scheduler_' || host FROM ops.lease_status WHERE writes")[0]


@pytest.mark.parametrize("login", ["airflow", "celery", "monitor"])
def test_login_reaches_database_airflow_and_no_other(host: Machine, login: str) -> None:
    assert ask(host, login, "SELECT current_user").stdout.strip() == login
    refused = ask(host, login, "SELECT 1", PGDATABASE="postgres")
    assert refused.rc != 0
    assert "no pg_hba.conf entry" in refused.stderr


def test_groups_of_every_login_are_these_and_no_more(host: Machine) -> None:
    rows = superuser(
        host,
        "SELECT rolname || ': ' || string_agg(roleid::regrole::text, ' ' ORDER BY roleid::regrole::text)"
        " FROM pg_auth_members JOIN pg_roles ON pg_roles.oid = member WHERE rolcanlogin GROUP BY rolname",
    )
    groups = dict(row.split(": ") for row in rows)
    schedulers = {name: groups.pop(name) for name in list(groups) if name.startswith("scheduler_")}
    assert set(schedulers.values()) == {"airflow"}
    assert groups == {
        "archive": "pg_maintain pg_monitor pg_read_all_data pg_write_all_data",
        "keeper_sched1": "keeper",
        "keeper_sched2": "keeper",
        "monitor": "pg_monitor",
    }


@pytest.mark.parametrize("login", ["celery", "keeper_sched1", "monitor"])
def test_login_has_no_right_on_any_of_airflows_tables(host: Machine, login: str) -> None:
    rows = superuser(
        host,
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'; SELECT relname"
        " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm') AND"
        # What an extension brings is everybody's by the extension's own grant.
        " NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e') AND ("
        f" has_any_column_privilege('{login}', oid, 'SELECT, INSERT, UPDATE, REFERENCES')"
        f" OR has_table_privilege('{login}', oid, 'DELETE, TRUNCATE, TRIGGER, MAINTAIN'))",
    )
    assert int(rows[0]) > 40
    assert rows[1:] == []


def test_nobody_but_the_keepers_and_the_superuser_may_change_the_lease(host: Machine) -> None:
    allowed = superuser(
        host,
        "SELECT DISTINCT rolname FROM pg_roles, pg_proc WHERE pronamespace = 'ops'::regnamespace AND rolcanlogin"
        " AND NOT rolsuper AND has_function_privilege(rolname, pg_proc.oid, 'EXECUTE') ORDER BY 1",
    )
    assert allowed == ["keeper_sched1", "keeper_sched2"]
    operators = "'hand_over', 'revoke_lease', 'waive_fence', 'suspend', 'shut', 'open'"
    assert superuser(
        host,
        "SELECT count(*) FROM pg_roles, pg_proc WHERE pronamespace = 'ops'::regnamespace AND rolcanlogin"
        f" AND NOT rolsuper AND proname IN ({operators}) AND has_function_privilege(rolname, pg_proc.oid, 'EXECUTE')",
    ) == ["0"]


# Asks the server, on each machine, whether it would let a login in from there: R asks for the password, E refuses.
KNOCK = """
import json, socket, struct, sys
found = {}
for port, database, login in json.loads(sys.argv[2]):
    words = f"user\\0{login}\\0database\\0{database}\\0\\0".encode()
    with socket.create_connection((sys.argv[1], port), timeout=10) as connection:
        connection.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
        found[f"{port} {login}"] = connection.recv(1) == b"R"
print(json.dumps(sorted(name for name, asked in found.items() if asked)))
"""
LOGINS = (
    "airflow",
    "celery",
    "monitor",
    "ops",
    "scheduler_sched1",
    "scheduler_sched2",
    "keeper_sched1",
    "keeper_sched2",
)
DOORS = [(5432, "airflow", login) for login in LOGINS]
DOORS += [(6432, "airflow", login) for login in ("airflow", "celery")] + [(6432, "pgbouncer", "monitor")]
WORKER, WEB = {"6432 celery"}, {"6432 airflow"}
OPEN: dict[str, set[str]] = {
    "lb1": set(),
    "mq1": set(),
    "nfs1": set(),
    "pg1": WEB | WORKER | {"5432 airflow", "5432 celery", "5432 monitor", "6432 monitor"},
    "web1": WEB,
    "web2": WEB,
    "web3": WEB,
    "sched1": WEB | WORKER | {"5432 airflow", "5432 scheduler_sched1", "5432 keeper_sched1"},
    "sched2": WEB | WORKER | {"5432 scheduler_sched2", "5432 keeper_sched2"},
    "worker-cpu1": WORKER,
    "worker-mem1": WORKER,
    "worker-io1": WORKER,
}


@pytest.mark.parametrize("name", OPEN)
def test_each_machine_may_come_in_as_what_it_works_as(
    host: Machine, machine: Callable[[str], Machine], name: str
) -> None:
    said = machine(name).check_output("python3 -c %s %s %s", KNOCK, address(host), json.dumps(DOORS))
    assert set(json.loads(said)) == OPEN[name]


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
        answer = as_session(
            host,
            scheduler_login(host),
            "INSERT INTO airfleet_probe VALUES (1), (2); UPDATE airfleet_probe SET id = 3 WHERE id = 1;"
            " DELETE FROM airfleet_probe WHERE id = 2; SELECT id FROM airfleet_probe",
        )
        assert answer == ["3"]
    finally:
        assert ask(host, "airflow", "DROP TABLE airfleet_probe").rc == 0


def test_scheduler_cannot_become_airflow_and_owns_nothing(host: Machine) -> None:
    with pytest.raises(AssertionError, match="permission denied"):
        as_session(host, scheduler_login(host), "SET ROLE airflow")
    owned = "SELECT relname FROM pg_class WHERE pg_get_userbyid(relowner) LIKE 'scheduler%'"
    assert superuser(host, owned) == []


def test_monitor_reads_statistics_and_cannot_write(host: Machine) -> None:
    assert ask(host, "monitor", "SELECT count(*) > 0 FROM pg_stat_statements").stdout.strip() == "t"
    assert ask(host, "monitor", "SELECT count(*) FROM ops.lease_status").stdout.strip() == "2"
    for table in ("connection", "variable", "session", "ab_user", "dag"):
        assert "permission denied" in ask(host, "monitor", f"SELECT * FROM {table}").stderr
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
    login = "airflow"
    ask(host, login, "SELECT 1", PGAPPNAME=name)

    def ended() -> list[str]:
        lines: list[str] = host.run(f"grep {name} {LOG}").stdout.splitlines()
        return lines if any("disconnection: session time" in line for line in lines) else []

    begin, *_, end = wait_until(ended, deadline=5, what="the session's end in the log")
    assert f"connection authorized: user={login} database=airflow application_name={name}" in begin
    assert f"{login}@airflow app={name} host={address(host)}" in end


def test_log_and_statistics_carry_no_secret(host: Machine) -> None:
    logins = ["airflow", "celery", "monitor", "scheduler_sched1", "scheduler_sched2"]
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
