"""PostgreSQL's rendered files, and what its preflight refuses."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.config import plays

LAB_KEY = Path("/var/lib/airfleet/lab/ssh")
GOOD = "kR9vX2mQ7tLw4zBa"
SECRETS: dict[str, Any] = {
    "vault_postgres_airflow_password": f"{GOOD}1",
    "vault_postgres_celery_password": f"{GOOD}2",
    "vault_postgres_monitor_password": f"{GOOD}4",
    "vault_postgres_scheduler_passwords": {"sched1": f"{GOOD}5", "sched2": f"{GOOD}6"},
    "vault_postgres_keeper_passwords": {"sched1": f"{GOOD}7", "sched2": f"{GOOD}8"},
}
# The tests run here, where the inventory's address is not.
ADDRESS = {"postgres_listen_address": "{{ ansible_facts['all_ipv4_addresses'][0] }}"}
PREFLIGHT = {"name": "postgres", "tasks_from": "preflight.yml", "public": True}
FILES = ("airfleet.conf", "pg_hba.conf", "roles.sql", "database.sql")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("postgres")
    templates = [plays.template(f"roles/postgres/templates/{name}.j2", out / name) for name in FILES]
    preflight = {"ansible.builtin.include_role": PREFLIGHT}
    plays.run([plays.play("pg1", SECRETS | ADDRESS, plays.FACTS, preflight, *templates)], out)
    return {name: (out / name).read_text() for name in FILES}


def test_settings_are_accepted_by_the_server(rendered: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "airfleet.conf"
    config.write_text(rendered["airfleet.conf"])
    done = _check(config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "100"


def test_settings_checker_refuses_a_misspelt_setting(rendered: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "airfleet.conf"
    config.write_text(rendered["airfleet.conf"].replace("work_mem", "wokr_mem"))
    done = _check(config)
    assert done.returncode != 0
    assert "wokr_mem" in done.stderr


def _check(config: Path) -> "subprocess.CompletedProcess[str]":
    """Let the newest server at hand read `config`: the lab's, which is the one that will run it, or a local one."""
    lab = ["ssh", "-i", str(LAB_KEY / "id_ed25519"), "-o", f"UserKnownHostsFile={LAB_KEY / 'known_hosts'}"]
    lab += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "-o", "LogLevel=ERROR", "fleet@10.77.0.51"]
    read = "postgres -C max_connections -D /etc/postgresql --config-file"
    script = f"cat > /tmp/check.conf && /usr/lib/postgresql/17/bin/{read}=/tmp/check.conf"
    done = subprocess.run([*lab, script], input=config.read_text(), capture_output=True, text=True, check=False)
    if done.returncode not in (255, 127):
        return done
    local = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")), shutil.which("postgres")][0]
    if local is None:
        pytest.fail("neither the lab's database nor a local PostgreSQL server is there to read it: type make lab")
    command = [str(local), *read.split()[1:-1], f"--config-file={config}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hba_lets_each_login_in_from_the_machines_that_work_as_it(rendered: dict[str, str]) -> None:
    rules = [line.split() for line in rendered["pg_hba.conf"].splitlines() if line and not line.startswith("#")]
    remote = [rule for rule in rules if rule[0] == "host"]
    assert {rule[1] for rule in remote} == {"airflow"}
    # The first is the database's own machine, which is the tests' here.
    assert remote[0][2] == "airflow,celery,monitor"
    assert {rule[3].removesuffix("/32"): rule[2] for rule in remote[2:]} == {
        "10.77.0.31": '"scheduler_sched1","keeper_sched1"',
        "10.77.0.32": '"scheduler_sched2","keeper_sched2"',
    }
    assert remote[1][2:4] == ["airflow", "10.77.0.31/32"]
    assert {rule[-1] for rule in rules} == {"scram-sha-256", "peer"}
    assert [rule for rule in rules if rule[-1] == "peer"] == [
        ["local", "all", "postgres", "peer"],
        ["local", "airflow", "archive", "peer"],
    ]


def test_no_rendered_file_carries_a_password(rendered: dict[str, str]) -> None:
    assert [name for name, text in rendered.items() if GOOD in text] == []
    assert rendered["roles.sql"].count("SCRAM-SHA-256$4096:") == 7


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"vault_postgres_monitor_password": None}, "postgres_monitor_password (missing or empty)"),
    "default": ({"postgres_airflow_password": "changeme"}, "postgres_airflow_password (a default password)"),
    "short": ({"postgres_celery_password": "kR9vX2mQ"}, "postgres_celery_password (shorter than 16 characters)"),
    "scheduler": (
        {"vault_postgres_scheduler_passwords": {"sched1": f"{GOOD}5", "sched2": "postgres"}},
        "password of scheduler_sched2 (a default password)",
    ),
    "forgotten": (
        {"vault_postgres_scheduler_passwords": {"sched1": f"{GOOD}5"}},
        "password of scheduler_sched2 (missing or empty)",
    ),
    "keeper": (
        {"vault_postgres_keeper_passwords": {"sched2": f"{GOOD}8"}},
        "password of keeper_sched1 (missing or empty)",
    ),
    "wildcard": ({"postgres_listen_address": "0.0.0.0"}, "must be an address of this machine"),  # noqa: S104
    "network": ({"postgres_monitor_addresses": ["10.77.0.0/24"]}, "must be an address of this machine and postgres_"),
    "scheduler's": ({"postgres_scheduler_addresses": {"sched1": "sched1"}}, "sched1) single addresses"),
    "memory": ({"postgres_memory_mb": 512}, "postgres_max_connections is 100"),
    "disk": ({"postgres_disk_kind": "tape"}, "postgres_disk_kind tape"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cases = {name: SECRETS | ADDRESS | variables for name, (variables, _) in REFUSED.items()}
    return plays.refusals("pg1", "postgres", cases, tmp_path_factory.mktemp("preflight"))


@pytest.mark.parametrize("case", REFUSED)
def test_preflight_refuses_and_names_what_to_set(refusals: dict[str, str], case: str) -> None:
    assert REFUSED[case][1] in refusals[case]
    assert refusals[case].startswith("pg1: ")
    assert GOOD not in refusals[case]
