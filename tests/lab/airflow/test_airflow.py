"""What every Airflow host has: one environment, one configuration, a sandbox around each service."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://airflow"]

Machine = Callable[[str], Host]
ENVIRONMENTS = "/opt/airflow/envs"
MAX_EXPOSURE = 3.0


def is_worker(host: Host) -> bool:
    return bool(host.check_output("hostname").startswith("worker"))


def services(host: Host) -> list[str]:
    listing = host.check_output("systemctl list-unit-files --no-legend --plain 'airflow-*.service'")
    return [line.split()[0] for line in listing.splitlines()]


def test_environment_is_whole_and_current(host: Host) -> None:
    current = host.file("/opt/airflow/current")
    assert current.is_symlink
    manifest = json.loads(host.file(f"{current.linked_to}/manifest.json").content_string)
    assert current.linked_to == f"{ENVIRONMENTS}/{manifest['id']}"
    assert manifest["airflow"] == "3.3.2"
    assert host.check_output("/usr/local/bin/airflow version").splitlines()[-1] == "3.3.2"


def test_environment_is_the_same_on_every_host(host: Host, machine: Machine) -> None:
    digest = "cd /opt/airflow/current && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"
    assert host.check_output(digest) == machine("web1").check_output(digest)


def test_environment_cannot_be_changed_by_tasks(host: Host) -> None:
    assert host.check_output("find /opt/airflow ! -user root -o -perm /022 ! -type l | head -3") == ""


def test_half_unpacked_environments_leave_nothing_behind(host: Host) -> None:
    assert host.check_output(f"find {ENVIRONMENTS} -maxdepth 1 -name '.*' ! -name . ! -path {ENVIRONMENTS}") == ""
    assert len(host.check_output(f"ls {ENVIRONMENTS}").split()) <= 2


@pytest.mark.parametrize("name", ["airflow.cfg", "scheduler.env", "migrate.env"])
def test_secrets_are_for_root_and_airflow_alone(host: Host, name: str) -> None:
    file = host.file(f"/etc/airflow/{name}")
    if name != "airflow.cfg" and not file.exists:
        assert not host.check_output("hostname").startswith("sched1")
        return
    assert (file.user, file.group, file.mode) == ("root", "airflow", 0o640)


def test_metadata_login_is_where_it_is_needed_and_nowhere_else(host: Host) -> None:
    text = host.file("/etc/airflow/airflow.cfg").content_string
    expected = not is_worker(host)
    found = {name: f"{name} = " in text for name in ("sql_alchemy_conn", "fernet_key", "jwt_secret")}
    assert found == dict.fromkeys(found, expected)


def test_services_run_as_airflow(host: Host) -> None:
    for service in services(host):
        assert host.check_output(f"systemctl show -p User --value {service}") == "airflow"
    assert host.user("airflow").uid == 5000


def test_services_are_rated_3_or_lower(host: Host) -> None:
    assert services(host)
    for service in services(host):
        rating = host.check_output(f"systemd-analyze security --no-pager {service} | tail -1")
        exposure = re.search(r"exposure level for \S+: ([\d.]+)", rating)
        assert exposure, rating
        assert float(exposure[1]) <= MAX_EXPOSURE, rating


def test_running_services_were_started_from_their_present_text(host: Host) -> None:
    for service in services(host):
        if host.service(service).is_running:
            text = host.check_output(f"sha1sum /etc/systemd/system/{service}").split()[0]
            assert host.check_output(f"systemctl show -p StatusText --value {service}") == text


def test_logs_and_home_are_airflows_alone(host: Host) -> None:
    for path in ("/var/log/airflow", "/var/lib/airflow"):
        directory = host.file(path)
        assert (directory.user, directory.group, directory.mode) == ("airflow", "airflow", 0o750)


def test_database_is_at_the_schema_of_the_environment(machine: Machine) -> None:
    ask = "/opt/airflow/current/bin/python -m ops_airflow.schema state --environment-file=/etc/airflow/migrate.env"
    # The default pool is as large as the lab's airflow_parallelism.
    answer: dict[str, Any] = json.loads(machine("sched1").check_output(f"{ask} --admin=admin --slots=32"))
    assert answer == {"migrate": False, "create_admin": False, "size_pool": False}
