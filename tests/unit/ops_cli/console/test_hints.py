"""No message names a command that would address another environment than the one it is about."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops_cli.console import hints
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host

VERBS = "status|validate|deploy|rollback|releases|failover|vacuum|archive|db"
OURS = re.compile(rf"\bops (?:{VERBS})\b")
ANSIBLES = re.compile(r"\bansible(?:-playbook|-inventory)?\b -|\bansible-playbook\b|\bsite\.yml\b")


def said(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module that are neither its documentation nor an option's help."""
    tree = ast.parse(path.read_text())
    silent = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "help":
            silent |= {inner for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
        elif isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(each.value) if isinstance(each, ast.Constant) else "_" for each in node.values),
            )
            silent |= {each for each in node.values if isinstance(each, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in silent:
            yield node.lineno, node.value


def test_messages_of_ops_take_their_commands_from_one_place(root: Path) -> None:
    found = [
        f"{path.name}:{line}: {text}"
        for path in sorted((root / "ops_cli").rglob("*.py"))
        if path.name != "hints.py"
        for line, text in said(path)
        if OURS.search(text) or ANSIBLES.search(text)
    ]
    assert found == []


def test_messages_of_the_agent_leave_room_for_the_environment(root: Path) -> None:
    found = [
        f"{path.name}:{line}: {text}"
        for package in ("ops_agent", "ops_airflow", "ops_release")
        for path in sorted((root / package).rglob("*.py"))
        for line, text in said(path)
        if "ansible-playbook" in text or any("--env ENV" not in text[match.start() :] for match in OURS.finditer(text))
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["roles", "ansible"])
def test_messages_of_plays_name_the_inventory(root: Path, folder: str) -> None:
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in sorted((root / folder).rglob("*.yml"))
        if path.parts[-2] not in {"meta", "defaults", "molecule"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if not line.lstrip().startswith("#") and not re.match(r"\s*(?:- )?name:", line)
        if OURS.search(line) or re.search(r"\bansible(?:-playbook)? -", line) or "ansible-playbook" in line
        if "inventory" not in line
    ]
    assert found == []


def test_commands_name_their_environment() -> None:
    assert hints.ops("prod", "failover", "--to", "sched 2") == "ops failover --env prod --to 'sched 2'"
    assert hints.playbook("prod", "--tags x") == ".venv/bin/ansible-playbook -i inventories/prod site.yml --tags x"
    for command in (hints.on_hosts("prod", "web1", "uptime"), hints.ping("prod", "web1"), hints.listing("prod")):
        assert " -i inventories/prod " in command


def test_what_the_agent_says_is_given_the_environment() -> None:
    host = Host("pg1", "10.0.0.1", "database", env="prod")
    error = RemoteError(host, 1, "type ops archive prune --env ENV to finish that")
    assert str(error) == "pg1: type ops archive prune --env prod to finish that"
