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
        f"inventories/{environment}",
        str(playbook),
    ]
    settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STRATEGY": "linear"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
