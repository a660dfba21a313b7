"""Production and staging are complete: with the vault that `make vault` writes, every role gets what it requires.

What both have in common stands in inventories/shared alone.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PHRASE = "correct-horse-battery-staple"
NETWORKS = {"production": "10.20.", "staging": "10.21."}
GROUPS = ("lb", "database", "broker", "share", "web", "scheduler", "worker_cpu", "worker_memory", "worker_io")

Run = Callable[..., subprocess.CompletedProcess[str]]


def copied(environment: str, destination: Path) -> Path:
    """Return a copy of an environment, with what it links, without a vault."""
    ignore = shutil.ignore_patterns("vault.yml")
    for folder in ("wiring", "shared", environment):
        shutil.copytree(ROOT / "inventories" / folder, destination / folder, symlinks=True, ignore=ignore)
    return destination / environment


@pytest.fixture(scope="module", params=NETWORKS)
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(request.param, tmp_path_factory.mktemp("inventories"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    password = tmp_path_factory.mktemp("vault") / "password"
    password.write_text(f"{PHRASE}\n")

    def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STRATEGY": "linear"}
        settings["ANSIBLE_VAULT_PASSWORD_FILE"] = str(password)
        command = [str(Path(sys.executable).with_name(program)), *words]
        return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.fixture(scope="module")
def vault(environment: Path, run: Run) -> Path:
    key = f"airflow_dags_signing_key={environment.parent}/keys/release-signing"
    done = run("ansible-playbook", "-i", str(environment), "-e", key, "ansible/playbooks/create-vault.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert PHRASE not in done.stdout + done.stderr
    return environment / "group_vars/all/vault.yml"


def test_vault_is_encrypted_and_private(vault: Path) -> None:
    assert vault.read_text().startswith("$ANSIBLE_VAULT;")
    assert vault.stat().st_mode & 0o777 == 0o600


def test_vault_holds_a_strong_secret_of_its_own_for_every_name_that_is_used(vault: Path, run: Run) -> None:
    secrets = yaml.safe_load(run("ansible-vault", "view", str(vault)).stdout)
    wiring = "".join(path.read_text() for path in (ROOT / "inventories/wiring").glob("*.yml"))
    assert set(secrets) == set(re.findall(r"\bvault_\w+", wiring))
    schedulers = secrets.pop("vault_postgres_scheduler_passwords")
    keepers = secrets.pop("vault_postgres_keeper_passwords")
    assert set(schedulers) == set(keepers) == {"sched1", "sched2"}
    workers = secrets.pop("vault_rabbitmq_worker_passwords")
    assert set(workers) == {"cpu", "io", "memory"}
    values = [*secrets.values(), *schedulers.values(), *keepers.values(), *workers.values()]
    assert len(set(values)) == len(values)
    assert min(len(value) for value in values) >= 32


def test_key_that_signs_releases_is_made_outside_of_the_checkout(vault: Path, environment: Path) -> None:
    key = environment.parent / "keys/release-signing"
    assert key.stat().st_mode & 0o777 == 0o600
    named = yaml.safe_load(vault.with_name("release_signers.yml").read_text())["airflow_dags_signers"]
    assert named == [key.with_suffix(".pub").read_text().strip()]


def test_vault_that_exists_is_refused_and_left_alone(vault: Path, environment: Path, run: Run) -> None:
    before = vault.read_bytes()
    done = run("ansible-playbook", "-i", str(environment), "ansible/playbooks/create-vault.yml")
    assert done.returncode != 0
    assert "was left alone" in " ".join(done.stdout.split())
    assert vault.read_bytes() == before


def test_every_group_has_a_host_with_an_address(environment: Path, vault: Path, run: Run) -> None:
    assert vault.exists()
    listed = json.loads(run("ansible-inventory", "-i", str(environment), "--list").stdout)
    for group in GROUPS:
        assert listed[group]["hosts"], group
    addresses = [variables["ansible_host"] for variables in listed["_meta"]["hostvars"].values()]
    assert len(set(addresses)) == len(addresses)
    assert all(address.startswith(NETWORKS[environment.name]) for address in addresses)


def test_tasks_in_flight_are_no_more_than_the_workers_take(environment: Path, vault: Path, run: Run) -> None:
    assert vault.exists()
    listed = json.loads(run("ansible-inventory", "-i", str(environment), "--list").stdout)["_meta"]["hostvars"]
    slots = sum(variables.get("airflow_worker_concurrency", 0) for variables in listed.values())
    assert 0.8 * slots < listed["sched1"]["airflow_parallelism"] <= slots


def test_every_role_is_given_what_it_requires(environment: Path, vault: Path, run: Run) -> None:
    assert vault.exists()
    here = platform.freedesktop_os_release()
    # Only the roles' argument specs and the fleet's own checks, on this machine in place of each of the fleet's.
    overrides = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "preflight_distribution": here["ID"].capitalize(),
        "preflight_releases": [here["VERSION_ID"].split(".")[0]],
    }
    settings = ["--tags", "always", "-e", json.dumps(overrides)]
    done = run("ansible-playbook", "-i", str(environment), "ansible/playbooks/check-fleet.yml", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Validating arguments against arg spec 'preflight'") > 10


@pytest.mark.parametrize("question", ["--syntax-check", "--list-tasks"])
@pytest.mark.parametrize("name", NETWORKS)
def test_site_can_be_read_without_the_vault(tmp_path: Path, run: Run, name: str, question: str) -> None:
    done = run("ansible-playbook", "-i", str(copied(name, tmp_path)), "site.yml", question)
    assert done.returncode == 0, done.stdout + done.stderr


def settings(folder: Path) -> dict[tuple[str, str], Any]:
    """Return what stands in a folder of groups itself, not behind its links, by group and name."""
    files = [path for path in folder.glob("*/*.yml") if path.name != "vault.yml"]
    return {
        (path.parent.name, name): value
        for path in files
        for name, value in (yaml.safe_load(path.read_text()) or {}).items()
    }


def repeated(inventories: Path) -> list[str]:
    """Return the settings that two of production, staging and what they share hold with the same value."""
    held = {name: settings(inventories / name / "group_vars") for name in NETWORKS}
    held["shared"] = settings(inventories / "shared")
    return [
        f"{first} and {second}: {name} of {group}"
        for first, second in combinations(held, 2)
        for group, name in held[first].keys() & held[second].keys()
        if held[first][group, name] == held[second][group, name]
    ]


def test_setting_that_both_environments_have_stands_once() -> None:
    assert repeated(ROOT / "inventories") == []


def test_setting_that_stands_twice_is_found(tmp_path: Path) -> None:
    copied("production", tmp_path)
    shutil.copytree(ROOT / "inventories/staging", tmp_path / "staging", symlinks=True)
    shutil.copy(tmp_path / "production/group_vars/web/airflow_api_server.yml", tmp_path / "staging/group_vars/web/")
    shutil.copy(tmp_path / "shared/all/scheduler.yml", tmp_path / "staging/group_vars/all/")
    assert repeated(tmp_path) == [
        "production and staging: airflow_api_server_workers of web",
        "staging and shared: airflow_scheduler_mode of all",
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_environment_links_all_that_is_shared(name: str) -> None:
    groups = sorted(path.parent.name for path in (ROOT / "inventories/shared").glob("*/*.yml"))
    links = {group: ROOT / "inventories" / name / "group_vars" / group / "_shared" for group in groups}
    assert {group: link.resolve() for group, link in links.items()} == {
        group: ROOT / "inventories/shared" / group for group in groups
    }


def test_environment_that_differs_wins_over_what_is_shared(tmp_path: Path, run: Run) -> None:
    environment = copied("staging", tmp_path)
    (environment / "group_vars/worker/airflow_worker.yml").write_text("airflow_worker_drain_seconds: 7\n")
    host = json.loads(run("ansible-inventory", "-i", str(environment), "--host", "worker-cpu1").stdout)
    assert host["airflow_worker_drain_seconds"] == 7
