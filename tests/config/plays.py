"""Run plays against an inventory's variables, on this machine alone: no host of the inventory is touched."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HERE = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
FACTS = {"ansible.builtin.setup": {"gather_subset": ["!all", "!min", "hardware", "network"]}}


def play(host: str, variables: dict[str, Any], *tasks: dict[str, Any]) -> dict[str, Any]:
    return {"hosts": host, "gather_facts": False, "vars": HERE | variables, "tasks": list(tasks)}


def write(text: str, destination: Path) -> dict[str, Any]:
    return {"ansible.builtin.copy": {"content": text, "dest": str(destination), "mode": "0600"}, "no_log": True}


def template(path: str, destination: Path) -> dict[str, Any]:
    return write(f"{{{{ lookup('ansible.builtin.template', '{ROOT / path}') }}}}", destination)


def run(plays: list[dict[str, Any]], directory: Path, environment: str = "lab") -> None:
    """Run `plays`; a task that fails outside a rescue fails the test with Ansible's own words."""
    playbook = directory / "playbook.yml"
    playbook.write_text(yaml.safe_dump(plays, sort_keys=False))
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        "-i",
        str(ROOT / "inventories" / environment),
        str(playbook),
    ]
    settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STRATEGY": "linear"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def refusals(host: str, role: str, cases: dict[str, dict[str, Any]], directory: Path) -> dict[str, str]:
    """Run a role's preflight once a case with that case's variables; return what it refused, "" where it passed."""
    # With its suffix, so that Ansible does not validate the arguments first and the role's own words are read.
    preflight = {"ansible.builtin.include_role": {"name": role, "tasks_from": "preflight.yml", "public": True}}
    caught = [
        play(
            host,
            variables,
            FACTS,
            {"block": [preflight], "rescue": [write("{{ ansible_failed_result.msg }}", directory / name)]},
        )
        for name, variables in cases.items()
    ]
    run(caught, directory)
    return {name: (directory / name).read_text() if (directory / name).exists() else "" for name in cases}
