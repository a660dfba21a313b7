import json
from pathlib import Path

import pytest

from ops_cli.console.errors import OpsError
from ops_cli.fleet import inventory

HOSTS = "fleet: {children: {web: {hosts: {web1: {ansible_host: 10.0.0.1}}}}}\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "ansible.cfg").write_text("[defaults]\n")
    (tmp_path / "inventories/test/group_vars/all").mkdir(parents=True)
    (tmp_path / "inventories/test/hosts.yml").write_text(HOSTS)
    (tmp_path / "inventories/test/group_vars/all/vault.yml").write_text("vault_password: very-secret\n")
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count how often Ansible is asked; it is, the first time."""
    times: list[str] = []
    really = inventory._list  # noqa: SLF001

    def count(env: str, home: Path) -> dict[str, object]:
        times.append(env)
        return really(env, home)

    monkeypatch.setattr(inventory, "_list", count)
    return times


def cached(home: Path) -> Path:
    (path,) = (home / "cache/airfleet").iterdir()
    return path


def test_ansible_is_asked_once_and_the_answer_is_the_same(home: Path, asked: list[str]) -> None:
    first = inventory.load("test", home)
    assert inventory.load("test", home) == first
    assert asked == ["test"]
    assert cached(home).stat().st_mode & 0o777 == 0o600
    assert "very-secret" not in cached(home).read_text()


@pytest.mark.parametrize("changed", ["hosts.yml", "group_vars/all/vault.yml", "group_vars/all/new.yml"])
def test_changed_file_is_read_again(home: Path, asked: list[str], changed: str) -> None:
    inventory.load("test", home)
    path = home / "inventories/test" / changed
    path.write_text((path.read_text() if path.exists() else "") + "# changed\n")
    inventory.load("test", home)
    assert asked == ["test", "test"]


def test_changed_setting_of_ansible_is_read_again(
    home: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory.load("test", home)
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", "/nowhere")
    with pytest.raises(OpsError, match="/nowhere"):
        inventory.load("test", home)
    assert asked == ["test", "test"]


def test_inventory_with_a_script_is_asked_each_time(home: Path, asked: list[str]) -> None:
    script = home / "inventories/test/more"
    script.write_text("#!/bin/sh\necho '{}'\n")
    script.chmod(0o755)
    inventory.load("test", home)
    inventory.load("test", home)
    assert asked == ["test", "test"]


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"key": "x", "answer": 1}'])
def test_damaged_memory_is_no_answer(home: Path, asked: list[str], text: str) -> None:
    first = inventory.load("test", home)
    cached(home).write_text(text)
    assert inventory.load("test", home) == first
    assert asked == ["test", "test"]


def test_memory_that_others_may_write_is_no_answer(home: Path, asked: list[str]) -> None:
    first = inventory.load("test", home)
    kept = json.loads(cached(home).read_text())
    kept["answer"]["hosts"][0]["address"] = "192.0.2.66"
    cached(home).write_text(json.dumps(kept))
    cached(home).chmod(0o666)
    assert inventory.load("test", home) == first
    assert asked == ["test", "test"]
