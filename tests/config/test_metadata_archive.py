"""What role metadata_archive renders, and what its preflight refuses."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.config import plays

LAB_KEY = Path("/var/lib/airfleet/lab/ssh")
PREFLIGHT = {"name": "metadata_archive", "tasks_from": "preflight.yml", "public": True}
FILES = {
    "archive.json": "roles/metadata_archive/templates/archive.json.j2",
    "policy.yml": "roles/metadata_archive/templates/policy.yml.j2",
    "tmpfiles.conf": "roles/metadata_archive/templates/tmpfiles.conf.j2",
    "metadata-vacuum.service": "systemd/metadata-vacuum.service.j2",
    "metadata-vacuum.timer": "systemd/metadata-vacuum.timer.j2",
}
S3 = {
    "metadata_archive_destination": "s3://bucket/production",
    "metadata_archive_environment": {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"},
}


def render(out: Path, **variables: Any) -> dict[str, str]:
    templates = [plays.template(path, out / name) for name, path in FILES.items()]
    plays.run([plays.play("pg1", variables, {"ansible.builtin.include_role": PREFLIGHT}, *templates)], out)
    return {name: (out / name).read_text() for name in FILES}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return render(tmp_path_factory.mktemp("local"), metadata_archive_destination="/srv/archive")


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    policy = {"retention": "30d", "dags": [{"dag": "audit_*", "retention": "never"}]}
    return render(tmp_path_factory.mktemp("remote"), metadata_archive_policy=policy, **S3)


def lab(command: str, text: str) -> "subprocess.CompletedProcess[str]":
    """Run a checker where the lab has it: on a machine of the fleet's release."""
    ssh = ["ssh", "-i", str(LAB_KEY / "id_ed25519"), "-o", f"UserKnownHostsFile={LAB_KEY / 'known_hosts'}"]
    ssh += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "-o", "LogLevel=ERROR", "fleet@10.77.0.51"]
    return subprocess.run([*ssh, command], input=text, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("unit", ["metadata-vacuum.service", "metadata-vacuum.timer"])
@pytest.mark.parametrize("where", ["local", "remote"])
def test_unit_is_accepted_by_systemd(request: pytest.FixtureRequest, unit: str, where: str) -> None:
    rendered = request.getfixturevalue(where)
    others = "".join(
        f"cat >$d/{name} <<'END'\n{rendered[name]}\nEND\n" for name in FILES if name.startswith("metadata-")
    )
    verify = f"d=$(mktemp -d) && {others} systemd-analyze verify $d/{unit} 2>&1; code=$?; rm -r $d; exit $code"
    done = lab(verify, "")
    assert (done.returncode, done.stdout) == (0, "")


def test_vacuum_runs_in_a_sandbox(local: dict[str, str]) -> None:
    rate = "systemd-analyze security --offline=true --threshold=30"
    command = f"trap 'rm $f' EXIT; f=$(mktemp --suffix=.service) && cat >$f && {rate} $f"
    done = lab(command, local["metadata-vacuum.service"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_vacuum_writes_where_archives_are_and_reaches_no_network_for_a_local_one(local: dict[str, str]) -> None:
    lines = local["metadata-vacuum.service"].splitlines()
    assert "ReadWritePaths=/var/lib/metadata-archive/state /srv/archive" in lines
    assert "RestrictAddressFamilies=AF_UNIX" in lines


def test_vacuum_reaches_the_network_for_an_object_store(remote: dict[str, str]) -> None:
    lines = remote["metadata-vacuum.service"].splitlines()
    assert "ReadWritePaths=/var/lib/metadata-archive/state" in lines
    assert "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6" in lines
    assert "s3:" not in remote["tmpfiles.conf"]


def test_lock_that_a_restore_holds_is_no_failure_of_the_night(local: dict[str, str]) -> None:
    assert "SuccessExitStatus=5" in local["metadata-vacuum.service"].splitlines()


def test_calendar_is_one_that_systemd_knows(local: dict[str, str]) -> None:
    calendar = next(line for line in local["metadata-vacuum.timer"].splitlines() if line.startswith("OnCalendar="))
    assert lab(f"systemd-analyze calendar '{calendar.removeprefix('OnCalendar=')}'", "").returncode == 0


def test_settings_say_where_and_with_what(remote: dict[str, str]) -> None:
    settings = json.loads(remote["archive.json"])
    assert settings["destination"] == "s3://bucket/production"
    assert settings["environment"] == S3["metadata_archive_environment"]
    assert settings["dsn"] == "host=/var/run/postgresql port=5432 dbname=airflow user=archive"


def test_policy_is_the_inventorys(local: dict[str, str], remote: dict[str, str]) -> None:
    assert yaml.safe_load(local["policy.yml"]) == {"retention": "90d"}
    assert yaml.safe_load(remote["policy.yml"])["dags"] == [{"dag": "audit_*", "retention": "never"}]


def test_preflight_refuses_what_cannot_work(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "relative": {"metadata_archive_destination": "archive"},
        "root": {"metadata_archive_destination": "/"},
        "keys": S3 | {"metadata_archive_environment": {}},
        "names": {"metadata_archive_environment": {"aws-key": "x"}},
        "policy": {"metadata_archive_policy": ["90d"]},
        "duration": {"metadata_archive_nightly_max_duration": "two hours"},
        "good": S3,
    }
    refused = plays.refusals("pg1", "metadata_archive", cases, tmp_path)
    assert refused.pop("good") == ""
    assert all("metadata_archive_" in text for text in refused.values()), refused
    assert "AWS_ACCESS_KEY_ID" in refused["keys"]
