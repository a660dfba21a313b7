"""The queues that the gate and `ops status` know are those that the workers serve, however the inventory says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("given", "queues"),
    [({}, ["cpu", "io", "memory"]), ({"airflow_worker_pool": "{{ names[0] }}", "names": ["gpu"]}, ["gpu"])],
)
def test_queues_are_resolved_by_ansible(root: Path, given: dict[str, object], queues: list[str]) -> None:
    ansible = Path(sys.executable).with_name("ansible")
    words = ["-i", "inventories/lab", "sched1", "-m", "ansible.builtin.debug", "-a", "var=ops_agent_queues"]
    done = subprocess.run(
        [ansible, *words, "-e", json.dumps(given)], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    assert [line.strip().removeprefix("- ") for line in done.stdout.splitlines()[2:]] == queues
