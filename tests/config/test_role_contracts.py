"""What every role promises beyond its arguments: a preflight of its own, marked templates, short task files."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir())
# The lab's own roles build machines; they are not converged by site.yml.
FLEET_ROLES = [role for role in ROLES if not role.startswith("lab_")]
TASK_FILES = sorted(path for folder in ("tasks", "handlers") for path in ROOT.glob(f"roles/*/{folder}/*.yml"))
TEMPLATES = sorted(
    path
    for pattern in ("roles/*/templates/**/*.j2", "systemd/*.j2", "haproxy/*.j2", "inventories/**/*.template")
    for path in ROOT.glob(pattern)
)
# Parts of other templates, and what is fed to a program instead of being installed.
PARTS = set(
    re.findall(
        r"(?:include|import|from|lookup\('ansible\.builtin\.template',)\s*'(?:[^']*/)?([^'/]+)'",
        "".join(path.read_text() for path in [*TEMPLATES, *TASK_FILES]),
    )
)
INSTALLED = [path for path in TEMPLATES if path.name not in PARTS and ".json" not in path.suffixes]
SECRET = re.compile(r"(^|_)(password|passwords|secret|secrets|secret_key|fernet_key|cookie)$")


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def specs(role: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"])


def tasks(path: Path) -> list[dict[str, Any]]:
    """Return every task of a file, those inside blocks too."""
    found, queue = [], list(yaml.safe_load(path.read_text()) or [])
    while queue:
        task = queue.pop(0)
        found.append(task)
        for branch in ("block", "rescue", "always"):
            queue.extend(task.get(branch, []))
    return found


@pytest.mark.parametrize("role", FLEET_ROLES)
def test_role_has_a_preflight_that_takes_its_inputs(role: str) -> None:
    assert (ROOT / "roles" / role / "tasks/preflight.yml").is_file()
    entries = specs(role)
    assert "preflight" in entries, "without `preflight: *inputs` a missing input is found only after the first change"
    if role != "preflight":
        assert entries["preflight"] == entries["main"]


@pytest.mark.parametrize("role", FLEET_ROLES)
def test_preflight_changes_nothing(role: str) -> None:
    readers = {
        "assert",
        "block",
        "command",
        "debug",
        "fail",
        "find",
        "include_tasks",
        "set_fact",
        "setup",
        "slurp",
        "stat",
    }
    used = {
        key.removeprefix("ansible.builtin.")
        for task in tasks(ROOT / "roles" / role / "tasks/preflight.yml")
        for key in task
        if "." in key or key == "block"
    }
    assert used <= readers


@pytest.mark.parametrize("role", FLEET_ROLES)
def test_secret_inputs_are_never_printed(role: str) -> None:
    assert [name for entry in specs(role).values() for name in _printed_secrets(entry.get("options", {}))] == []


def _printed_secrets(options: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    for name, option in options.items():
        if not option.get("no_log"):
            found += [name] if SECRET.search(name) else _printed_secrets(option.get("options", {}))
    return found


@pytest.mark.parametrize("path", TASK_FILES, ids=label)
def test_task_file_is_short_and_knows_no_group(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    assert not re.search(r"\bignore_errors\b|\bgroups\s*[\[.]|\bgroup_names\b", text)


@pytest.mark.parametrize("path", INSTALLED, ids=label)
def test_template_says_who_manages_it(path: Path) -> None:
    first, *rest = path.read_text().splitlines()
    assert "ansible_managed" in (rest[0] if first.startswith("#!") else first)


def _roles_by_hosts(playbook: Path, part: str | None) -> set[tuple[str, str, tuple[str, ...]]]:
    """Name the hosts, role and tags of every task of a playbook that imports this part of a role, or all of it."""
    return {
        (play["hosts"], imported["name"], tuple(sorted(task["tags"])))
        for play in yaml.safe_load(playbook.read_text())
        for task in play.get("tasks", [])
        for imported in [task.get("ansible.builtin.import_role", {})]
        if imported and imported.get("tasks_from") == part and imported["name"] != "preflight"
    }


def test_every_role_of_the_site_is_checked_on_the_same_hosts_before_anything_changes() -> None:
    site = _roles_by_hosts(ROOT / "ansible/site.yml", None)
    assert site
    assert _roles_by_hosts(ROOT / "ansible/playbooks/check-fleet.yml", "preflight") == site


def test_every_role_belongs_to_the_site() -> None:
    used = {role for _, role, _ in _roles_by_hosts(ROOT / "ansible/site.yml", None)} | {"preflight"}
    assert set(FLEET_ROLES) == used
