"""Workers that are due restart one host of each pool at a time, the pools side by side."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

POOLS = {"cpu1": "cpu", "cpu2": "cpu", "cpu3": "cpu", "io1": "io", "io2": "io", "mem1": "memory"}
NOT_DUE = "cpu2"


def _play(root: Path) -> str:
    """Return a play with the role's own rounds; what a restart does is only noted."""
    rounds = yaml.safe_load((root / "roles/airflow_worker/tasks/service.yml").read_text())[-1]
    due = {"ansible.builtin.set_fact": {"__airflow_worker_is_due": True}, "when": f"inventory_hostname != '{NOT_DUE}'"}
    files = {"vars_files": [str(root / "roles/airflow_worker/vars/main.yml")]}
    play = {"hosts": "all", "connection": "local", "gather_facts": False, "become": False, "tasks": [due, rounds]}
    return json.dumps([play | files])


def test_one_host_of_each_pool_restarts_at_a_time(root: Path, tmp_path: Path) -> None:
    hosts = {name: {"airflow_worker_pool": pool} for name, pool in POOLS.items()}
    log = tmp_path / "log"
    note = [
        {"name": word, "ansible.builtin.shell": f"echo {word} {{{{ inventory_hostname }}}} >>{log}"}
        for word in ("out", "back")
    ]
    (tmp_path / "restart.yml").write_text(json.dumps(note))
    (tmp_path / "play.yml").write_text(_play(root))
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "play.yml"]
    settings = os.environ | {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_STRATEGY": "linear"}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    out: set[str] = set()
    most: dict[str, int] = {}
    restarted = []
    for line in log.read_text().splitlines():
        word, host = line.split()
        out = out | {host} if word == "out" else out - {host}
        restarted += [host] if word == "out" else []
        for pool in set(POOLS.values()):
            most[pool] = max(most.get(pool, 0), sum(POOLS[name] == pool for name in out))
    assert sorted(restarted) == sorted(set(POOLS) - {NOT_DUE})
    assert most == {"cpu": 1, "io": 1, "memory": 1}
    # Side by side: one of each pool in one round, whichever of the two rounds Ansible takes first.
    assert {"cpu", "io", "memory"} in [{POOLS[host] for host in part} for part in (restarted[:3], restarted[-3:])]
