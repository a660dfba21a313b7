"""The production example is complete: with the vault that `make vault` writes, every role gets what it requires."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PHRASE = "correct-horse-battery-staple"
GROUPS = ("lb", "database", "broker", "share", "web", "scheduler", "worker_cpu", "worker_memory", "worker_io")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of inventories/production without a vault."""
    copy = tmp_path_factory.mktemp("inventories")
    shutil.copytree(ROOT / "inventories/wiring", copy / "wiring")
    ignore = shutil.ignore_patterns("vault.yml")
    shutil.copytree(ROOT / "inventories/production", copy / "production", symlinks=True, ignore=ignore)
    return copy / "production"


@pytest.fixture(scope="module")
def run(environment: Path) -> Run:
    password = environment.parent / "password"
    password.write_text(f"{PHRASE}\n")

    def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STRATEGY": "linear"}
        settings["ANSIBLE_VAULT_PASSWORD_FILE"] = str(password)
        command = [str(Path(sys.executable).with_name(program)), *words]
        return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.fixture(scope="module")
def vault(environment: Path, run: Run) -> Path:
    done = run("ansible-playbook", "-i", str(environment), "ansible/playbooks/create-vault.yml")
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
    assert all(address.startswith("10.20.") for address in addresses)


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
def test_site_can_be_read_without_the_vault(tmp_path: Path, run: Run, question: str) -> None:
    shutil.copytree(ROOT / "inventories/wiring", tmp_path / "wiring")
    ignore = shutil.ignore_patterns("vault.yml")
    shutil.copytree(ROOT / "inventories/production", tmp_path / "production", symlinks=True, ignore=ignore)
    done = run("ansible-playbook", "-i", str(tmp_path / "production"), "site.yml", question)
    assert done.returncode == 0, done.stdout + done.stderr
