"""PgBouncer's rendered files, and what its preflight refuses."""

import configparser
from pathlib import Path
from typing import Any

import pytest

from tests.config import plays

GOOD = "kR9vX2mQ7tLw4zBa"
SECRETS: dict[str, Any] = {
    "vault_postgres_airflow_password": f"{GOOD}1",
    "vault_postgres_celery_password": f"{GOOD}2",
    "vault_postgres_monitor_password": f"{GOOD}4",
}
# The tests run here, where the inventory's address is not.
ADDRESS = {"pgbouncer_listen_address": "{{ ansible_facts['all_ipv4_addresses'][0] }}"}
PREFLIGHT = {"name": "pgbouncer", "tasks_from": "preflight.yml", "public": True}
FILES = ("pgbouncer.ini", "listen.ini", "hba.conf", "userlist.txt")


def _render(out: Path, **variables: Any) -> dict[str, str]:
    templates = [plays.template(f"roles/pgbouncer/templates/{name}.j2", out / name) for name in FILES]
    preflight = {"ansible.builtin.include_role": PREFLIGHT}
    plays.run([plays.play("pg1", SECRETS | ADDRESS | variables, plays.FACTS, preflight, *templates)], out)
    return {name: (out / name).read_text() for name in FILES}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return _render(tmp_path_factory.mktemp("pgbouncer"))


def _ini(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=(";", "%"))
    parser.read_string(text)
    return parser


def _pools(text: str) -> list[int]:
    return [int(value.removeprefix("pool_size=")) for _, value in _ini(text).items("users")]


def test_pools_and_direct_sessions_fill_the_server_and_no_more(rendered: dict[str, str]) -> None:
    # 100 sessions in the lab, 2 schedulers of 20 and 20 others that connect directly
    assert 38 <= sum(_pools(rendered["pgbouncer.ini"])) <= 40


def test_pools_grow_with_the_server(tmp_path: Path) -> None:
    assert sum(_pools(_render(tmp_path, postgres_max_connections=300)["pgbouncer.ini"])) == 240


def test_pooling_is_by_transaction_and_keeps_prepared_statements(rendered: dict[str, str]) -> None:
    settings = _ini(rendered["pgbouncer.ini"])["pgbouncer"]
    assert settings["pool_mode"] == "transaction"
    assert int(settings["max_prepared_statements"]) > 0
    assert settings["auth_type"] == "hba"
    assert settings["admin_users"] == ""


def test_userlist_carries_verifiers_only(rendered: dict[str, str]) -> None:
    users = [line.split() for line in rendered["userlist.txt"].splitlines() if line.startswith('"')]
    assert [name for name, _ in users] == ['"airflow"', '"celery"', '"monitor"']
    assert all(secret.startswith('"SCRAM-SHA-256$4096:') for _, secret in users)
    assert [name for name, text in rendered.items() if GOOD in text] == []


def test_hba_lets_each_login_in_from_the_machines_that_work_as_it(rendered: dict[str, str]) -> None:
    rules = [line.split() for line in rendered["hba.conf"].splitlines() if line and not line.startswith("#")]
    assert {tuple(rule[:2]) for rule in rules if rule[2] != "monitor"} == {("host", "airflow")}
    assert all(rule[3].endswith("/32") and rule[4] == "scram-sha-256" for rule in rules)
    found = {login: {rule[3] for rule in rules if rule[2] == login} for login in ("airflow", "celery", "monitor")}
    # The database's own machine, which is the tests' here.
    [own] = found["monitor"]
    assert found["airflow"] - {own} == {f"10.77.0.{last}/32" for last in (21, 22, 23, 31, 32)}
    assert found["celery"] - {own} == {f"10.77.0.{last}/32" for last in (31, 32, 41, 42, 43)}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"pgbouncer_monitor_password": ""}, "pgbouncer_monitor_password (missing or empty)"),
    "default": ({"vault_postgres_celery_password": "changeme"}, "password of pooled user celery (a default password)"),
    "wildcard": ({"pgbouncer_listen_address": "0.0.0.0"}, "must be an address of this machine"),  # noqa: S104
    "network": ({"pgbouncer_monitor_addresses": ["0.0.0.0/0"]}, "0.0.0.0/0) single addresses"),
    "too much": ({"pgbouncer_pool_sizes": {"airflow": 30, "celery": 11}}, "max_connections of 100"),
    "nothing left": ({"postgres_max_connections": 60}, "max_connections of 60"),
    "no pool": ({"pgbouncer_pool_sizes": {"airflow": 30}}, "must name every user of pgbouncer_users"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cases = {name: SECRETS | ADDRESS | variables for name, (variables, _) in REFUSED.items()}
    return plays.refusals("pg1", "pgbouncer", cases, tmp_path_factory.mktemp("preflight"))


@pytest.mark.parametrize("case", REFUSED)
def test_preflight_refuses_and_names_what_to_set(refusals: dict[str, str], case: str) -> None:
    assert REFUSED[case][1] in refusals[case]
    assert refusals[case].startswith("pg1: ")
    assert GOOD not in refusals[case]
