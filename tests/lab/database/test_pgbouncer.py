"""The pooler as it runs: who gets in, what is pooled, what survives."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host as Machine

from tests.lab.database.sql import address, ask, password, superuser

testinfra_hosts = ["ansible://database"]

PREPARED = """
import asyncio, sys, asyncpg
async def main():
    connections = [await asyncpg.connect(sys.argv[1]) for _ in range(4)]
    statements = [await connection.prepare('SELECT $1::int + %d' % n) for n, connection in enumerate(connections)]
    for _ in range(25):
        answers = await asyncio.gather(*(statement.fetchval(10) for statement in statements))
        assert answers == [10, 11, 12, 13], answers
    print('prepared')
asyncio.run(main())
"""


def pooled(host: Machine, login: str, statements: str, **options: str) -> Any:
    return ask(host, login, statements, **{"PGPORT": "6432"} | options)


def test_pooler_runs_now_and_at_boot(host: Machine) -> None:
    assert host.service("pgbouncer").is_running
    assert host.service("pgbouncer").is_enabled


def test_pooler_listens_on_its_own_address_only(host: Machine) -> None:
    listening = {name.removeprefix("tcp://") for name in host.socket.get_listening_sockets() if name.endswith(":6432")}
    assert listening == {f"{address(host)}:6432"}


@pytest.mark.parametrize("name", ["userlist.txt", "hba.conf", "listen.ini", "pgbouncer.ini"])
def test_file_is_readable_by_the_service_alone(host: Machine, name: str) -> None:
    found = host.file(f"/etc/pgbouncer/{name}")
    assert (found.user, found.group, found.mode) == ("root", "postgres", 0o640)


@pytest.mark.parametrize(("login", "schema"), [("airflow", "public"), ("celery", "celery")])
def test_login_works_through_the_pooler(host: Machine, login: str, schema: str) -> None:
    assert pooled(host, login, "SELECT current_user, current_schema").stdout.strip() == f"{login}|{schema}"


@pytest.mark.parametrize("login", ["monitor", "scheduler_sched1"])
def test_login_that_belongs_on_the_server_is_refused(host: Machine, login: str) -> None:
    assert pooled(host, login, "SELECT 1").rc != 0


def test_login_with_a_wrong_password_is_refused(host: Machine) -> None:
    assert pooled(host, "airflow", "SELECT 1", PGPASSWORD="wrong").rc != 0


def test_pooling_is_by_transaction(host: Machine) -> None:
    pooled(host, "airflow", "SELECT 1")
    pools = pooled(host, "monitor", "SHOW POOLS", PGDATABASE="pgbouncer").stdout.splitlines()
    assert [line for line in pools if line.startswith("airflow|airflow|") and "|transaction|" in line]


def test_monitor_reads_statistics_and_commands_nothing(host: Machine) -> None:
    assert "airflow|" in pooled(host, "monitor", "SHOW STATS", PGDATABASE="pgbouncer").stdout
    assert "admin access needed" in pooled(host, "monitor", "PAUSE", PGDATABASE="pgbouncer").stderr


def test_pools_leave_the_server_its_direct_sessions(host: Machine) -> None:
    users = pooled(host, "monitor", "SHOW USERS", PGDATABASE="pgbouncer").stdout.splitlines()
    pools = [int(fields[1]) for fields in (line.split("|") for line in users) if fields[0] in ("airflow", "celery")]
    assert len(pools) == 2
    assert sum(pools) + 60 <= int(superuser(host, "SHOW max_connections")[0])


def test_server_sees_the_application_and_address_behind_the_pooler(host: Machine) -> None:
    name = f"probe-{secrets.token_hex(4)}"
    seen = pooled(host, "airflow", "SHOW application_name", PGAPPNAME=name).stdout
    assert seen.startswith(f"{name} - {address(host)}:")


def test_prepared_statements_follow_their_client_from_session_to_session(machine: Callable[[str], Machine]) -> None:
    api_server = machine("web1")
    database = f"postgresql://airflow:{password('airflow')}@pg1:6432/airflow"
    done = api_server.run("/opt/airflow/current/bin/python -c %s %s", PREPARED, database)
    assert (done.rc, done.stdout.strip()) == (0, "prepared"), done.stderr


def test_clients_outlive_a_restart_of_the_server(host: Machine, wait_until: Callable[..., Any]) -> None:
    """A query that comes while the server restarts waits for it instead of failing."""
    host.check_output("systemctl restart --no-block postgresql@17-main")
    # The first may be on a session that the restart ends; the next one must wait.
    wait_until(lambda: pooled(host, "celery", "SELECT 1").rc == 0, deadline=20, what="an answer")
    wait_until(lambda: host.service("postgresql@17-main").is_running, deadline=20, what="the unit's start")


def test_killed_pooler_is_back_within_seconds(host: Machine, wait_until: Callable[..., Any]) -> None:
    host.check_output("systemctl kill --signal=KILL pgbouncer")
    wait_until(lambda: pooled(host, "airflow", "SELECT 1").rc == 0, deadline=10, what="the pooler's return")
